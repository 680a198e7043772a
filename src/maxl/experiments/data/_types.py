"""What every data set becomes: tensors decoded once, with their labels' names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maxl.experiments.data._columns import Columns
from maxl.experiments.data._features import TextFeatures
from maxl.experiments.data._image_transform import ImageTransform
from maxl.experiments.data._mixed import MixedShape, image_shape
from maxl.experiments.data._streamed import Samples, StreamedSamples
from maxl.experiments.data._tokens import Tokens


@dataclass(frozen=True)
class Split:
    """One part of a data set (training, validation or test), decoded once or whenever it is asked for.

    Attributes:
        x: Images as uint8, shape (N, C, H, W), or features as float32, shape (N, D): a tensor, or what reads such from
            disk. Or texts as tokens, int32 or int64 of shape (N, L), ``NO_TOKEN`` behind their ends.
        primary: Classes, int64 of shape (N,); of several labels 0 or 1, int64 of shape (N, C); numbers to predict,
            standardised, float32 of shape (N, D); a class for each pixel, int64 of shape (N, H, W), -100 for none.
        human: Finer human labels, int64, shape (N,), or None where the data set has none.
        probe: Labels that nothing trains on and structure is measured by, int64, shape (N,); None where none are asked
            for.
        trusted: Bool, shape (N,): whose labels can be trusted where others may be wrong; None where nobody said.
        rows: Where each sample stands in that part of the data's source, int64, shape (N,); None where nobody said.
        columns: Features of the columns that stand beside the images, float32, shape (N, D); None where there are none.
    """

    x: Samples
    primary: Tensor
    human: Tensor | None = None
    probe: Tensor | None = None
    rows: Tensor | None = None
    trusted: Tensor | None = None
    columns: Tensor | None = None

    def __post_init__(self) -> None:
        kinds = {4: (torch.uint8,), 2: (torch.float32, torch.int32, torch.int64)}
        if self.x.dtype not in kinds.get(self.x.ndim, ()):
            raise ValueError(
                "Split.x must be uint8 images (N, C, H, W), float32 features (N, D) or whole numbers of tokens (N, L); "
                f"got {self.x.dtype} of shape {tuple(self.x.shape)}"
            )
        for name, labels in (
            ("primary", self.primary),
            ("human", self.human),
            ("probe", self.probe),
            ("rows", self.rows),
        ):
            if labels is None or (labels.dtype == torch.int64 and labels.shape == self.x.shape[:1]):
                continue
            columns = labels.dim() == 2 and len(labels) == len(self.x)
            masks = self.x.ndim == 4 and labels.shape == (len(self.x), *self.x.shape[2:])
            if name == "primary" and masks and labels.dtype == torch.int64:
                continue
            if name != "primary" or not columns or labels.dtype not in (torch.int64, torch.float32):
                raise ValueError(
                    f"Split.{name} must be int64 of shape ({len(self.x)},), one label a sample; "
                    f"got {labels.dtype} of shape {tuple(labels.shape)}"
                )

        if self.trusted is not None and (
            self.trusted.dtype != torch.bool or self.trusted.shape != self.x.shape[:1]
        ):
            raise ValueError(
                f"Split.trusted must be bool of shape ({len(self.x)},); got {self.trusted.dtype} of shape "
                f"{tuple(self.trusted.shape)}"
            )
        if self.columns is not None and not (
            self.x.ndim == 4
            and self.columns.dtype == torch.float32
            and self.columns.dim() == 2
            and len(self.columns) == len(self.x)
        ):
            raise ValueError(
                f"Split.columns must be float32 of shape ({len(self.x)}, D), beside images; got {self.columns.dtype} of shape "
                f"{tuple(self.columns.shape)} beside samples of shape {tuple(self.x.shape)}"
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def strata(self) -> Tensor:
        """What draws keep in proportion, int64 of shape (N,), which are classes or else all alike."""
        return self.primary if self.primary.dim() == 1 else torch.zeros(len(self), dtype=torch.int64)

    def select(self, index: Tensor) -> Split:
        """The samples at `index` (int64 positions or a bool mask), as a new split; streamed ones stay unread."""
        x = self.x.select(index) if isinstance(self.x, StreamedSamples) else self.x[index]
        return self._with(x, lambda labels: labels[index])

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on `device`; nothing is copied if they are there already, or streamed."""
        x = self.x if isinstance(self.x, StreamedSamples) else self.x.to(device)
        return self._with(x, lambda labels: labels.to(device))

    def _with(self, x: Samples, do: Callable[[Tensor], Tensor]) -> Split:
        rest = (
            None if part is None else do(part)
            for part in (self.human, self.probe, self.rows, self.trusted, self.columns)
        )
        return Split(x, do(self.primary), *rest)


@dataclass(frozen=True)
class Features:
    """Columns of numbers, and how they were standardised: (x - mean) / std; D values each."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def standardise(self, values: Tensor) -> Tensor:
        """Values (N, D), float64, as float32 ones with the mean 0 and standard deviation 1 where these come from."""
        mean, std = (torch.tensor(of, dtype=torch.float64) for of in (self.mean, self.std))
        return ((values - mean) / std).float()


@dataclass(frozen=True)
class DataSet:
    """A data set ready to train on.

    Attributes:
        name: The name it was loaded by.
        train, validation, test: Its parts; validation is None unless one was asked for.
        primary_names: One name a primary class, so its length is the number of classes; one a label, or one a
            number to predict, where the task is another.
        human_names, probe_names: The same for the finer human labels and those of the probe, or None.
        mean, std: One value a channel. Pixels in [0, 1] become (x - mean) / std; features are
            standardised at loading time and carry mean 0, std 1.
        augment: Whether training should crop at random (by default colour photographs alone; never features).
        flip: Whether augmentation may also mirror left to right. False where a mirror image is another
            class or none, as with the house numbers of SVHN.
        transform: What else changes training images at random, before crops and flips; None for nothing.
        features: Where numeric features came from; None for images and text.
        text: How features were made of texts; None for anything else.
        tokens: How texts became tokens; None for anything else.
        columns: How features were made of a table's columns of several kinds, or of those beside images; None for
            anything else.
        image_column: The column of a table that holds its images; None for anything else.
        task: "classification", "multi-label", "regression" or "segmentation".
        targets: Where the numbers of a regression came from; None for another task.
        saw: What columns hold and what they were taken for, in lines, and how a test part was cut;
            "" where all was given.
        label_separator: What parts the labels in a cell of the data, ";", "|" or ","; None where nothing does.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    primary_names: tuple[str, ...]
    human_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool
    flip: bool = True
    features: Features | None = None
    text: TextFeatures | None = None
    columns: Columns | None = None
    image_column: str | None = None
    task: str = "classification"
    targets: Features | None = None
    saw: str = ""
    probe_names: tuple[str, ...] | None = None
    transform: ImageTransform | None = None
    tokens: Tokens | None = None
    label_separator: str | None = None

    @property
    def num_primary(self) -> int:
        """The number of primary classes, C."""
        return len(self.primary_names)

    @property
    def num_human(self) -> int | None:
        """The number of human auxiliary classes, or None where there are none."""
        return None if self.human_names is None else len(self.human_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W) for images, (D,) for features, (L,) for texts as tokens; of images beside
        columns a ``MixedShape``.
        """
        shape = tuple(self.train.x.shape[1:])
        if self.train.columns is None:
            return shape
        return MixedShape(self.train.columns.shape[1], (shape[0], shape[1], shape[2]))

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images, alone or beside columns; None for features."""
        return image_shape(self.input_shape)
