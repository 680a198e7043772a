"""Files of new samples, as the inputs of a finished run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from maxl.experiments.data import (
    IMAGE_SUFFIXES,
    LEAST_STD,
    Columns,
    Table,
    TextFeatures,
    Tokens,
    decode,
    image_files,
    is_table,
    read_columns,
    read_features,
    read_table,
    read_texts,
    require_regular,
    to_channels,
)
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder


def read_rows(file: Path, names: tuple[str, ...]) -> Tensor:
    """The columns of a table that the run was trained on, float64 of shape (N, D)."""
    if not is_table(file):
        raise ValueError(f"predict needs a CSV or parquet file for a run on features; got {file}")
    table = table_with(names, file)
    return read_features(table, names, np.arange(len(table.content)))


def table_with(names: Sequence[str], file: Path, text: Sequence[str] = ()) -> Table:
    """The table in a file, its columns ``text`` as they are written; ValueError unless it has these columns, and rows."""
    table = read_table(file, text)
    if missing := [name for name in names if name not in table.content.column_names]:
        raise ValueError(f"predict needs the columns of the training table; {file} lacks {missing[0]!r}")
    if not len(table.content):
        raise ValueError(f"predict needs at least one row; {file} has none")
    return table


def read_prepared_rows(source: Path, folder: RunFolder, width: int) -> Tensor:
    """Texts, or rows of columns of several kinds, as the features that the run was trained on, float32 of shape (N, D)."""
    if not has_columns(folder):
        return read_text_rows(source, folder, width)
    if not is_table(source):
        raise ValueError(f"predict needs a CSV or parquet file for a run on a table; got {source}")
    columns = column_features(folder, width)
    return column_rows(columns, table_with(list(columns.kinds), source, columns.written()), source)


def has_columns(folder: RunFolder) -> bool:
    """Whether a run was trained on columns of several kinds."""
    return bool(folder.read_summary().get("columns"))


def written_columns(folder: RunFolder) -> list[str]:
    """Those that a run has read as text, of a run on columns of several kinds; none of others."""
    return Columns.read(_verified(folder, folder.columns, "columns")).written() if has_columns(folder) else []


def column_features(folder: RunFolder, width: int) -> Columns:
    """How a run makes features of columns of several kinds, of so many numbers in all.

    Raises:
        ValueError: if the run does not say it, or its file is damaged.
    """
    stored = _verified(folder, folder.columns, "columns")
    columns = Columns.read(stored)
    if len(columns.transformer.get_feature_names_out()) != width:
        raise ValueError(f"{stored} does not say how the run makes features of columns: its sizes do not fit")
    return columns


def _verified(folder: RunFolder, stored: Path, what: str) -> Path:
    if not stored.is_file():
        raise ValueError(f"predict needs {stored}, how the run makes features of {what}: train the run again")
    folder.verify(stored, folder.read_summary())
    return stored


def column_rows(columns: Columns, table: Table, source: Path) -> Tensor:
    """All rows of a table as features; says what training has not seen. ValueError if dates have a time zone here alone, or
    there alone.
    """
    columns.check_zones(table)
    frame = read_columns(table, columns.kinds, np.arange(len(table.content)))
    for line in columns.unseen(frame):
        warnings.warn(f"{source}: {line}", RunWarning, stacklevel=2)
    return columns(frame)


def text_features(folder: RunFolder, width: int) -> TextFeatures:
    """How a run makes features of text, of so many numbers each.

    Raises:
        ValueError: if the run does not say it, or its file is damaged.
    """
    from safetensors import SafetensorError

    stored = _verified(folder, folder.text, "text")
    try:
        features = TextFeatures.read(stored)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{stored} does not say how the run makes features of text: {error}") from error
    shapes = (len(features.idf), tuple(features.components.shape), len(features.standardise.mean))
    if shapes != (len(features.terms), (width, len(features.terms)), width):
        raise ValueError(f"{stored} does not say how the run makes features of text: its sizes do not fit")
    if not bool((features.standardise.std > LEAST_STD).all()):
        raise ValueError(
            f"{stored} has features that are rounding errors alone, since training texts were alike in them: an older "
            "version kept such; train the run again"
        )
    return features


def stored_tokens(folder: RunFolder) -> Tokens | None:
    """How a run's texts become tokens; None for a run on anything else.

    Raises:
        ValueError: if the file that says it is missing or damaged.
    """
    said = folder.read_summary().get("tokens")
    if not said:
        return None
    stored = _verified(folder, folder.tokenizer, "text")
    try:
        tokens = Tokens.read(stored, said["length"], said["column"])
    except ValueError as error:
        raise ValueError(f"{stored} does not say how the run reads texts: {error}") from error
    return dataclasses.replace(tokens, source=f"the run {folder.path}")


def text_inputs(folder: RunFolder, width: int) -> TextFeatures | Tokens:
    """How a run makes features or tokens of texts, so many of each; errors as for both."""
    tokens = stored_tokens(folder)
    if tokens is not None and tokens.length != width:
        raise ValueError(f"{folder.summary} gives texts {tokens.length} tokens and inputs {width}")
    return text_features(folder, width) if tokens is None else tokens


def read_text_rows(source: Path, folder: RunFolder, width: int) -> Tensor:
    """Texts, a line or row each, as what the run was trained on: features, float32 (N, D), or tokens, int32 (N, L)."""
    features = text_inputs(folder, width)
    if source.suffix.lower() == ".txt":
        texts = _read_lines(source)
    elif is_table(source):
        table = table_with([features.column], source, [features.column])
        texts = read_texts(table, features.column, np.arange(len(table.content)))
    else:
        raise ValueError(f"predict needs a .txt, CSV or parquet file for a run on text; got {source}")
    return features(texts)


def _read_lines(file: Path) -> list[str]:
    """The lines of a text file, parted by newlines alone: form feeds and the like belong to a text."""
    content = require_regular(file).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"'{file}', line {line}: no UTF-8 text: save it as UTF-8") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise ValueError(f"predict needs at least one text; {file} is empty")
    return lines


def read_image(item: Path | bytes, shape: tuple[int, ...], name: str = "") -> Tensor:
    """One image as uint8 of shape ``(1, *shape)``, its centre of that shape, scaled, as ``--image-size`` does for training.

    Args:
        item: Encoded, or its path.
        shape: (C, H, W).
        name: Says in messages where an encoded one comes from.
    """
    from torchvision.transforms.v2 import functional as transforms

    channels, height, width = shape
    image = decode([item], 1, lambda _: name or f"'{item!s}'", height if height == width else None)
    if image.shape[2:] != (height, width):
        scale = min(image.shape[2] / height, image.shape[3] / width)
        centre = [max(1, round(height * scale)), max(1, round(width * scale))]
        image = transforms.resize(transforms.center_crop(image, centre), [height, width], antialias=True)
    return as_channels(image, channels)


def image_in_row(row: int, source: Path) -> str:
    """How messages name an image of a table."""
    return f"the image in row {row} of '{source}'"


def as_channels(images: Tensor, channels: int) -> Tensor:
    """Images (N, C, H, W) with the run's channels: grey ones repeated, colours made grey."""
    from torchvision.transforms.v2 import functional as transforms

    if images.shape[1] > channels:
        images = transforms.rgb_to_grayscale(images)
    return to_channels(images, channels)


def find_images(source: Path) -> list[Path]:
    """The images of a folder, or the one that a file is."""
    return _images_in(source, lambda file: True)


def find_unmasked(source: Path) -> list[Path]:
    """The same for segmentation: of a folder with images/ and masks/ those in images/."""

    def beside_images(file: Path) -> bool:
        inside = [folder for folder in file.parents if folder.is_relative_to(source)]
        return any(folder.name == "masks" and (folder.parent / "images").is_dir() for folder in inside)

    return _images_in(source, lambda file: not beside_images(file))


def _images_in(source: Path, counts: Callable[[Path], bool]) -> list[Path]:
    if source.is_dir():
        files = [file for file in image_files(source) if counts(file)]
    else:
        files = [require_regular(source)]
    if not files:
        raise ValueError(f"predict needs images ({', '.join(sorted(IMAGE_SUFFIXES))}); {source} has none")
    return files
