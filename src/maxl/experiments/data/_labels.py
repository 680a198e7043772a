"""From stored label columns to class indices: choosing, encoding and checking them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from maxl.experiments.data._source import Column, IntArray, Part, nearest


def check_column(columns: Collection[str], name: str, role: str) -> None:
    """Check that `name` is among the columns of labels.

    Args:
        role: "primary" or "human", for the message.

    Raises:
        ValueError: if there is no such column; lists those there are and suggests the nearest.
    """
    if name not in columns:
        raise ValueError(
            f"{role} labels: no column '{name}'{nearest(name, columns)}; "
            f"this data set has: {', '.join(columns)}"
        )


def encode(parts: Sequence[Part], name: str) -> tuple[list[IntArray], tuple[str, ...]]:
    """Class indices of column `name` in every part, and the class names.

    Values that index a list of names are kept. Others (strings, or bare integers such as 1, 2, 5) are
    numbered in sorted order over all parts together.

    Returns: one int64 array of shape (N,) a part, and the names of the classes.

    Raises:
        ValueError: if a label is missing, negative, not an integer, or beyond the names; says in which row.
    """
    columns = [part.columns[name] for part in parts]
    for column in columns:
        _check_values(name, column)
    names = columns[0].names
    if names is not None:
        return [column.values.astype(np.int64) for column in columns], names
    values = np.concatenate([column.values for column in columns])
    if values.dtype.kind == "f":  # whole numbers, as checked
        values = values.astype(np.int64)
    classes, codes = np.unique(values, return_inverse=True)
    boundaries = np.cumsum([len(column.values) for column in columns])[:-1]
    return [part.astype(np.int64) for part in np.split(codes, boundaries)], tuple(map(str, classes.tolist()))


def _check_values(name: str, column: Column) -> None:
    values = column.values
    if values.dtype.kind == "f":
        _reject(name, values, ~np.isfinite(values), "is missing or not finite")
        _reject(name, values, values != np.floor(values), "is not a whole number, so it is no class")
    elif values.dtype.kind == "O":
        missing = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
        _reject(name, values, missing, "is missing")
    elif values.dtype.kind == "U":
        _reject(name, values, values == "", "is empty")
    if values.dtype.kind in "if":
        _reject(name, values, values < 0, "is negative")
        if column.names is not None:
            _reject(name, values, values >= len(column.names), f"is beyond the {len(column.names)} classes")


def _reject(name: str, values: np.ndarray, bad: np.ndarray, rule: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(
            f"labels in column '{name}': row {rows[0]} {rule} "
            f"(got {values[rows[0]]}; {len(rows)} such rows): remove or correct these rows"
        )


def check_refines(
    primary: IntArray, human: IntArray, primary_names: Sequence[str], human_names: Sequence[str]
) -> None:
    """Check that each human class lies inside one primary class, as a hierarchy needs.

    Args:
        primary, human: Labels of the same samples, shape (N,).

    Raises:
        ValueError: naming a human class that occurs under two primary classes.
    """
    pairs = np.unique(np.stack([human, primary]), axis=1)
    repeated = np.flatnonzero(pairs[0, 1:] == pairs[0, :-1])
    if len(repeated):
        first = repeated[0]
        fine, one, other = pairs[0, first], pairs[1, first], pairs[1, first + 1]
        raise ValueError(
            "human labels must refine the primary ones, each human class inside one primary class; "
            f"got '{human_names[fine]}' under both '{primary_names[one]}' and '{primary_names[other]}': "
            "choose other columns, or give the two groups different names"
        )


def check_every_class(primary: IntArray, names: Sequence[str]) -> None:
    """Check that every primary class has a training sample.

    Raises:
        ValueError: naming the first class that has none.
    """
    counts = np.bincount(primary, minlength=len(names))
    if not counts.all():
        empty = np.flatnonzero(counts == 0)
        raise ValueError(
            f"every primary class needs a training sample; class '{names[empty[0]]}' has none "
            f"({len(empty)} of {len(names)} are empty): add samples, or set fewer aside for validation"
        )
