"""Targets of labelled samples that came after training: in the classes of a finished run, none of them new."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data._arrow import image_column, image_content, image_in
from maxl.experiments.data._arrow_types import to_numpy
from maxl.experiments.data._label_cells import encode_known, holds_cells
from maxl.experiments.data._labels import check_column
from maxl.experiments.data._source import Column, Part, some_of
from maxl.experiments.data._tables import PLAIN_NUMBER, Table, class_names
from maxl.experiments.data._targets import check_judgeable, encode_targets
from maxl.presets import did_you_mean

_WHOLE = re.compile(r"\s*\+?([0-9]+)(\.0*)?\s*")  # as a table may write the number of a class
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,13}")
_PARTS = ("train", "training", "test", "testing", "valid", "validation", "val")


def class_codes(values: Sequence[str], names: Sequence[str], where: Callable[[int], str]) -> Tensor:
    """The number that each class has in a run, int64 of shape (N,).

    Args:
        values: Names of classes.
        names: Those of the run, in its order.
        where: Says for messages where the i-th value stands.

    Raises:
        ValueError: for a class that the run does not have; it names the first sample.
    """
    known = {name: i for i, name in enumerate(names)}
    found = [known.get(value) for value in values]
    unknown = [i for i, code in enumerate(found) if code is None]
    if unknown:
        first = values[unknown[0]]
        hint = (
            "; the folder seems to hold parts: name one of them"
            if first.lower() in _PARTS
            else did_you_mean(first, names)
        )
        raise ValueError(
            f"every class needs to be one of the run's ({some_of(names)}); {where(unknown[0])} has "
            f"{first!r} ({len(unknown)} such samples){hint}"
        )
    return torch.tensor([code for code in found if code is not None], dtype=torch.int64)


def table_targets(
    table: Table, task: str, column: str | None, names: tuple[str, ...], separator: str | None = None
) -> Tensor:
    """The targets in a table, as they are in a split but for numbers, which stay as they stand.

    Args:
        table: Read with ``column`` as text, so that a class is what is written.
        task: "classification", "multi-label" or "regression".
        column: Of classes, or of cells with several labels; None takes the only one declared to have just these classes,
            the only one declared to have any, or the one called "label".
        names: Of the classes or labels; of numbers, and of labels in columns of their own, these.
        separator: What parts the labels of a cell, where training has seen it.

    Returns:
        int64 of shape (N,) or (N, C), or float64 of shape (N, D).

    Raises:
        ValueError: if a column or value is missing, no label occurs, or a class is not the run's.
    """
    if task == "classification":
        declared = class_names(table)
        same = [name for name, classes in declared.items() if classes == names]
        alone = same if len(same) == 1 else list(declared)
        column = column or (alone[0] if len(alone) == 1 else "label")
        check_column(table.content.column_names, column, "primary")
        written = _written(table, column, names, declared.get(column))
        return class_codes(written, names, lambda row: f"row {row} of {table.origin}")
    columns = table.content.column_names
    if task == "multi-label" and _in_cells(column, columns, names):
        column = column or "label"
        check_column(columns, column, "primary")
        cells = Part({column: Column(to_numpy(table.content, column))}, lambda _: [], table.origin)
        if not holds_cells(cells.columns[column]):
            raise ValueError(
                f"labels need text, several a cell, or a column each; column '{column}' of {table.origin} holds numbers, and "
                f"{next((name for name in names if name not in columns), names[0])!r} is no column of it"
            )
        labels = encode_known(cells, column, names, separator)
        check_judgeable(task, labels, names, table.origin)
        return torch.from_numpy(labels)
    for name in names:
        check_column(columns, name, "primary")
    part = Part({name: Column(to_numpy(table.content, name)) for name in names}, lambda _: [], table.origin)
    (targets,) = encode_targets(task, [part], names).parts
    if task == "multi-label":
        check_judgeable(task, targets, names, table.origin)
    return torch.from_numpy(targets)


def _in_cells(column: str | None, columns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether labels stand in one column, several a cell, and not each in a column of its own.

    A column that is asked for is read where it is there: others that are called like labels may be inputs.
    """
    own_columns = {*names} <= {*columns}
    if column is None:
        return "label" in columns and not own_columns
    return column not in names and (column in columns or not own_columns)


def _written(table: Table, column: str, names: Sequence[str], declared: tuple[str, ...] | None) -> list[str]:
    """The names of classes in a column, numbers as a run writes them."""
    values = to_numpy(table.content, column)
    kind = values.dtype.kind
    bad = (
        ~np.isfinite(values)
        if kind == "f"
        else np.array([value is None or value == "" for value in values], dtype=bool)
    )
    if bad.any():
        raise ValueError(
            f"every sample needs a class; row {int(bad.nonzero()[0][0])} of {table.origin} has none in column "
            f"'{column}' ({int(bad.sum())} such rows): remove or fill these rows"
        )
    if kind == "f":
        return [str(int(value)) if value == int(value) else repr(float(value)) for value in values]
    if kind in "iu" and declared is not None:
        odd = (values < 0) | (values >= len(declared))
        if odd.any():
            row = int(odd.nonzero()[0][0])
            raise ValueError(
                f"row {row} of {table.origin} has {values[row]}, beyond its {len(declared)} classes"
            )
        return [declared[int(value)] for value in values]
    return [str(value) for value in values] if kind in "iu" else [_as_known(str(v), names) for v in values]


def _as_known(text: str, names: Sequence[str]) -> str:
    """A text that is not among the names as training would have read it in a column of numbers, or true and false."""
    if text in names:
        return text
    if text in ("true", "True", "TRUE", "false", "False", "FALSE") and {*names} <= {"0", "1"}:
        return str(int(text.lower() == "true"))
    known = _whole(text)
    return text if known is None or known not in names else known


def _whole(text: str) -> str | None:
    """The number that a text stands for in a column of numbers, as a run writes it; None where it is no whole one."""
    if (number := _WHOLE.fullmatch(text)) is not None:
        return str(int(number[1]))
    if _HEXADECIMAL.fullmatch(text):
        return str(int(text, 16))
    value = float(text) if PLAIN_NUMBER.fullmatch(text) else math.nan
    return str(int(value)) if 0 <= value < 2**53 and value == int(value) else None


def image_items(
    table: Table, base: Path, leave_out: Sequence[str], of_training: str | None = None
) -> list[bytes | Path]:
    """The images of a table, encoded or as paths, one a row.

    Args:
        table: The table.
        base: The folder that relative paths start from.
        leave_out: Columns that hold targets.
        of_training: The column that training had them in, which is taken where it is there and holds images.

    Raises:
        ValueError: if no column or more than one holds images, or a row has none.
    """
    columns = [n for n in table.content.column_names if n not in leave_out and image_column(table, n)]
    if of_training in columns:
        columns = [of_training]
    if len(columns) != 1:
        found = f"it has {', '.join(columns)}" if columns else "it has none"
        raise ValueError(f"a run on images needs one column of images in {table.origin}; {found}")
    return images_of_column(table, columns[0], base)


def images_of_column(table: Table, name: str, base: Path) -> list[bytes | Path]:
    """The images of a column, encoded or as paths, one a row; relative paths start from ``base``.

    Raises:
        ValueError: if a row has none.
    """
    rows = np.arange(len(table.content))
    cells = enumerate(table.content[name].to_pylist())
    return [image_content(item, base, partial(image_in, table, name, rows, row)) for row, item in cells]
