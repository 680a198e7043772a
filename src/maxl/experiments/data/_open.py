"""From a name to a source: the catalogue of known data sets, files, folders and the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import TypeVar

from maxl.experiments.data import _archives as archives
from maxl.experiments.data import _folders as folders
from maxl.experiments.data._cifar100 import with_levels
from maxl.experiments.data._files import is_table
from maxl.experiments.data._source import Source, Wanted, some_of
from maxl.experiments.data._tables import table_files, validation_files
from maxl.experiments.data._text import clinc150
from maxl.presets import did_you_mean

_REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")  # a path such as ../.. would be searched on this disk
_T = TypeVar("_T")
_UCF_FRAME_SIZE = 112  # usual side of UCF-101's frames in training


@dataclass(frozen=True)
class _Known:
    """A data set known by name.

    Attributes:
        read: Reads the published archive in a folder; None where the folder does not hold it.
        files: What `read` looks for, for messages.
        hub: Repository and configuration on the hub, where it is there in this layout.
        label: Its column of labels.
    """

    read: Callable[[Path, int | None], Source | None]
    files: str
    hub: tuple[str, str | None] | None = None
    label: str = "label"


def _known() -> dict[str, _Known]:
    return {
        "mnist": _Known(
            archives.mnist,
            "train-images-idx3-ubyte and its three companions (or .gz)",
            ("ylecun/mnist", None),
        ),
        "cifar10": _Known(archives.cifar10, "cifar-10-batches-py", ("uoft-cs/cifar10", None)),
        "cifar100": _Known(
            archives.cifar100, "cifar-100-python", ("uoft-cs/cifar100", None), label="coarse_label"
        ),
        "svhn": _Known(
            archives.svhn, "train_32x32.mat and test_32x32.mat", ("ufldl-stanford/svhn", "cropped_digits")
        ),
        "cinic10": _Known(folders.cinic10, "the folders train, valid and test"),
        "imagenet32": _Known(archives.imagenet32, "train_data_batch_* and val_data (pickled or .npz)"),
        "ucf101": _Known(
            lambda folder, size: folders.ucf101(folder, size or _UCF_FRAME_SIZE),
            "folders of frames named v_<Class>_g<group>_c<clip>, or the folders train and test",
        ),
        "clinc150": _Known(
            lambda folder, _: clinc150(folder), "data_full.json and domains.json", label="domain"
        ),
    }


NAMES = ("digits", *_known())


def label_column(name: str) -> str | None:
    """The column of labels that a data set known by name is learned by where none is asked for; None for others."""
    known = _known().get(name)
    return None if known is None else known.label


def open_source(
    name: str,
    data_dir: Path | str | None,
    wanted: Wanted,
) -> Source:
    """The source called `name`, as `load` describes; labels are read, samples are not.

    Args:
        name, data_dir: As in `load`.
        wanted: What is asked of it.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as in `load`.
    """
    if name == "digits":
        return archives.digits(wanted.image_size)
    if name in NAMES:
        source = _open_known(name, data_dir, wanted)
        return (
            with_levels(source, wanted.primary[0] if wanted.primary else None)
            if name == "cifar100"
            else replace(source, flip=name != "svhn")
        )
    if name.startswith("hf:"):
        repository, _, config = name[3:].partition(":")
        if not _REPOSITORY.fullmatch(repository):
            raise ValueError(
                f"a data set of the hub is named hf:owner/name or hf:owner/name:config; got '{name}'"
            )
        return _open_hub(repository, config or None, wanted)
    for path in [Path(name)] if data_dir is None else [Path(data_dir) / name, Path(name)]:
        if path.exists():
            return _open_path(path, wanted)
    if any(mark in name for mark in "*?["):
        return _open_pattern(name, wanted)
    if "/" in name or "\\" in name or Path(name).suffix:
        raise FileNotFoundError(
            f"no file or folder '{name}'{'' if data_dir is None else f', nor in {data_dir}'}"
        )
    raise ValueError(
        f"unknown data set '{name}'{did_you_mean(name, (*NAMES, *_beside(name)))}; known: {', '.join(NAMES)}, "
        "a folder of images, a .csv or .parquet file, or hf:owner/name"
    )


def _open_known(name: str, data_dir: Path | str | None, wanted: Wanted) -> Source:
    known = _known()[name]
    wanted = Wanted((known.label,), image_size=wanted.image_size, stream=wanted.stream)
    if data_dir is None:
        if known.hub is None:
            raise FileNotFoundError(
                f"'{name}' is read from files: pass data_dir (--data-dir), with {known.files}"
            )
        return _open_hub(*known.hub, wanted)
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"data_dir '{folder}' is no folder")
    if (folder / name).is_dir():
        folder = folder / name
    source = known.read(folder, wanted.image_size)
    if source is None and known.hub is not None:
        for tables in (folder, folder / "data", folder / (known.hub[1] or "")):  # the hub's own folders
            if source is None and table_files(tables, "train"):
                source = _open_tables(tables, wanted)
    if source is None:
        hub_files = "" if known.hub is None else "train*.parquet and test*.parquet, or "
        raise FileNotFoundError(f"'{folder}' holds no {name}: expected {hub_files}{known.files}")
    return source


def _open_path(path: Path, wanted: Wanted) -> Source:
    if path.is_dir():
        found = _open_tables(path, wanted)
        return found if found is not None else folders.image_folder(path, wanted.image_size)
    if not is_table(path):
        raise ValueError(f"a data file must be .csv or .parquet; got '{path}'")
    return _open_parts([(path,)], [f"'{path}'"], wanted, path.parent)


def _open_tables(folder: Path, wanted: Wanted) -> Source | None:
    """The tables train*, test* and, where there are any, validation*, valid or val of a folder; else all parquet files in it
    as one table.

    None where there are neither.
    """
    if train := table_files(folder, "train"):
        validation, called = validation_files(folder)
        parts = [train, table_files(folder, "test"), validation]
        names = zip(parts, ("train", "test", called), strict=True)
        origins = [f"'{folder / part}*{files[0].suffix if files else ''}'" for files, part in names]
        source = _open_parts(parts, origins, wanted, folder)
        return replace(source, saw="\n".join(filter(None, (source.saw, _left_out(folder, parts)))))
    files = sorted(folder.glob("*.parquet"))
    classes = any(child.is_dir() and not child.name.startswith(".") for child in folder.iterdir())
    if not files or classes:  # beside classes of images they are something else
        return None
    return _open_parts([files], [f"'{folder}/*.parquet'"], wanted, folder)


def _left_out(folder: Path, parts: Sequence[Sequence[Path]]) -> str:
    """Which tables of a folder are none of its parts, in a line; "" where there are none."""
    others = [file.name for file in sorted(folder.iterdir()) if file.is_file() and is_table(file)]
    read = {file.name for files in parts for file in files}
    others = [name for name in others if name not in read and not name.startswith(".")]
    if not others:
        return ""
    return (
        f"the parts of '{folder}' are its tables train*, test* and validation* (or valid, or val); others are none: "
        f"{some_of(others)}"
    )


def _open_pattern(pattern: str, wanted: Wanted) -> Source:
    """The parquet files that a pattern names, as one table."""
    files = [Path(name) for name in sorted(glob(pattern))]
    if not files:
        raise FileNotFoundError(f"no file matches '{pattern}'")
    if odd := [file for file in files if file.suffix.lower() != ".parquet"]:
        raise ValueError(f"a pattern names the parquet files of one table; '{pattern}' also names '{odd[0]}'")
    return _open_parts([files], [f"'{pattern}'"], wanted, files[0].parent)


def _open_parts(
    parts: Sequence[Sequence[Path]], origins: Sequence[str], wanted: Wanted, base: Path
) -> Source:
    """The training part, test part and validation part, each in some files, or none."""
    from maxl.experiments.data._arrow import table_source
    from maxl.experiments.data._tables import read_tables
    from maxl.experiments.data._wide import Pieces, pieces_source, require_paths

    named = [
        (files, f"'{files[0]}'" if len(files) == 1 else origin)
        for files, origin in zip(parts, origins, strict=True)
        if files
    ]
    at = [bool(files) for files in parts]
    if wanted.stream and named[0][0][0].suffix.lower() == ".parquet":
        pieces = iter([Pieces.of(files, origin) for files, origin in named])
        return pieces_source(*_placed(pieces, at), wanted=wanted, base=base)  # type: ignore[arg-type]  # train is there
    tables = iter([read_tables(files, origin) for files, origin in named])
    source = table_source(*_placed(tables, at), wanted=wanted, base=base)  # type: ignore[arg-type]  # likewise
    return require_paths(source, named[0][1]) if wanted.stream else source


def _placed(found: Iterator[_T], there: Sequence[bool]) -> tuple[_T | None, ...]:
    """Parts in their places, with None for those that are not there, three in all."""
    placed = [next(found) if is_there else None for is_there in there]
    return (*placed, None, None)[:3]


def _open_hub(
    repository: str,
    config: str | None,
    wanted: Wanted,
) -> Source:
    """A data set of the hub; without a test split its validation split takes the place."""
    import datasets

    from maxl.experiments.data._arrow import table_source
    from maxl.experiments.data._tables import Table

    try:
        with _quiet_hub():
            splits = datasets.load_dataset(repository, config)
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"cannot fetch '{repository}' from the hub ({reason}): check the name and the network, "
            "or pass data_dir (--data-dir), a folder with the files"
        ) from error
    if "train" not in splits:
        raise ValueError(f"'{repository}' has no train split; it has: {', '.join(splits)}")
    # The schema of the features, unlike the table's own, always carries the class names.
    tables = {
        name: Table(
            split.data.table.replace_schema_metadata(split.features.arrow_schema.metadata),
            f"'{repository}', {name}",
        )
        for name, split in splits.items()
    }
    validation = tables.get("validation")
    test = tables.get("test", validation)
    return table_source(
        tables["train"],
        test,
        validation if test is not validation else None,
        wanted=wanted,
        base=Path(),
    )


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Within: the hub's client tells of none of its attempts; what comes of them is one line of ours."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _beside(name: str) -> list[str]:
    """Files and folders where one of that name was looked for, written as it is."""
    place = Path(name).parent
    if not place.is_dir():
        return []
    return [str(place / entry.name) for entry in place.iterdir() if not entry.name.startswith(".")]
