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
from maxl.experiments.data._inputs import make_inputs
from maxl.experiments.data._labels import check_column, check_every_class, check_refines, encode
from maxl.experiments.data._open import open_source
from maxl.experiments.data._options import Like, Options
from maxl.experiments.data._select import (
    TEST_SEED,
    cut_test,
    draw,
    order_to_set_aside,
    resolve_size,
)
from maxl.experiments.data._source import IntArray, Part, Source, Wanted
from maxl.experiments.data._streamed import Samples
from maxl.experiments.data._targets import (
    Encoded,
    TargetArray,
    check_judgeable,
    encode_targets,
    strata,
)
from maxl.experiments.data._tokens import Tokens
from maxl.experiments.data._trusted import BoolArray, cut_trusted_test, read_trusted
from maxl.experiments.data._types import DataSet, Features, Split

PIXEL_MEAN, PIXEL_STD = 0.5, 0.2  # the paper's normalisation, of pixels in [0, 1]


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    primary: str | Sequence[str] | None = None,
    human: str | None = None,
    probe: str | None = None,
    trusted: str | None = None,
    task: str = "auto",
    train_size: int | float | None = None,
    validation_size: int | float = 0,
    seed: int = 0,
    image_size: int | None = None,
    ignore_index: int = 255,
    drop: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
    like: Like | None = None,
    stream: bool = False,
    workers: int = 1,
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
    from the rest. The validation part has the primary classes, and the human ones within, in proportion; a smaller
    ``train_size`` takes from all classes alike. The test part is always the same; where none is published, a fifth of each class is cut off with a fixed seed. Draws of samples
    with several labels, or with numbers to predict, are plain random ones. Such numbers are standardised by the mean
    and standard deviation of the training samples that were kept.

    Args:
        name: See the table.
        data_dir: The folder that holds the files, or that holds a folder called `name` with them: parquet
            files in the hub's layout (train*.parquet, test*.parquet) or the archives as published.
        primary, human: Columns of labels, where the default is not wanted. Each human class must lie inside
            one primary class. Several primary columns are labels of 0 and 1, or numbers to predict. ``human`` may also be
            a CSV file of finer classes by row (columns row, class, finer); the training part is then what it lists.
        probe: Another column of labels, of classes that may cross the primary ones: kept out of the inputs, trained by
            nothing, and in `Split.probe` for whoever measures. Where it is also the human one, draws go by it.
        trusted: A column of yes and no: whose labels can be trusted, where those of others may be wrong. It is no input, and
            stands in `Split.trusted`. Wrong labels cannot judge: only trusted samples of the test and validation parts
            count; where none is published half of the trusted ones become the test part, and ``validation_size`` is a
            count or fraction of those left. A smaller ``train_size`` keeps trusted samples before others.
        task: "classification", "multi-label", "regression" or "segmentation"; "auto" looks at the primary columns, and
            `DataSet.saw` says what it saw.
        train_size: Training samples to keep: a count, or a fraction in (0, 1] as a float; None keeps all.
        validation_size: Samples to set aside for validation, a count or a fraction, with their classes in proportion.
            Data sets that publish a validation part (cinic10, clinc150, some folders) give them from it and lose no
            training samples.
        seed: Selects the training subset and the validation part.
        image_size: Scale images to squares of this many pixels. None keeps their size, except for ucf101,
            whose frames are large: 112. Images with masks are stretched, others cut to their centre.
        ignore_index: Value of masks that stands for no class.
        drop: Columns of a table to leave out.
        types: What columns of a table hold, "number", "category", "date" or "text", where their values would be taken
            for something else. Of a table of images, the columns that are inputs beside them: no other is.
        like: How features were made of other samples with the same columns, to be made so again: ``DataSet.features``,
            ``text`` or ``columns``. By default they are fitted to the training samples. ``Tokens`` make tokens of texts, for
            an encoder.
        stream: Leave samples on disk and read them batch by batch, to the same bits: images in folders, images in tables or
            the paths of them, and numbers in parquet files. ``StreamedSamples`` then stand in for the tensors ``Split.x``.
        workers: Threads that read them ahead of their use.

    Raises:
        ValueError: unknown name or column, sizes that cannot be, labels or features that cannot be used; columns other
            than those of ``like``.
        FileNotFoundError: a folder or file is missing.
        ConnectionError: the hub cannot be reached and no `data_dir` is given.
    """
    options = Options.of(
        primary=primary,
        human=human,
        probe=probe,
        trusted=trusted,
        task=task,
        train_size=train_size,
        validation_size=validation_size,
        seed=seed,
        image_size=image_size,
        ignore_index=ignore_index,
        drop=drop,
        types=types,
        like=like,
        stream=stream,
        workers=workers,
    )
    return from_source(open_source(name, data_dir, options.wanted), name, options)


def from_source(source: Source, name: str, options: Options) -> DataSet:
    """The data set in a source, cut and encoded as ``load`` does; ``name`` is for messages."""
    wanted, seed, train_size, validation_size = (
        options.wanted,
        options.seed,
        options.train_size,
        options.validation_size,
    )
    if (wanted.drop or wanted.types) and source.feature_names is None:
        raise ValueError(f"--drop and --types are for columns of a table of inputs; '{name}' has images")
    finer = options.finer
    if finer is not None:  # in place of the data's own
        source = replace(source, human=None)
    labelled = _labelled_parts(source, wanted, options.task, options.ignore_index)
    train, test, published = labelled.parts
    targets, human_names = labelled.targets, labelled.human_names
    if finer is not None and targets.task != "classification":
        raise ValueError(_without_classes(targets.task))
    classes = targets.names if targets.task == "classification" else ("all samples",)
    said = [source.saw, targets.saw]
    if test is None:
        train_rows, test_rows = (
            cut_test(train.strata, classes)
            if train.trusted is None
            else cut_trusted_test(train.strata, train.trusted)
        )
        whole = len(train.places) if train.trusted is None else int(train.trusted.sum())
        train, test = train.rows(train_rows), train.rows(test_rows)
        said.append(_cut_text(len(test_rows), whole, targets.task, trusted=train.trusted is not None))
    else:
        test = _only_trusted(test, said)
    published = None if published is None else _only_trusted(published, said)
    if finer is not None:
        every = len(train.primary)
        kept, codes, human_names = finer.among(train.places, train.primary, classes, len(source.train))
        train = replace(train.rows(kept), human=codes)
        said.append(
            f"{finer.origin}: {len(human_names)} finer classes of {len(kept)} of {every} training samples, the others are left out"
        )

    pool = train if published is None else published
    validation: _Labelled | None = None
    judges = pool if pool.trusted is None else pool.rows(np.flatnonzero(pool.trusted).astype(np.int64))
    count = resolve_size(validation_size, len(judges.places), "validation_size")
    if count:
        order = order_to_set_aside(judges.strata, judges.human, seed)
        validation = judges.rows(np.sort(order[:count]))
        if published is None:
            train = train.rows(np.flatnonzero(~np.isin(train.places, validation.places)).astype(np.int64))
    train = train.rows(draw(train.strata, train.human, train_size, len(classes), seed, train.trusted))
    check_every_class(train.strata, classes)
    for part, word in ((train, "training"), (test, "test"), (validation, "validation")):
        if part is not None:
            origin = f"the {word} part of {part.part.origin}"
            check_judgeable(targets.task, part.primary, targets.names, origin, training=word == "training")
    scale = _fit_targets(train.primary, targets) if targets.task == "regression" else None

    made = make_inputs(
        [part.part for part in (train, test, validation) if part is not None], source, name, options
    )
    inputs, transform = made.inputs, made.transform
    said.append(made.saw)
    channels = inputs[0].shape[1]
    is_image = inputs[0].ndim == 4
    beside: Sequence[Tensor | None] = [None] * len(inputs) if made.beside is None else made.beside.features
    columns = None if made.beside is None else made.beside.columns
    names = source.feature_names
    named = (
        replace(transform, column=names[0])
        if names and isinstance(transform, TextFeatures | Tokens)
        else None
    )
    return DataSet(
        name=name,
        train=train.split(inputs[0], scale, beside[0]),
        validation=None if validation is None else validation.split(inputs[2], scale, beside[2]),
        test=test.split(inputs[1], scale, beside[1]),
        primary_names=targets.names,
        human_names=human_names,
        mean=(PIXEL_MEAN,) * channels if is_image else (0.0,),
        std=(PIXEL_STD,) * channels if is_image else (1.0,),
        augment=is_image
        and channels == 3
        and targets.task != "segmentation",  # photographs; digits and the like are grey
        flip=source.flip,
        features=None
        if source.feature_names is None or not isinstance(transform, Standardise)
        else Features(source.feature_names, tuple(transform.mean.tolist()), tuple(transform.std.tolist())),
        text=named if isinstance(named, TextFeatures) else None,
        columns=transform if isinstance(transform, Columns) else columns,
        image_column=source.image_column,
        task=targets.task,
        targets=scale,
        saw="\n".join(line for line in said if line),
        probe_names=labelled.probe_names,
        tokens=named if isinstance(named, Tokens) else None,
        label_separator=targets.separator,
    )


@dataclass(frozen=True)
class _Labelled:
    """A part with its targets encoded, and its samples still undecoded; ``places`` are its rows in the source's part."""

    places: IntArray
    part: Part
    primary: TargetArray
    human: IntArray | None
    probe: IntArray | None
    trusted: BoolArray | None

    @property
    def strata(self) -> IntArray:
        return strata(self.primary)

    def rows(self, index: IntArray) -> _Labelled:
        human, probe = (None if labels is None else labels[index] for labels in (self.human, self.probe))
        trusted = None if self.trusted is None else self.trusted[index]
        return _Labelled(
            self.places[index], self.part.rows(index), self.primary[index], human, probe, trusted
        )

    def split(self, x: Samples, scale: Features | None, columns: Tensor | None) -> Split:
        human, probe = (
            None if labels is None else torch.from_numpy(labels) for labels in (self.human, self.probe)
        )
        primary = torch.from_numpy(self.primary)
        if scale is not None:
            primary = scale.standardise(primary)
        trusted = None if self.trusted is None else torch.from_numpy(self.trusted)
        return Split(x, primary, human, probe, torch.from_numpy(self.places), trusted, columns)


