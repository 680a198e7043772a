"""`load`: a data set by name, with the rows asked for and nothing more decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data._columns import Columns
from maxl.experiments.data._features import Standardise, TextFeatures
from maxl.experiments.data._images import to_channels
from maxl.experiments.data._labels import check_column, check_every_class, check_refines, encode
from maxl.experiments.data._open import open_source
from maxl.experiments.data._select import TEST_SEED, balanced_order, cut_test, draw, resolve_size
from maxl.experiments.data._source import IntArray, Part, Raw, Source, Transform, Wanted
from maxl.experiments.data._targets import (
    TASKS,
    Encoded,
    TargetArray,
    check_judgeable,
    encode_targets,
    strata,
)
from maxl.experiments.data._types import DataSet, Features, Split
from maxl.presets import check_choice

PIXEL_MEAN, PIXEL_STD = 0.5, 0.2  # the paper's normalisation, of pixels in [0, 1]


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    primary: str | Sequence[str] | None = None,
    human: str | None = None,
    probe: str | None = None,
    task: str = "auto",
    train_size: int | float | None = None,
    validation_size: int | float = 0,
    seed: int = 0,
    image_size: int | None = None,
    ignore_index: int = 255,
    drop: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
) -> DataSet:
    """Load a data set by name.

    | name | what | labels |
    |---|---|---|
    | digits | scikit-learn's 8x8 digits, needs no files | label |
    | mnist, cifar10, svhn | from the hub, or from `data_dir` | label |
    | cifar100 | the same | coarse_label (20) over fine_label (100); also level_10 and level_3 |
    | cinic10, imagenet32, ucf101 | from `data_dir` | class; label; class |
    | clinc150 | text as TF-IDF features, from `data_dir` | domain (10) over intent (150) |
    | a folder | images in one subfolder a class; or train and test tables | class, subclass; any column |
    | a folder with images and masks | files of the same names; or both below train, test and validation | mask |
    | a .csv or .parquet file | a column of images, one of text, or columns of any kind | any column |
    | hf:owner/name or hf:owner/name:config | a data set of the hub with such columns | any column |

    CSV files are UTF-8 with commas and a header line. A part of a folder is one table or its numbered pieces,
    train-00000-of-00002 and so on. Of a folder of images regular files count that are not hidden. Whatever could
    be read in two ways is refused: class names that differ between parts, one class in two spellings.

    The training part is cut in this order: first the validation part is set aside, then `train_size` is drawn
    from the rest. Both are balanced over the primary classes, and over the human ones within. The test part
    is always the same; where none is published, a fifth of each class is cut off with a fixed seed. Draws of samples
    with several labels, or with numbers to predict, are plain random ones. Such numbers are standardised by the mean
    and standard deviation of the training samples that were kept.

    Args:
        name: See the table.
        data_dir: The folder that holds the files, or that holds a folder called `name` with them: parquet
            files in the hub's layout (train*.parquet, test*.parquet) or the archives as published.
        primary, human: Columns of labels, where the default is not wanted. Each human class must lie inside
            one primary class. Several primary columns are labels of 0 and 1, or numbers to predict.
        probe: Another column of labels, of classes that may cross the primary ones: kept out of the inputs, drawn and
            trained by nothing, and in `Split.probe` for whoever measures.
        task: "classification", "multi-label", "regression" or "segmentation"; "auto" looks at the primary columns, and
            `DataSet.saw` says what it saw.
        train_size: Training samples to keep: a count, or a fraction in (0, 1] as a float; None keeps all.
        validation_size: Samples to set aside for validation, a count or a fraction. Data sets that publish a
            validation part (cinic10, clinc150, some folders) give them from it and lose no training samples.
        seed: Selects the training subset and the validation part.
        image_size: Scale images to squares of this many pixels. None keeps their size, except for ucf101,
            whose frames are large: 112. Images with masks are stretched, others cut to their centre.
        ignore_index: Value of masks that stands for no class.
        drop: Columns of a table to leave out.
        types: What columns of a table hold, "number", "category", "date" or "text", where their values would be taken
            for something else.

    Raises:
        ValueError: unknown name or column, sizes that cannot be, labels or features that cannot be used.
        FileNotFoundError: a folder or file is missing.
        ConnectionError: the hub cannot be reached and no `data_dir` is given.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel; got {image_size}")
    check_choice("--task", task, ("auto", *TASKS))
    columns = (primary,) if isinstance(primary, str) else tuple(primary or ())
    if len({*columns}) < len(columns):
        raise ValueError(f"--primary needs different columns; got {', '.join(columns)}")
    source = open_source(name, data_dir, Wanted(columns, human, image_size, tuple(drop), types or {}, probe))
    if (drop or types) and source.feature_names is None:
        raise ValueError(f"--drop and --types are for columns of a table of inputs; '{name}' has images")
    labelled = _labelled_parts(source, columns, human, probe, task, ignore_index)
    train, test, published = labelled.parts
    targets = labelled.targets
    classes = targets.names if targets.task == "classification" else ("all samples",)
    said = [source.saw, targets.saw]
    if test is None:
        train_rows, test_rows = cut_test(train.strata, classes)
        train, test = train.rows(train_rows), train.rows(test_rows)
        said.append(_cut_text(len(test_rows), len(train_rows) + len(test_rows), targets.task))

    pool = train if published is None else published
    validation: _Labelled | None = None
    count = resolve_size(validation_size, len(pool.primary), "validation_size")
    if count:
        order = balanced_order(pool.strata, pool.human, seed)
        validation = pool.rows(np.sort(order[:count]))
        train = train.rows(np.sort(order[count:])) if published is None else train
    train = train.rows(draw(train.strata, train.human, train_size, len(classes), seed))
    check_every_class(train.strata, classes)
    for part, word in ((train, "training"), (test, "test"), (validation, "validation")):
        if part is not None:
            origin = f"the {word} part of {part.part.origin}"
            check_judgeable(targets.task, part.primary, targets.names, origin)
    scale = _fit_targets(train.primary, targets) if targets.task == "regression" else None

    raw = train.part.read(np.arange(len(train.primary)))
    transform = _as_is if source.fit is None else source.fit(raw)
    inputs = [transform(raw), *(part.read_with(transform) for part in (test, validation) if part is not None)]
    for x, part in zip(inputs, (train, test, validation), strict=False):
        if part is not None and x.shape[2:] != inputs[0].shape[2:]:
            raise ValueError(
                f"images must all have one size; those of {part.part.origin} are "
                f"{'x'.join(map(str, x.shape[2:]))}, those of {train.part.origin} "
                f"{'x'.join(map(str, inputs[0].shape[2:]))}: pass image_size (--image-size) to scale them"
            )
    if inputs[0].ndim == 4:  # grey parts follow coloured ones
        inputs = [to_channels(x, max(x.shape[1] for x in inputs)) for x in inputs]
    channels = inputs[0].shape[1]
    is_image = inputs[0].ndim == 4
    return DataSet(
        name=name,
        train=train.split(inputs[0], scale),
        validation=None if validation is None else validation.split(inputs[2], scale),
        test=test.split(inputs[1], scale),
        primary_names=targets.names,
        human_names=labelled.human_names,
        mean=(PIXEL_MEAN,) * channels if is_image else (0.0,),
        std=(PIXEL_STD,) * channels if is_image else (1.0,),
        augment=is_image
        and channels == 3
        and targets.task != "segmentation",  # photographs; digits and the like are grey
        flip=source.flip,
        features=None
        if source.feature_names is None or not isinstance(transform, Standardise)
        else Features(source.feature_names, tuple(transform.mean.tolist()), tuple(transform.std.tolist())),
        text=replace(transform, column=source.feature_names[0])
        if source.feature_names and isinstance(transform, TextFeatures)
        else None,
        columns=transform if isinstance(transform, Columns) else None,
        task=targets.task,
        targets=scale,
        saw="\n".join(line for line in said if line),
        probe_names=labelled.probe_names,
    )


