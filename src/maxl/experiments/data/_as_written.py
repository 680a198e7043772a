"""Columns of CSV files as they are written, where what they look like would merge or part what their role tells apart.

A CSV file has no kinds: each file's columns are read by what they look like, whatever they are for. Once the role of a
column is known, the parts of one data set are to read it alike, and categories are to stay apart that are written differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute

from maxl.experiments.data._arrow_types import is_string
from maxl.experiments.data._tables import Table, as_written

_FLOATS_MERGE = 2.0**53  # the first of the whole numbers that share a float64 with a neighbour


@dataclass(frozen=True)
class Read:
    """The parts of a data set with columns that are read alike, and what is to be said of that, in lines."""

    parts: Sequence[Table]
    saw: str


def read_alike(
    parts: Sequence[Table], kinds: Mapping[str, str], labels: Iterable[str], written: Sequence[str] = ()
) -> Read:
    """The parts, with columns of their CSV files as text where these are texts, or categories or labels in one of them.

    Texts are read as they are written. So are categories, if a part holds words among them, or writes one number or date in
    two ways ("7" and "007", "1.1" and "1.10"), or numbers that floats merge; and labels, if the training part holds words.
    Other columns, and tables that are no CSV files, stay as they are.

    Args:
        parts: The training part first; all have the columns.
        kinds: What the columns of inputs hold.
        labels: Names of columns of labels.
        written: Categories that were read as they are written when their features were made, which are to be made so again.

    Raises:
        ValueError: if a file has changed since it was read.
    """
    names = [name for name, kind in kinds.items() if kind == "text"]
    looked_at, lines = [], []
    for name in (name for name, kind in kinds.items() if kind == "category"):
        if name in written or any(_holds_words(part, name) for part in parts):
            names.append(name)
        else:
            looked_at.append(name)
    merged: dict[str, str] = {}
    for part in parts:
        merged = {**_merged(part, looked_at), **merged}
    for name, why in merged.items():
        names.append(name)
        lines.append(f"column '{name}' is read as it is written: {why}")
    names += [name for name in dict.fromkeys(labels) if _holds_words(parts[0], name)]
    return Read([as_written(part, names) for part in parts], "\n".join(lines))


def two_spellings(table: Table, name: str) -> tuple[str, str] | None:
    """Two ways in which a CSV file writes one number or date of a column; None where there are none, as in other tables."""
    if not table.files or not _may_merge(table.content.schema.field(name).type):
        return None
    return _differing(table.content[name], as_written(table, [name]).content[name])


def _merged(table: Table, names: Sequence[str]) -> dict[str, str]:
    """Why the values of columns would merge what is written differently, of those that do."""
    names = [name for name in names if _may_merge(table.content.schema.field(name).type)]
    if not table.files or not names:
        return {}
    texts = as_written(table, names).content
    found = {}
    for name in names:
        values = table.content[name]
        if pair := _differing(values, texts[name]):
            found[name] = f"{pair[0]!r} and {pair[1]!r} are two categories"
        elif (large := _large(values)) is not None:
            found[name] = f"floats merge such numbers as {texts[name][large].as_py()}"
    return found


def _differing(values: pa.ChunkedArray, texts: pa.ChunkedArray) -> tuple[str, str] | None:
    there = values.is_valid()
    values, texts = values.filter(there), compute.utf8_trim_whitespace(texts).filter(there)
    if compute.count_distinct(texts).as_py() == compute.count_distinct(values).as_py():
        return None
    first: dict[object, str] = {}
    for value, text in zip(values.to_pylist(), texts.to_pylist(), strict=True):
        if (known := first.setdefault(value, text)) != text:
            return known, text
    return None


def _large(values: pa.ChunkedArray) -> int | None:
    """The first row of a number that floats may merge with another."""
    if not pa.types.is_floating(values.type):
        return None
    rows = np.flatnonzero(np.abs(values.to_numpy()) >= _FLOATS_MERGE)
    return int(rows[0]) if len(rows) else None


def _holds_words(table: Table, name: str) -> bool:
    kind = table.content.schema.field(name).type
    return is_string(kind) and not pa.types.is_null(kind)


def _may_merge(kind: pa.DataType) -> bool:
    """Whether values can be written in several ways; True and true mean the same."""
    return not (is_string(kind) or pa.types.is_boolean(kind))
