"""What the cells of an Arrow column hold, by its type, and as an array."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def may_label(kind: pa.DataType) -> bool:
    """Whether cells can be labels: whole or other numbers, yes and no, text, or lists of labels."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or is_string(kind)
        or is_list(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether cells are lists of names or of whole numbers."""
    types = pa.types
    if not (types.is_list(kind) or types.is_large_list(kind)):
        return False
    return bool(is_string(kind.value_type) or types.is_integer(kind.value_type))


def is_string(kind: pa.DataType) -> bool:
    """Whether cells are text, each its own or one of a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether cells are bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def to_numpy(table: pa.Table, name: str) -> np.ndarray:
    """A column as an array: numbers, or objects that are text, a tuple of labels, or None; a missing number is NaN."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_string(column.type):
        # As objects: NumPy's own strings would lose trailing zero bytes, and missing ones stay None.
        return np.array(column.to_pylist(), dtype=object)
    if is_list(column.type):
        cells = np.empty(len(column), dtype=object)
        cells[:] = [None if cell is None else tuple(cell) for cell in column.to_pylist()]
        return cells
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: np.ndarray = column.to_numpy()  # missing integers become NaN
    return values