@dataclass(frozen=True)
class _Labelled:
    """A part with its targets encoded, and its samples still undecoded."""

    part: Part
    primary: TargetArray
    human: IntArray | None
    probe: IntArray | None

    @property
    def strata(self) -> IntArray:
        return strata(self.primary)

    def rows(self, index: IntArray) -> _Labelled:
        human, probe = (None if labels is None else labels[index] for labels in (self.human, self.probe))
        return _Labelled(self.part.rows(index), self.primary[index], human, probe)

    def read_with(self, transform: Transform) -> Tensor:
        return transform(self.part.read(np.arange(len(self.primary))))

    def split(self, x: Tensor, scale: Features | None) -> Split:
        human, probe = (
            None if labels is None else torch.from_numpy(labels) for labels in (self.human, self.probe)
        )
        primary = torch.from_numpy(self.primary)
        if scale is not None:
            primary = scale.standardise(primary)
        return Split(x, primary, human, probe)


def _cut_text(test: int, total: int, task: str) -> str:
    """What is to be said of a test part that was cut off."""
    of_each = " of each class" if task == "classification" else ""
    return (
        f"no test part is given, so {test} of {total} samples ({100 * test / total:.0f} %{of_each}) are kept for it, drawn "
        f"with seed {TEST_SEED} whatever --seed says"
    )


