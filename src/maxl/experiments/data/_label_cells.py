"""Several labels in one column of a table: cells such as "cat;dog", or lists."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from maxl.experiments.data._labels import check_alike
from maxl.experiments.data._source import Column, IntArray, Part, some_of
from maxl.presets import did_you_mean

_SURE = (";", "|")  # between labels, as a rule; a comma may as well belong to a name
_LIST = re.compile(r"\s*[\[({].*[\])}]\s*", re.DOTALL)  # how programs write lists into a cell


def holds_cells(column: Column) -> bool:
    """Whether a column can hold several labels a row: it holds text or lists."""
    return column.values.dtype.kind in "OU"


def looks_several(column: Column) -> str | None:
    """What parts the labels of a column, ";", "|" or "list", where its cells look like several labels; else None.

    Numbers do not; a column of text does if a separator parts two labels of a cell, and labels repeat: they are fewer than the
    different cells.
    """
    if not holds_cells(column):
        return None
    cells = [value for value in column.values if value is not None]
    if any(isinstance(value, tuple) for value in cells):
        return "list"
    found = [mark for mark in _SURE if any(mark in value for value in cells)]
    if len(found) != 1:
        return None
    rows = {value: _parted(value, found[0]) for value in cells}
    labels = {label for row in rows.values() for label in row}
    return found[0] if len(labels) < len(rows) and any(len(row) > 1 for row in rows.values()) else None


def encode_cells(parts: Sequence[Part], name: str) -> tuple[list[IntArray], tuple[str, ...], str | None]:
    """Which of the labels in a column each row has.

    Labels are parted by ";" or by "|", or by commas where neither occurs in the column; spaces around them do not count. A
    cell that is empty has none of them, and an entry of a list that is empty or missing is none. They are numbered in sorted
    order over all parts together.

    Args:
        parts: All parts, which have the column.
        name: The column's.

    Returns:
        0 or 1, int64 of shape (N, C), for each part, the names of the C labels, and what parts them in a cell; None where it
        parts none.

    Raises:
        ValueError: if a part holds broken numbers, both separators occur, a cell is written as a list of a program, no
            row has a label, or two labels are written alike.
    """
    for part in parts:
        if (
            part.columns[name].values.dtype.kind not in "OUiu"
        ):  # whole numbers are labels that stand alone in each cell
            raise ValueError(
                f"labels in cells need to be text in all parts; column '{name}' of {part.origin} holds numbers that are not "
                "whole, or misses some"
            )
    mark = _separator(parts, name)
    rows = [_labels_of(part, name, mark) for part in parts]
    names = tuple(sorted({label for part in rows for row in part for label in row}))
    if not names:
        raise ValueError(
            f"labels need to occur; no row has one in column '{name}' of {parts[0].origin}: choose another column"
        )
    check_alike(name, names)
    parted = any(isinstance(v, str) and mark in v for part in parts for v in part.columns[name].values)
    return [_zeros_and_ones(part, names) for part in rows], names, mark if parted else None


def encode_known(part: Part, name: str, names: Sequence[str], mark: str | None = None) -> IntArray:
    """The same of one part, for labels that are known.

    Args:
        part: Has the column.
        name: The column's.
        names: The C labels.
        mark: What parts them, where it is known; else it is looked for. A cell that is one of them as a whole is that one.

    Returns:
        0 or 1, int64 of shape (N, C).

    Raises:
        ValueError: if a row has another label; or as ``encode_cells``.
    """
    rows = _labels_of(part, name, mark or _separator([part], name, names), names)
    for i, row in enumerate(rows):
        if odd := sorted({*row} - {*names}):
            raise ValueError(
                f"every label needs to be one of the run's ({some_of(names)}); row {i} of {part.origin} has "
                f"{odd[0]!r} in column '{name}'{did_you_mean(odd[0], names)}{_told(mark)}"
            )
    return _zeros_and_ones(rows, tuple(names))


def _separator(parts: Sequence[Part], name: str, known: Collection[str] = ()) -> str:
    """What parts labels in the cells of a column, those that are known as a whole left out."""
    cells = [(part, i, v) for part in parts for i, v in enumerate(part.columns[name].values)]
    texts = [
        (part, i, value) for part, i, value in cells if isinstance(value, str) and value.strip() not in known
    ]
    for part, i, value in texts:
        if _LIST.fullmatch(value):
            raise ValueError(
                f"several labels in a cell need to be written as cat;dog; row {i} of {part.origin} holds {value!r} in column "
                f"'{name}': write them so, or save lists as parquet"
            )
    found = {mark: (part, i) for part, i, value in texts for mark in _SURE if mark in value}
    if len(found) > 1:
        (part, i), (other, j) = found[_SURE[0]], found[_SURE[1]]
        raise ValueError(
            f"labels in a cell need one separator; column '{name}' has ';' in row {i} of {part.origin}, '|' in row {j} of "
            f"{other.origin}: write one of them throughout"
        )
    return next(iter(found), ",")


def _told(mark: str | None) -> str:
    return "" if mark is None else f"; in training {mark!r} parted the labels of a cell"


def _labels_of(part: Part, name: str, mark: str, known: Collection[str] = ()) -> list[tuple[str, ...]]:
    """The labels of each row; a cell that is known as a whole is not parted."""
    rows: list[tuple[str, ...]] = []
    for value in part.columns[name].values:
        if isinstance(value, tuple):
            rows.append(tuple(str(label) for label in value if not _is_none(label)))
        elif isinstance(value, str) and value.strip() in known:
            rows.append((value.strip(),))
        else:
            rows.append(() if value is None else _parted(str(value), mark))
    return rows


def _is_none(label: object) -> bool:
    """Whether an entry of a list is missing or blank: no label, as in a cell of text."""
    return label is None or label != label or not str(label).strip()


def _parted(cell: str, mark: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in cell.split(mark) if label.strip())


def _zeros_and_ones(rows: Sequence[tuple[str, ...]], names: tuple[str, ...]) -> IntArray:
    number = {name: i for i, name in enumerate(names)}
    has = np.zeros((len(rows), len(names)), dtype=np.int64)
    for i, row in enumerate(rows):
        has[i, [number[label] for label in row]] = 1
    return has