def _only_trusted(part: _Labelled, said: list[str]) -> _Labelled:
    """What can judge of a part; says so where that is not all.

    Raises:
        ValueError: if nothing can.
    """
    if part.trusted is None or part.trusted.all():
        return part
    rows = np.flatnonzero(part.trusted).astype(np.int64)
    if not len(rows):
        raise ValueError(
            f"labels that judge need to be right; {part.part.origin} has no trusted sample: leave it out, or mark some"
        )
    said.append(f"of {part.part.origin} the {len(rows)} trusted of {len(part.places)} samples count")
    return part.rows(rows)


def _cut_text(test: int, total: int, task: str, *, trusted: bool) -> str:
    """What is to be said of a test part that was cut off."""
    if trusted:
        return (
            f"no test part is given, so {test} of the {total} trusted samples are kept for it, drawn with seed {TEST_SEED} "
            "whatever --seed says"
        )
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
    wanted: Wanted,
    task: str,
    ignore_index: int,
) -> _Parts:
    primary, human, probe = wanted.primary or (source.primary or "label",), wanted.human, wanted.probe
    if probe in primary:
        raise ValueError(f"--probe needs a column that training is not asked for; '{probe}' is a primary one")
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
        if wanted.trusted is not None:
            check_column(part.columns, wanted.trusted, "trusted")

    targets = encode_targets(task, parts, primary, ignore_index)
    if targets.task != "classification":
        if asked and human is not None:
            raise ValueError(_without_classes(targets.task))
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
    trusted: list[BoolArray] | list[None] = [None] * len(parts)
    if wanted.trusted is not None:
        trusted = read_trusted(parts, wanted.trusted)
    labelled = iter(
        [
            _Labelled(np.arange(len(item[0]), dtype=np.int64), *item)
            for item in zip(parts, targets.parts, humans, probes, trusted, strict=True)
        ]
    )
    train = next(labelled)
    test = None if source.test is None else next(labelled)
    published = None if source.validation is None else next(labelled)
    return _Parts((train, test, published), targets, human_names, probe_names)


def _without_classes(task: str) -> str:
    return f"--human needs primary classes, which its classes refine; {task} has none: leave it out"