def _fit_targets(primary: TargetArray, targets: Encoded) -> Features:
    """Mean and standard deviation of numbers to predict, shape (N, D) with N above 1, over the training samples."""
    return Features(targets.names, tuple(primary.mean(0).tolist()), tuple(primary.std(0).tolist()))


@dataclass(frozen=True)
class _Parts:
    """The training, test and validation parts with encoded targets, and the names of all classes."""

    parts: tuple[_Labelled, _Labelled | None, _Labelled | None]
    targets: Encoded
    human_names: tuple[str, ...] | None
    probe_names: tuple[str, ...] | None


def _labelled_parts(
    source: Source,
    primary: tuple[str, ...],
    human: str | None,
    probe: str | None,
    task: str,
    ignore_index: int,
) -> _Parts:
    primary = primary or (source.primary or "label",)
    asked, human = human is not None, human or source.human
    human = None if human in primary else human
    parts = [part for part in (source.train, source.test, source.validation) if part is not None]
    for part in parts:
        if not len(part):
            raise ValueError(f"a part needs samples; {part.origin} is empty")
        for name in primary:
            check_column(part.columns, name, "primary")
        if human is not None:
            check_column(part.columns, human, "human")
        if probe is not None:
            check_column(part.columns, probe, "probe")

    targets = encode_targets(task, parts, primary, ignore_index)
    if targets.task != "classification":
        if asked and human is not None:
            raise ValueError(
                f"--human needs primary classes, which its classes refine; {targets.task} has none: leave it out"
            )
        human = None
        if probe is not None:
            raise ValueError(
                f"--probe measures networks that tell classes; this is {targets.task}: leave it out"
            )
    humans: list[IntArray] | list[None] = [None] * len(parts)
    human_names: tuple[str, ...] | None = None
    if human is not None:
        encoded, human_names = encode(parts, human)
        check_refines(np.concatenate(targets.parts), np.concatenate(encoded), targets.names, human_names)
        humans = encoded
    probes: list[IntArray] | list[None] = [None] * len(parts)
    probe_names: tuple[str, ...] | None = None
    if probe is not None:
        probes, probe_names = encode(parts, probe)
    labelled = iter([_Labelled(*item) for item in zip(parts, targets.parts, humans, probes, strict=True)])
    train = next(labelled)
    test = None if source.test is None else next(labelled)
    published = None if source.validation is None else next(labelled)
    return _Parts((train, test, published), targets, human_names, probe_names)


def _as_is(raw: Raw) -> Tensor:
    assert isinstance(raw, Tensor)  # sources of text bring a transform
    return raw
