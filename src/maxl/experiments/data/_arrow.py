"""Arrow tables as sources: parquet files, CSV files and data sets of the hub, all by one code path.

A table's samples are its image column if it has one, alone or beside those columns that are asked for by name; else
its one column of text, if that is all there is besides labels; else all its columns, of numbers alone or of several
kinds. Whatever is chosen as primary or human labels is kept out of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from maxl.experiments.data._arrow_rows import read_features, read_texts
from maxl.experiments.data._arrow_types import is_binary, is_list, is_string, may_label, to_numpy
from maxl.experiments.data._as_written import read_alike, two_spellings
from maxl.experiments.data._column_values import check_zones, read_columns, zones_of
from maxl.experiments.data._columns import (
    fit_columns,
    has_gaps,
    kinds_of,
    listed,
    require_kinds,
    said,
    said_of_identifiers,
)
from maxl.experiments.data._features import fit_standardise, fit_text
from maxl.experiments.data._files import IMAGE_SUFFIXES
from maxl.experiments.data._images import common_shape, decode
from maxl.experiments.data._labels import check_column
from maxl.experiments.data._source import Column, IntArray, Part, Raw, Source, Wanted
from maxl.experiments.data._tables import PLAIN_NUMBER, Table, check_same_names, class_names
from maxl.presets import did_you_mean

PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # what pandas stores beside the columns: no feature
_NUMBER = re.compile(r"(?=[^0-9]*[0-9])[-+0-9.,'\s]+([eE][-+]?[0-9]+)?%?")  # as any country writes it


def table_source(
    train: Table,
    test: Table | None = None,
    validation: Table | None = None,
    *,
    wanted: Wanted,
    base: Path,
) -> Source:
    """A source made of tables with the same columns.

    Args:
        train, test, validation: The parts; `test` None leaves it to `load` to cut one.
        wanted: Columns of targets and of labels, and more; no primary one takes the only column declared as class
            labels, or the one called "label".
        base: The folder that relative image paths start from.

    Raises:
        ValueError: if a column is missing or of another kind than it needs to be, if class names differ
            between the parts, or if nothing is left to learn from.
    """
    names, schema = class_names(train), train.content.schema
    labels = [field.name for field in schema if may_label(field.type)]
    human, primary = wanted.human, wanted.primary or (default_primary(labels, names),)
    parts = [part for part in (train, test, validation) if part is not None]
    for part in parts:
        if missing := {*schema.names} - {*part.content.column_names}:
            raise ValueError(
                f"every part needs the columns of the training part; {part.origin} lacks '{min(missing)}'"
            )
        for role, column in (
            *(("primary", name) for name in primary),
            ("human", human),
            ("probe", wanted.probe),
            ("trusted", wanted.trusted),
        ):
            if column is not None:
                check_labels(part, column, role, labels)
        check_same_names(train, part)
    types = {**wanted.known, **wanted.types}
    no_inputs = {*primary, human, wanted.probe, wanted.trusted, *names, *dropped(train, wanted, primary)}
    columns, kind = _samples(train, no_inputs, types)
    given = {name: held for name, held in types.items() if name in columns or name in wanted.types}
    kinds = kinds_of(train, columns, given) if kind == "columns" else {}
    besides = _beside_images(train, columns[0], no_inputs, types, wanted) if kind == "image" else {}
    asked = [name for name in (*primary, human, wanted.probe, wanted.trusted) if name is not None]
    alike = read_alike(parts, {**kinds, **besides}, asked, wanted.written)
    train = alike.parts[0]
    test = None if test is None else alike.parts[1]
    validation = None if validation is None else alike.parts[-1]
    zones = zones_of(train, {**kinds, **besides})
    for part in alike.parts:
        check_zones(part, {**kinds, **besides}, zones)
    free = [name for name in labels if name not in columns and name not in besides]

    said_of = (
        said_of_images(train, columns[0], no_inputs, besides)
        if kind == "image"
        else _said_of_columns(train, columns, kinds)
    )

    def read(table: Table, rows: IntArray) -> Raw:
        if kind == "image":
            return _read_images(table, columns[0], rows, base, wanted.image_size)
        if kind == "text":
            return read_texts(table, columns[0], rows)
        if kind == "columns":
            frame: Raw = read_columns(table, kinds, rows)
            return frame
        return read_features(table, columns, rows)

    def look(table: Table, rows: IntArray) -> tuple[int, ...]:
        where = partial(image_in, table, columns[0], rows)
        return common_shape(_images(table, columns[0], rows, base), where, wanted.image_size)

    def make(table: Table) -> Part:
        found = {
            name: Column(
                to_numpy(table.content, name), names.get(name), spelled=partial(two_spellings, table, name)
            )
            for name in free
            if may_label(table.content.schema.field(name).type)
        }
        return Part(
            found,
            lambda rows: read(table, rows),
            table.origin,
            partial(look, table) if kind == "image" else None,
            partial(read_columns, table, besides) if besides else None,
        )

    return Source(
        train=make(train),
        test=None if test is None else make(test),
        validation=None if validation is None else make(validation),
        primary=primary[0],
        human=human,
        fit={
            "image": None,
            "text": fit_text,
            "features": fit_standardise,
            "columns": partial(fit_columns, kinds=kinds, zones=zones),
        }[kind],
        feature_names=(tuple(besides) or None) if kind == "image" else tuple(columns),
        saw="\n".join(filter(None, (said_of, alike.saw))),
        fit_frame=partial(fit_columns, kinds=besides, zones=zones) if besides else None,
        image_column=columns[0] if kind == "image" else None,
    )


def _said_of_columns(table: Table, names: Sequence[str], kinds: Mapping[str, str]) -> str:
    lines = [said(kinds, table)] if kinds else []
    return "\n".join(filter(None, [*lines, said_of_identifiers(table, names)]))


def dropped(table: Table, wanted: Wanted, targets: Sequence[str]) -> tuple[str, ...]:
    """The columns to leave out.

    Raises:
        ValueError: if one is not there, or holds labels.
    """
    for name in wanted.drop:
        if name not in table.content.column_names:
            known = table.content.column_names
            raise ValueError(f"--drop needs columns of the table; got '{name}'{did_you_mean(name, known)}")
        if name in targets or name == wanted.human:
            raise ValueError(f"--drop leaves out inputs; '{name}' holds labels")
    return wanted.drop


def check_labels(table: Table, column: str, role: str, labels: Sequence[str]) -> None:
    """ValueError unless `column` is there and of a kind that can be classes."""
    if column not in table.content.column_names:
        check_column(labels, column, role)
    kind = table.content.schema.field(column).type
    if not may_label(kind):
        raise ValueError(
            f"{role} labels need whole numbers or text; column '{column}' of {table.origin} is {kind}"
        )
    if role != "primary" and is_list(kind):
        raise ValueError(f"{role} labels are one a row; column '{column}' of {table.origin} holds lists")


def default_primary(labels: Sequence[str], class_names: Mapping[str, tuple[str, ...]]) -> str:
    if len(class_names) == 1:
        return next(iter(class_names))
    if "label" in labels:
        return "label"
    raise ValueError(f"say which column holds the primary labels (--primary); columns: {', '.join(labels)}")


def image_column(table: Table, name: str) -> bool:
    """Whether a column holds images, encoded or as paths.

    Raises:
        ValueError: if most rows of a column are paths of images and the others are not.
    """
    kind = table.content.schema.field(name).type
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return {"bytes", "path"} <= {*fields} and is_binary(fields["bytes"]) and is_string(fields["path"])
    if not is_string(kind):
        return is_binary(kind)
    values, other = table.content[name].to_pylist(), _no_paths(table, name)
    if values and 0 < len(other) < len(values) / 2:
        raise ValueError(
            f"column '{name}' of {table.origin} needs paths of images ({', '.join(sorted(IMAGE_SUFFIXES))}) in "
            f"every row or in few; row {other[0]} holds {values[other[0]]!r}, most others hold paths"
        )
    return bool(values) and not other


def _no_paths(table: Table, name: str) -> list[int]:
    """Rows of a column of texts that are no paths of images; none of other columns."""
    if not is_string(table.content.schema.field(name).type):
        return []
    values = enumerate(table.content[name].to_pylist())
    return [row for row, v in values if v is None or Path(v).suffix.lower() not in IMAGE_SUFFIXES]


def _samples(table: Table, labels: set[str | None], types: Mapping[str, str]) -> tuple[list[str], str]:
    """The columns that hold the samples, and their kind: "image", "text", "features" (numbers alone) or "columns"."""
    names = table.content.column_names
    rest = [name for name in names if name not in labels and not PANDAS_INDEX.fullmatch(name)]
    if not rest:
        raise ValueError(
            f"a table needs an image, text or numeric column besides its labels; it has: {', '.join(names)}"
        )
    images = _image_columns(table, rest, types)
    if images:
        return images[:1], "image"
    if types:
        return rest, "columns"
    kinds = [table.content.schema.field(name).type for name in rest]
    if len(rest) == 1 and is_string(kinds[0]):
        _check_words(table, rest[0])
        return rest, "text"
    is_number = (pa.types.is_integer(k) or pa.types.is_floating(k) or pa.types.is_boolean(k) for k in kinds)
    return rest, "features" if all(is_number) and not has_gaps(table, rest) else "columns"


def _image_columns(table: Table, names: Sequence[str], types: Mapping[str, str]) -> list[str]:
    """Those that hold images; of paths in most rows of a column something else may be said."""
    return [
        name for name in names if not (name in types and _no_paths(table, name)) and image_column(table, name)
    ]


def _beside_images(
    table: Table, image: str, no_inputs: set[str | None], types: Mapping[str, str], wanted: Wanted
) -> dict[str, str]:
    """What the columns hold that are inputs beside the images: those that are named, for others may give labels away.

    Raises:
        ValueError: if one of them is not there, or holds images or targets.
    """
    names = _free_beside(table, image, no_inputs)
    for name in wanted.types:
        if name == image or _image_columns(table, [n for n in names if n == name], types):
            raise ValueError(
                f"--types says what columns beside the images hold; '{name}' of {table.origin} holds images: leave it out"
            )
        if name in no_inputs:
            raise ValueError(
                f"--types takes columns in as inputs; '{name}' of {table.origin} holds labels, or is left out"
            )
    require_kinds(names, wanted.types)
    if wanted.stream:
        refuse_beside_streamed(types, table.origin)
    return {name: types[name] for name in names if name in types}


def refuse_beside_streamed(types: Mapping[str, str], origin: str) -> None:
    """ValueError if columns are asked for beside images that stay on disk."""
    if types:
        raise ValueError(
            f"--stream takes images alone, and --types takes columns of {origin} in beside them: leave one of them out"
        )


def _free_beside(table: Table, image: str, no_inputs: set[str | None]) -> list[str]:
    names = [n for n in table.content.column_names if n != image and n not in no_inputs]
    return [name for name in names if not PANDAS_INDEX.fullmatch(name)]


def said_of_images(table: Table, image: str, no_inputs: set[str | None], besides: Mapping[str, str]) -> str:
    """Which columns beside that of the images are learned from; empty where there is none."""
    unused = [name for name in _free_beside(table, image, no_inputs) if name not in besides]
    inputs = f"and {len(besides)} columns are inputs" if besides else "are the inputs"
    taken = f"; {listed(besides, table)}" if besides else ""
    left = f"; not used: {', '.join(unused)} (--types COLUMN=KIND takes them in)" if unused else ""
    return f"the images of column '{image}' {inputs}{taken}{left}" if besides or unused else ""


def _check_words(table: Table, name: str) -> None:
    """ValueError if a column of text is one of numbers, of which some are written as Arrow does not read them."""
    values = [value or "" for value in table.content[name].to_pylist()]
    if 2 * sum(_NUMBER.fullmatch(value.strip()) is not None for value in values) > len(values):
        row = next((row for row, value in enumerate(values) if not PLAIN_NUMBER.fullmatch(value)), 0)
        raise ValueError(
            f"column '{name}' of {table.origin} holds numbers, but row {row} holds {values[row]!r}: write all of "
            "them as 1234.5, and remove or fill missing ones"
        )


def _read_images(table: Table, name: str, rows: IntArray, base: Path, image_size: int | None) -> Tensor:
    where = partial(image_in, table, name, rows)
    return decode(_images(table, name, rows, base), len(rows), where, image_size)


def _images(table: Table, name: str, rows: IntArray, base: Path) -> Iterator[bytes | Path]:
    """Encoded images or their paths, one after the other, so that they are never all in memory."""
    column = table.content[name]
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    for i, row in enumerate(rows.tolist()):  # a column's own ``take`` may copy all of it
        chunk = int(np.searchsorted(ends, row, side="right"))
        item = column.chunk(chunk)[row - int(ends[chunk]) + len(column.chunk(chunk))].as_py()
        yield image_content(item, base, partial(image_in, table, name, rows, i))


def image_in(table: Table, name: str, rows: IntArray, i: int) -> str:
    """How messages name the i-th image of some rows of a column."""
    return f"the image in column '{name}', row {rows[i]} of {table.origin},"


def image_content(item: object, base: Path, where: Callable[[], str]) -> bytes | Path:
    """The image in a cell of a table, encoded or as a path.

    Args:
        item: Bytes, a path, or a dictionary of both.
        base: The folder that relative paths start from.
        where: Says for messages where it stands.

    Raises:
        ValueError: if there is none.
    """
    content = item["bytes"] or item["path"] if isinstance(item, dict) else item
    if not isinstance(content, (bytes, str)) or not content:
        raise ValueError(f"{where()} is missing; remove the row")
    return content if isinstance(content, bytes) else base / content
