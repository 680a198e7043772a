"""Parquet files wider than memory: labels are read at once, images and numbers are unpacked into a temporary file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from maxl.experiments.data._arrow import (
    PANDAS_INDEX,
    check_labels,
    default_primary,
    dropped,
    image_column,
    refuse_beside_streamed,
    said_of_images,
    table_source,
)
from maxl.experiments.data._arrow_types import is_binary, is_string, may_label, to_numpy
from maxl.experiments.data._features import fit_standardise
from maxl.experiments.data._files import require_regular
from maxl.experiments.data._images import common_shape, decode
from maxl.experiments.data._source import LARGEST, Column, IntArray, Part, Source, Wanted
from maxl.experiments.data._tables import Table, check_same_names, class_names
from maxl.experiments.data._unpacked import Items, Rows, require_room

_BUFFER = 1 << 18  # bytes of a column's pages that are read from a file at a time
_BATCH = 8 << 20  # bytes of rows that are unpacked at a time, about
_WHOLE = 2.0**53  # beyond it float64 merges whole numbers


@dataclass(frozen=True)
class Pieces:
    """A table in one or several parquet files, of which no more is read than is asked for.

    Attributes:
        files: In the order of their rows.
        origin: How messages name the table.
        schema: Of all of them.
        seen: What told each file apart when its schema was read.
    """

    files: Sequence[Path]
    origin: str
    schema: pa.Schema
    seen: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, files: Sequence[Path], origin: str) -> Pieces:
        """Checked.

        Raises:
            ValueError: if a file is no parquet file, or their columns, kinds or classes differ.
        """
        schemas, seen = [], []
        for file in files:
            with _opened(file) as opened:
                schemas.append(opened.schema_arrow)
                seen.append(_state(file))
        names = schemas[0].names
        if len({*names}) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"columns need different names; '{files[0]}' has {names.count(double)} called '{double}'"
            )
        first = Table(schemas[0].empty_table(), f"'{files[0]}'")
        for file, schema in zip(files, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise ValueError(
                    f"--stream reads pieces of one table with the same columns of the same kinds in the same order; '{file}' "
                    f"differs from '{files[0]}'"
                )
            check_same_names(first, Table(schema.empty_table(), f"'{file}'"))
        return cls(files, origin, schemas[0], seen)

    @cached_property
    def empty(self) -> Table:
        """The table without its rows; made once, for it is asked for by column."""
        return Table(self.schema.empty_table(), self.origin)

    def read(self, columns: Sequence[str]) -> Table:
        """Some columns, in memory."""
        tables = []
        for file, seen in zip(self.files, self.seen, strict=True):
            with _opened(file, seen) as opened:
                tables.append(opened.read(list(columns), use_threads=False))
                tables[-1].validate(full=True)  # text that is not UTF-8, and offsets that lead nowhere
        whole = pa.concat_tables(tables)
        return Table(whole.replace_schema_metadata(self.schema.metadata), self.origin)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns, a few megabytes of rows at a time."""
        for file, seen in zip(self.files, self.seen, strict=True):
            with _opened(file, seen) as opened:
                rows = max(1, opened.metadata.num_rows)
                size = max(1, min(4096, _BATCH * rows // max(1, _unpacked_bytes(opened, columns))))
                for batch in opened.iter_batches(size, columns=list(columns), use_threads=False):
                    batch.validate(full=True)
                    yield batch

    def unpacked_bytes(self, columns: Sequence[str]) -> int:
        """What some columns take once they are unpacked, by what the files say."""
        total = 0
        for file, seen in zip(self.files, self.seen, strict=True):
            with _opened(file, seen) as opened:
                total += _unpacked_bytes(opened, columns)
        return total

    def __len__(self) -> int:
        total = 0
        for file, seen in zip(self.files, self.seen, strict=True):
            with _opened(file, seen) as opened:
                total += opened.metadata.num_rows
        return total


def pieces_source(
    train: Pieces, test: Pieces | None, validation: Pieces | None, *, wanted: Wanted, base: Path
) -> Source:
    """A source made of parquet files with the same columns, as ``table_source`` would make it, but for what is in memory.

    Images that are inside the files, and numbers, are unpacked; of paths of images the paths are held.

    Args:
        train, test, validation, wanted, base: As for ``table_source``.

    Raises:
        ValueError: as there; and if samples are texts, or columns of several kinds or with gaps.
    """
    names = class_names(train.empty)
    labels = [field.name for field in train.schema if may_label(field.type)]
    primary = wanted.primary or (default_primary(labels, names),)
    asked = [name for name in (*primary, wanted.human, wanted.probe, wanted.trusted) if name is not None]
    parts = [part for part in (train, test, validation) if part is not None]
    for part in parts:
        if missing := {*train.schema.names} - {*part.schema.names}:
            raise ValueError(
                f"every part needs the columns of the training part; {part.origin} lacks '{min(missing)}'"
            )
        for role, column in (
            *(("primary", name) for name in primary),
            ("human", wanted.human),
            ("probe", wanted.probe),
            ("trusted", wanted.trusted),
        ):
            if column is not None:
                check_labels(part.empty, column, role, labels)
        check_same_names(train.empty, part.empty)
    left_out = {*asked, *names, *dropped(train.empty, wanted, primary)}
    rest = [n for n in train.schema.names if n not in left_out and not PANDAS_INDEX.fullmatch(n)]
    image = next((name for name in rest if _is_image(train, name)), None)
    if image is not None and is_string(train.schema.field(image).type):
        return table_source(*(_narrow(part) for part in (train, test, validation)), wanted=wanted, base=base)  # type: ignore[arg-type]  # train is there
    if image is None:
        _require_numbers(train, rest, wanted)
        make = partial(_numbers, columns=rest)
        free = [*dict.fromkeys((*asked, *names))]
    else:
        refuse_beside_streamed(wanted.types, train.origin)
        make = partial(_images, column=image, image_size=wanted.image_size)
        free = [name for name in labels if name != image]

    def opened(part: Pieces) -> Part:
        found = [
            name for name in free if name in part.schema.names and may_label(part.schema.field(name).type)
        ]
        table = part.read(found)
        columns = {name: Column(to_numpy(table.content, name), names.get(name)) for name in found}
        read, look = make(part)
        return Part(columns, read, part.origin, look)

    return Source(
        train=opened(train),
        test=None if test is None else opened(test),
        validation=None if validation is None else opened(validation),
        primary=primary[0],
        human=wanted.human,
        fit=None if image is not None else fit_standardise,
        feature_names=None if image is not None else tuple(rest),
        image_column=image,
        saw="" if image is None else said_of_images(train.empty, image, {*asked, *left_out}, {}),
    )


def require_paths(source: Source, origin: str) -> Source:
    """A source made of a table in memory, if its samples are outside of it.

    Raises:
        ValueError: if they are numbers or texts.
    """
    if source.train.look is None:
        raise ValueError(
            f"--stream reads numbers from parquet files and images from anywhere; {origin} is read whole: write it as parquet, "
            "or leave --stream out"
        )
    return source


Read = tuple[Callable[[IntArray], Tensor], Callable[[IntArray], tuple[int, ...]]]


def _numbers(part: Pieces, columns: Sequence[str]) -> Read:
    """Rows of columns of numbers as ``read_features`` gives them, and their shape."""
    kinds = {_numpy_kind(part.schema.field(name).type) for name in columns}
    kind = kinds.pop() if len(kinds) == 1 else np.dtype(np.float64)
    if kind.kind in "iu" and kind.itemsize == 8:
        kind = np.dtype(np.float64)
    require_room(len(part) * len(columns) * kind.itemsize, part.origin)

    def arrays() -> Iterator[np.ndarray]:
        first = 0
        for batch in part.batches(columns):
            table = Table(pa.Table.from_batches([batch]), part.origin)
            values = [_checked(table, name, first) for name in columns]
            first += len(batch)
            yield np.stack([v.astype(kind, copy=False) for v in values], axis=1)

    rows = Rows(arrays(), kind, len(columns))
    return lambda asked: torch.from_numpy(rows.read(asked).astype(np.float64)), lambda _: (len(columns),)


def _checked(table: Table, name: str, first: int) -> np.ndarray:
    """A column of some rows from ``first`` on; ValueError if a number is missing or not to be had in float32."""
    values = to_numpy(table.content, name)
    floats = values.astype(np.float64)
    for bad, rule in (
        (np.isnan(floats), "has none"),
        (~np.isfinite(floats), "is not finite"),
        (np.abs(floats) > (_WHOLE if values.dtype.kind in "iu" else LARGEST), "is too large to be exact"),
    ):
        if bad.any():
            raise ValueError(
                f"--stream needs a number in every row of every column of inputs; column '{name}', row "
                f"{first + int(np.flatnonzero(bad)[0])} of {table.origin} {rule}: fill or remove such rows, leave the column out "
                f"(--drop {name}), or leave --stream out"
            )
    return values


def _images(part: Pieces, column: str, image_size: int | None) -> Read:
    """Images that lie in a column of bytes, decoded when they are asked for, and their shape."""
    require_room(part.unpacked_bytes([column]), part.origin)

    def contents() -> Iterator[bytes]:
        row = 0
        for batch in part.batches([column]):
            for item in batch.column(column).to_pylist():
                content = item["bytes"] if isinstance(item, dict) else item
                if not content:
                    by_path = isinstance(item, dict) and item["path"]
                    raise ValueError(
                        f"the image in column '{column}', row {row} of {part.origin}, "
                        + (
                            "is a path beside images in bytes: --stream takes either"
                            if by_path
                            else "is missing; remove the row"
                        )
                    )
                yield content
                row += 1

    items, origin = Items(contents()), part.origin

    def where(rows: IntArray, i: int) -> str:
        return f"the image in column '{column}', row {rows[i]} of {origin},"

    def read(rows: IntArray) -> Tensor:
        return decode(map(items.read, rows.tolist()), len(rows), partial(where, rows), image_size)

    def look(rows: IntArray) -> tuple[int, ...]:
        return common_shape(map(items.read, rows.tolist()), partial(where, rows), image_size)

    return read, look


def _is_image(part: Pieces, name: str) -> bool:
    if is_string(part.schema.field(name).type):
        return image_column(part.read([name]), name)
    return image_column(part.empty, name)


def _narrow(part: Pieces | None) -> Table | None:
    """All columns but those of bytes."""
    if part is None:
        return None
    wide = (f.name for f in part.schema if is_binary(f.type) or pa.types.is_struct(f.type))
    left_out = {*wide}
    return part.read([name for name in part.schema.names if name not in left_out])


def _require_numbers(part: Pieces, columns: Sequence[str], wanted: Wanted) -> None:
    if not columns:
        raise ValueError(
            f"a table needs an image, text or numeric column besides its labels; it has: {', '.join(part.schema.names)}"
        )
    types = pa.types
    for name in columns:
        kind = part.schema.field(name).type
        if wanted.types or not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            what = "--types is given" if wanted.types else f"column '{name}' of {part.origin} is {kind}"
            raise ValueError(
                "--stream takes images, or columns that hold numbers alone, since other features are made of all rows together; "
                f"{what}: name it as labels, leave it out (--drop), or leave --stream out"
            )


def _numpy_kind(kind: pa.DataType) -> np.dtype[Any]:
    if pa.types.is_boolean(kind):
        return np.dtype(np.int8)
    found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return found


def _unpacked_bytes(opened: Any, columns: Sequence[str]) -> int:
    metadata, total, inside = opened.metadata, 0, tuple(f"{name}." for name in columns)
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in (group.column(i) for i in range(group.num_columns)):
            if column.path_in_schema in columns or column.path_in_schema.startswith(inside):
                total += column.total_uncompressed_size
    return total


@contextmanager
def _opened(file: Path, seen: tuple[int, ...] | None = None) -> Iterator[Any]:
    """A parquet file; within, what Arrow raises becomes a ValueError that names it. So does one that is not as it was seen."""
    from pyarrow import parquet

    require_regular(file)
    try:
        with parquet.ParquetFile(
            file, page_checksum_verification=True, buffer_size=_BUFFER, pre_buffer=False
        ) as opened:
            # Labels are read at one time and samples at another.
            if seen is not None and _state(file) != seen:
                raise ValueError(
                    f"'{file}' was changed while it was read: start again, and leave it as it is"
                )
            yield opened
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{file}' cannot be read as a parquet file: {reason}") from error


def _state(file: Path) -> tuple[int, ...]:
    told = file.stat()
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
