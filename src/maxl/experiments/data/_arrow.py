"""Arrow tables as sources: parquet files, CSV files and data sets of the hub, all by one code path.

A table's samples are its image column if it has one; else its one column of text, if that is all there is
besides labels; else its numeric columns. Whatever is chosen as primary or human labels is kept out of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from maxl.experiments.data._features import fit_standardise, fit_text
from maxl.experiments.data._images import IMAGE_SUFFIXES, decode
from maxl.experiments.data._labels import check_column
from maxl.experiments.data._source import Column, IntArray, Part, Raw, Source

_DECODE_ROWS = 4096  # rows whose encoded images are copied out of the table at a time


def read_tables(folder: Path, part: str) -> pa.Table | None:
    """The files `<part>*.parquet` of a folder as one table, or `<part>*.csv`; None where there are none."""
    files = sorted(folder.glob(f"{part}*.parquet")) or sorted(folder.glob(f"{part}*.csv"))
    return pa.concat_tables([read_table(file) for file in files]) if files else None


def read_table(file: Path) -> pa.Table:
    """A parquet or CSV file.

    Raises:
        ValueError: if the file cannot be read as what its suffix says.
    """
    from pyarrow import csv, parquet

    try:
        return csv.read_csv(file) if file.suffix == ".csv" else parquet.read_table(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"'{file}' cannot be read as a {file.suffix[1:]} file: {error}") from error


def table_source(
    train: pa.Table,
    test: pa.Table | None = None,
    validation: pa.Table | None = None,
    *,
    primary: str | None,
    human: str | None,
    base: Path,
    image_size: int | None,
) -> Source:
    """A source made of tables with the same columns.

    Args:
        train, test, validation: The parts; `test` None leaves it to `load` to cut one.
        primary, human: Columns of labels; primary None takes the only column declared as class labels, or
            the one called "label".
        base: The folder that relative image paths start from.
        image_size: As in `load`.

    Raises:
        ValueError: if a column is missing, or if nothing is left to learn from.
    """
    class_names = _class_names(train)
    labels = [field.name for field in train.schema if _may_label(field.type)]
    primary = primary or _default_primary(labels, class_names)
    check_column(labels, primary, "primary")
    if human is not None:
        check_column(labels, human, "human")
    columns, kind = _samples(train, {primary, human, *class_names})
    free = [name for name in labels if name not in columns]
    for table in (test, validation):
        missing = set() if table is None else {*train.column_names} - {*table.column_names}
        if missing:
            raise ValueError(f"every part needs the columns of the training part; one lacks '{min(missing)}'")

    def read(table: pa.Table, rows: IntArray) -> Raw:
        if kind == "image":
            return _read_images(table, columns[0], rows, base, image_size)
        if kind == "text":
            return read_texts(table, columns[0], rows)
        return read_features(table, columns, rows)

    def part(table: pa.Table) -> Part:
        found = {name: Column(_to_numpy(table, name), class_names.get(name)) for name in free}
        return Part(found, lambda rows: read(table, rows))

    return Source(
        train=part(train),
        test=None if test is None else part(test),
        validation=None if validation is None else part(validation),
        primary=primary,
        human=human,
        fit={"image": None, "text": fit_text, "features": fit_standardise}[kind],
        feature_names=None if kind == "image" else tuple(columns),
    )


def _class_names(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """The names of each column of class labels, which the field's parquet files carry in their metadata."""
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    if b"huggingface" not in metadata:
        return {}
    features = json.loads(metadata[b"huggingface"])["info"].get("features") or {}
    return {
        name: tuple(feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _may_label(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or _is_string(kind)
    )


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _default_primary(labels: Sequence[str], class_names: Mapping[str, tuple[str, ...]]) -> str:
    if len(class_names) == 1:
        return next(iter(class_names))
    if "label" in labels:
        return "label"
    raise ValueError(f"say which column holds the primary labels (--primary); columns: {', '.join(labels)}")


def _is_image(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {field.name for field in kind}
    if _is_string(kind) and len(table):
        first = table[name][0].as_py()
        return first is not None and Path(first).suffix.lower() in IMAGE_SUFFIXES
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _samples(table: pa.Table, labels: set[str | None]) -> tuple[list[str], str]:
    """The columns that hold the samples, and their kind: "image", "text" or "features"."""
    rest = [name for name in table.column_names if name not in labels]
    if not rest:
        raise ValueError(
            "a table needs an image, text or numeric column besides its labels; "
            f"it has: {', '.join(table.column_names)}"
        )
    images = [name for name in rest if _is_image(table, name)]
    if images:
        return images[:1], "image"
    return rest, "text" if len(rest) == 1 and _is_string(table.schema.field(rest[0]).type) else "features"


def _to_numpy(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_string(column.type):
        # Missing strings stay None, so that they are found; present ones sort as ordinary strings.
        return (
            np.array(column.to_pylist(), dtype=object) if column.null_count else np.array(column.to_pylist())
        )
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: np.ndarray = column.to_numpy()  # missing integers become NaN
    return values


def _read_images(table: pa.Table, name: str, rows: IntArray, base: Path, image_size: int | None) -> Tensor:
    def items() -> Iterator[bytes | Path]:
        for start in range(0, len(rows), _DECODE_ROWS):
            for item in table[name].take(pa.array(rows[start : start + _DECODE_ROWS])).to_pylist():
                content = item["bytes"] or item["path"] if isinstance(item, dict) else item
                if content is None:
                    raise ValueError(f"column '{name}' has a row without an image; remove it")
                yield content if isinstance(content, bytes) else base / content

    return decode(items(), len(rows), lambda i: f"the image in column '{name}', row {rows[i]}", image_size)


def read_texts(table: pa.Table, name: str, rows: IntArray) -> list[str]:
    """A column of texts of some rows; a missing one is empty."""
    return [text or "" for text in table[name].take(pa.array(rows)).to_pylist()]


def read_features(table: pa.Table, names: Sequence[str], rows: IntArray) -> Tensor:
    """Numeric columns of some rows as float32, shape (N, D).

    Raises:
        ValueError: if a column is not numeric, or a value is missing or not finite.
    """
    columns = []
    for name in names:
        values = _to_numpy(table, name)[rows]
        if values.dtype.kind not in "iuf":
            raise ValueError(
                f"features must be numbers; column '{name}' is {table.schema.field(name).type}: "
                "drop it, encode it, or name it as labels"
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                f"features must be finite; column '{name}', row {rows[bad[0]]} holds {values[bad[0]]}"
                f" ({len(bad)} such rows): remove or fill these rows"
            )
        columns.append(torch.from_numpy(values.astype(np.float32)))
    return torch.stack(columns, dim=1)
