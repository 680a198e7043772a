"""Rows of an Arrow table as samples: its texts, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from maxl.experiments.data._arrow_types import is_string, to_numpy
from maxl.experiments.data._memory import require_memory
from maxl.experiments.data._source import LARGEST, IntArray
from maxl.experiments.data._tables import Table


def read_texts(table: Table, name: str, rows: IntArray) -> list[str]:
    """A column of texts of some rows; a missing one is empty.

    Raises:
        ValueError: if the column holds anything but text.
    """
    kind = table.content.schema.field(name).type
    if not is_string(kind):
        raise ValueError(f"texts need a column of text; column '{name}' of {table.origin} is {kind}")
    return [text or "" for text in table.content[name].take(pa.array(rows)).to_pylist()]


def read_features(table: Table, names: Sequence[str], rows: IntArray) -> Tensor:
    """Numeric columns of some rows as float64, shape (N, D), so that large offsets lose no digits.

    Raises:
        ValueError: if a column is not numeric, or a value is missing, not finite, or beyond float32.
    """
    # In float64, column by column and then side by side.
    require_memory(
        2 * 8 * len(rows) * len(names), f"{len(rows)} rows of {len(names)} columns of {table.origin}"
    )
    columns = []
    for name in names:
        values = to_numpy(table.content, name)[rows]
        if values.dtype.kind not in "iuf":
            raise ValueError(
                f"features must be numbers; column '{name}' is {table.content.schema.field(name).type} in "
                f"{table.origin}: drop it, encode it, or name it as labels"
            )
        for bad, rule in (
            (~np.isfinite(values), "be finite"),
            (
                np.abs(values.astype(np.float64)) > LARGEST,
                f"lie within ±{LARGEST:.2g}, the range of float32",
            ),
        ):
            if bad.any():
                first = np.flatnonzero(bad)[0]
                raise ValueError(
                    f"features must {rule}; column '{name}', row {rows[first]} holds {values[first]} "
                    f"({np.count_nonzero(bad)} such rows) in {table.origin}: remove or fill these rows"
                )
        floats = values.astype(np.float64)
        large = values.dtype.kind in "iu" and np.abs(floats).max(initial=0) > 2**53
        if large and len(np.unique(floats)) < len(np.unique(values)):
            raise ValueError(
                f"features must be numbers that float64 tells apart; column '{name}' of {table.origin} holds whole "
                "numbers beyond 2^53 that it merges: subtract an offset"
            )
        columns.append(torch.from_numpy(floats))
    return torch.stack(columns, dim=1)
