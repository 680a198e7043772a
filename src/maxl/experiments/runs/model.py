"""A run's trunk and primary head as one module, from what the run's folder holds."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from maxl.experiments.data import NO_TOKEN, Features, MixedShape, Tokens, beside, image_shape, normalise
from maxl.experiments.runs import trunks
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import stored_tokens
from maxl.experiments.runs.known_outputs import require_known
from maxl.experiments.runs.measures import task_of
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.experiments.runs.networks import seeded
from maxl.experiments.runs.summary import require_model, shape_of
from maxl.networks import head
from maxl.trunks import infer_feature_dim


class PrimaryModel(nn.Module):
    """Trunk and primary head; no auxiliary part is left.

    Args:
        trunk: From normalised inputs to features (N, D).
        primary_head: From features to outputs (N, C).
        primary_names: The C names of the classes, of the labels, or of the numbers to predict.
        input_shape: Shape of one input: (channels, height, width), (D,) for features, or (L,) for tokens; of images beside
            columns a ``MixedShape``.
        mean, std: The run's normalisation, one value a channel, on the scale where white is 1; or one value a
            feature.
        feature_names: The columns of numeric features; None for anything else.
        task: "classification", "multi-label" or "regression".
        target_mean, target_std: What outputs of a regression are in its targets' units: output · std + mean.

    Attributes:
        tokens: Of a run on texts as tokens: what makes them of texts, called with a list of these; else None.
    """

    tokens: Tokens | None = None

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        primary_head: nn.Module,
        *,
        primary_names: tuple[str, ...],
        input_shape: tuple[int, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        feature_names: tuple[str, ...] | None = None,
        task: str = "classification",
        target_mean: tuple[float, ...] = (0.0,),
        target_std: tuple[float, ...] = (1.0,),
    ) -> None:
        super().__init__()
        self.task = task
        self.trunk = trunk
        self.primary_head = primary_head
        self.primary_names = primary_names
        self.input_shape = input_shape
        self.feature_names = feature_names
        shape = (-1, *[1] * (len(image_shape(input_shape) or input_shape) - 1))
        # Float32 has seven digits: of a column of Unix seconds it would keep the day and lose the hour.
        dtype = torch.float32 if feature_names is None else torch.float64
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=dtype).view(shape), persistent=False)
        for name, values in (("target_mean", target_mean), ("target_std", target_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    @classmethod
    def of_run(cls, run: Path, *, trust: bool = False) -> Self:
        """The model of a finished run; arguments and errors as for ``load_model``."""
        folder = RunFolder(run)
        if not folder.started:
            raise ValueError(f"a model comes from the folder of a run; {run} holds none")
        if not folder.finished and folder.diverged:
            raise ValueError(
                f"a model comes from a finished run; {run} {folder.read_divergence()}: train anew with other settings"
            )
        if not folder.finished:
            raise ValueError(
                f"a model comes from a finished run; {run} is not: continue it with maxl train --resume {run}"
            )
        summary, config = folder.read_summary(), folder.read_config(trust=trust)
        require_model(summary, folder.summary)
        shape = shape_of(summary)
        features, targets = summary.get("features"), summary.get("targets")
        if folder.architecture.is_file():
            folder.verify(folder.architecture, summary)
        words = dataclasses.replace(trunks.Words.of(config), architecture=folder.read_architecture())
        with seeded(config.seed, 0):  # as for training: what a trunk draws need not be part of its state
            trunk = trunks.build_for(config.trunk, task_of(summary), shape, words)
            width = infer_feature_dim(trunk)
            assert width is not None  # every trunk that is built by name states it
            primary_head = head(width, len(summary["primary_names"]))
        model = cls(
            trunk,
            primary_head,
            primary_names=tuple(summary["primary_names"]),
            input_shape=shape,
            mean=tuple((features or summary)["mean"]),
            std=tuple((features or summary)["std"]),
            feature_names=features and tuple(features["names"]),
            task=task_of(summary),
            **{f"target_{name}": tuple(targets[name]) for name in ("mean", "std") if targets},
        )
        model.tokens = stored_tokens(folder)
        folder.verify(folder.model, summary)
        _load_weights(model, folder.model)
        require_known(model.trunk, model.primary_head, shape, {**summary, "precision": config.precision}, run)
        return model.eval()

    @property
    def takes_images(self) -> bool:
        """Whether inputs are images, and nothing beside them."""
        return len(self.input_shape) == 3

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of images, alone or beside columns; None where inputs have none."""
        return image_shape(self.input_shape)

    @property
    def target_scale(self) -> Features | None:
        """How the numbers of a regression were standardised; None for another task."""
        if self.task != "regression":
            return None
        mean, std = self.target_mean.tolist(), self.target_std.tolist()
        return Features(self.primary_names, tuple(mean), tuple(std))

    def forward(self, x: Tensor) -> Tensor:
        """Primary outputs, shape (N, C), of segmentation (N, C, H, W): logits, float32, or numbers in their units, float64.

        Args:
            x: Images of shape ``(N, *input_shape)``, uint8 or floats in [0, 1], or numeric features, float64, as they
                stand in the table: both are normalised here. Features of text as the run's data set gives them, or tokens
                of texts, whole numbers, as ``tokens`` gives them. Of images beside columns the features of the columns,
                as the data set gives them, and then the pixels in [0, 1].

        Raises:
            ValueError: if the samples have another shape or kind than the run's.
        """
        return self.in_units(self.outputs(self.normalise(x)))

    def outputs(self, x: Tensor) -> Tensor:
        """Of trunk and head, (N, C) or (N, C, H, W), from what the trunk takes."""
        features: Tensor = self.trunk(x)
        if self.task != "segmentation":
            outputs: Tensor = self.primary_head(features)
            return outputs
        return self.primary_head(features.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs of the head as those of ``forward``; both on the device of the model's buffers."""
        return outputs if self.task != "regression" else outputs.double() * self.target_std + self.target_mean

    def normalise(self, x: Tensor) -> Tensor:
        """What the trunk takes, float32 or tokens, from what ``forward`` does."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(
                f"samples need the run's shape (N, {', '.join(map(str, self.input_shape))}); "
                f"got {tuple(x.shape)}"
            )
        if isinstance(self.input_shape, MixedShape):
            if not x.is_floating_point():
                raise ValueError(
                    f"features of columns and pixels in [0, 1] need to be floats; got {x.dtype}: divide pixels by 255"
                )
            shape = self.input_shape
            columns, pixels = x[:, : shape.columns], x[:, shape.columns :]
            images = pixels.reshape(x.shape[0], *shape.image)
            return beside(columns.float(), ((images - self.mean) / self.std).float())
        if self.tokens is not None:
            return self._checked_tokens(x, self.tokens.kinds)
        if self.takes_images and x.dtype == torch.uint8:
            return normalise(x, self.mean.flatten().tolist(), self.std.flatten().tolist())
        whole = self.feature_names is not None and not x.is_complex() and x.dtype != torch.bool
        if not x.is_floating_point() and not whole:
            kind = "images need to be uint8, or floats" if self.takes_images else "features need to be floats"
            raise ValueError(f"{kind}; got {x.dtype}: convert them, pixels to lie in [0, 1]")
        return ((x - self.mean) / self.std).float()  # features of text: by 0 and 1

    def _checked_tokens(self, x: Tensor, kinds: int) -> Tensor:
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"tokens are whole numbers, as model.tokens makes them of texts; got {x.dtype}")
        if not torch.compiler.is_compiling() and len(x):  # an exported program asks nothing of its inputs
            least, most = int(x.min()), int(x.max())
            if least < NO_TOKEN or most >= kinds:
                raise ValueError(
                    f"tokens are numbers from {NO_TOKEN} to {kinds - 1}, as model.tokens makes them of texts; got {least} to {most}"
                )
        return x

    def normalise_beside(self, columns: Tensor, images: Tensor) -> Tensor:
        """What the trunk takes of images beside columns, float32, to the bits of training.

        Args:
            columns: Their features, (N, D), as the data set gives them.
            images: uint8, (N, C, H, W).
        """
        return beside(columns, normalise(images, self.mean.flatten().tolist(), self.std.flatten().tolist()))


def load_model(run: Path, *, trust: bool = False) -> PrimaryModel:
    """The model of a finished run, in eval mode on the CPU; auxiliary heads are not built.

    Args:
        run: Folder of the run.
        trust: Call a trunk ``module:function`` that the folder's config names.

    Raises:
        ValueError: if the folder holds no run, an unfinished or a damaged one, or names code and is not trusted; or if the
            trunk is not what was trained, by its outputs on fixed inputs.
    """
    return PrimaryModel.of_run(run, trust=trust)


def warn_of_batches(model: PrimaryModel) -> None:
    """Says so where outputs depend on the other samples of a batch."""
    for name, module in model.trunk.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            warnings.warn(
                f"the trunk normalises by the batch that a sample comes in ({name} keeps no running statistics): outputs for a "
                "sample depend on the others",
                RunWarning,
                stacklevel=3,
            )
            return


def _load_weights(model: nn.Module, path: Path) -> None:
    """ValueError unless a file holds the weights of a model, finite and of its shapes and kinds."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path} needs to be a file; it is missing: train the run again")
    try:
        weights = load_file(path)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold the weights of the run's model: {reason[:200]}") from error
    for name, expected in model.state_dict().items():
        if weights[name].dtype != expected.dtype or not bool(weights[name].isfinite().all()):
            raise ValueError(f"{path} needs finite weights of kind {expected.dtype}; {name} has others")
