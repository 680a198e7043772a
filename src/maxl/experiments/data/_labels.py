"""From stored label columns to class indices: choosing, encoding and checking them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from decimal import Decimal

import numpy as np

from maxl.experiments.data._source import IntArray, Part
from maxl.presets import did_you_mean

_FLOATS_MERGE = 2.0**53  # the first of the whole numbers that share a float64 with a neighbour
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def check_column(columns: Collection[str], name: str, role: str) -> None:
    """Check that `name` is among the columns of labels.

    Args:
        role: "primary" or "human", for the message.

    Raises:
        ValueError: if there is no such column; lists those there are and suggests the nearest.
    """
    if name not in columns:
        raise ValueError(
            f"{role} labels: no column '{name}'{did_you_mean(name, columns)}; "
            f"this data set has: {', '.join(columns)}"
        )


def encode(parts: Sequence[Part], name: str) -> tuple[list[IntArray], tuple[str, ...]]:
    """Class indices of column `name` in every part, and the class names.

    Values that index a list of names are kept. Others (strings, or bare integers such as 1, 2, 5) are
    numbered in sorted order over all parts together.

    Returns: one int64 array of shape (N,) a part, and the names of the classes.

    Raises:
        ValueError: if a label is missing, negative, not an integer, or beyond the names; says in which row;
            if one part has text and another numbers, there is one class only, or two are written alike.
    """
    for part in parts:
        _check_values(name, part)
        _check_spelled(name, part)
    columns = [part.columns[name] for part in parts]
    names = columns[0].names
    if names is not None:
        return [column.values.astype(np.int64) for column in columns], names
    is_text = [column.values.dtype.kind in "OU" for column in columns]
    if any(is_text) and not all(is_text):
        one, other = parts[is_text.index(True)], parts[is_text.index(False)]
        raise ValueError(
            f"labels in column '{name}' need to be text or numbers in all parts alike; "
            f"they are text in {one.origin}, numbers in {other.origin}"
        )
    # Not negative, and whole where they are floats, as checked: unsigned integers hold all of them.
    values = np.concatenate(
        [column.values if is_text[0] else column.values.astype(np.uint64) for column in columns]
    )
    classes, codes = np.unique(values, return_inverse=True)
    class_names = tuple(map(str, classes.tolist()))
    if is_text[0]:
        check_alike(name, class_names)
    if len(class_names) == 1:
        raise ValueError(
            f"labels in column '{name}' need at least 2 classes; all of them are '{class_names[0]}'"
        )
    boundaries = np.cumsum([len(column.values) for column in columns])[:-1]
    return [part.astype(np.int64) for part in np.split(codes, boundaries)], class_names


def _check_values(name: str, part: Part) -> None:
    column = part.columns[name]
    values = column.values
    if values.dtype.kind == "f":
        _reject(name, part, ~np.isfinite(values), "is missing or not finite")
        _reject(
            name,
            part,
            values != np.floor(values),
            "is not a whole number, so it is no class",
            "or predict the number itself (--task regression)",
        )
        _reject(name, part, values >= _FLOATS_MERGE, "is so large that floats merge whole numbers")
    elif values.dtype.kind == "O":
        _reject(name, part, np.array([value is None for value in values], dtype=bool), "is missing")
        _reject(
            name,
            part,
            np.array([isinstance(value, tuple) for value in values], dtype=bool),
            "holds a list, so it has no single class",
            "or learn several labels a row (--task multi-label)",
        )
    if values.dtype.kind in "OU":
        _reject(name, part, np.array([value == "" for value in values], dtype=bool), "is empty")
    else:
        _reject(name, part, values < 0, "is negative")
    if column.names is not None:
        if values.dtype.kind in "OU":
            raise ValueError(
                f"labels in column '{name}' need to be the numbers of its {len(column.names)} named classes; "
                f"they are text in {part.origin}"
            )
        _reject(name, part, values >= len(column.names), f"is beyond the {len(column.names)} classes")


def _check_spelled(name: str, part: Part) -> None:
    """ValueError if numbers of classes are written in two ways, as codes are that look like numbers: they may be two classes."""
    spelled = part.columns[name].spelled
    if spelled is not None and (pair := spelled()) is not None:
        raise ValueError(f"labels in column '{name}' of {part.origin}: {_one_class(*pair)}")


def _one_class(one: str, other: str) -> str:
    return (
        f"{one!a} and {other!a} are one class in two spellings, as it seems: write them alike, or give them different "
        "names"
    )


def _reject(name: str, part: Part, bad: np.ndarray, rule: str, instead: str = "") -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(
            f"labels in column '{name}': row {rows[0]} {rule} "
            f"(got {part.columns[name].values[rows[0]]}; {len(rows)} such rows in {part.origin}): "
            f"remove or correct these rows{', ' * bool(instead)}{instead}"
        )


def check_alike(name: str, class_names: Sequence[str]) -> None:
    """ValueError if two classes differ only in how they are written: spaces, accents, or 1 and 1.0."""
    seen: dict[str | Decimal, str] = {}
    for written in class_names:
        seen_as = "".join(c for c in written if unicodedata.category(c) != "Cf")  # zero-width characters
        meant: str | Decimal = unicodedata.normalize("NFC", seen_as).strip()
        if _NUMBER.fullmatch(str(meant)):
            meant = Decimal(str(meant))
        if meant in seen:
            raise ValueError(f"labels in column '{name}': {_one_class(seen[meant], written)}")
        seen[meant] = written


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
