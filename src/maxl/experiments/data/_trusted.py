"""Samples whose labels can be trusted, where others may be wrong: which they are, and what they judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maxl.experiments.data._arrow_types import to_numpy
from maxl.experiments.data._select import TEST_SEED, order_to_set_aside
from maxl.experiments.data._source import IntArray, Part
from maxl.experiments.data._tables import Table

BoolArray = npt.NDArray[np.bool_]
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


def read_trusted(parts: Sequence[Part], name: str) -> list[BoolArray]:
    """Which samples of each part can be trusted, bool of shape (N,); the first part is the training part.

    Raises:
        ValueError: if a value is neither yes nor no (yes/no, true/false, 1/0), or the training part has samples of one
            kind only.
    """
    found = []
    for part in parts:
        found.append(_yes(part.columns[name].values, name, part.origin))
    if found[0].all() or not found[0].any():
        every = "every" if found[0].all() else "no"
        raise ValueError(
            f"--trusted tells samples that can be trusted from others; '{name}' says so of {every} sample of "
            f"{parts[0].origin}: leave it out"
        )
    return found


def read_trusted_rows(table: Table, name: str | None) -> Tensor | None:
    """Which rows of a table can be trusted, bool of shape (N,), be it all of them; None without such a column.

    Raises:
        ValueError: if a value is neither yes nor no.
    """
    if name is None or name not in table.content.column_names:
        return None
    return torch.from_numpy(_yes(to_numpy(table.content, name), name, table.origin))


def _yes(values: npt.NDArray[Any], name: str, origin: str) -> BoolArray:
    written = [str(v).lower() if values.dtype.kind in "OU" else f"{v:g}" for v in values.tolist()]
    odd = [row for row, value in enumerate(written) if value not in _YES + _NO]
    if odd:
        raise ValueError(
            f"--trusted needs a column of yes and no, true and false, or 1 and 0; row {odd[0]} of {origin} has "
            f"{values.tolist()[odd[0]]!r} in '{name}' ({len(odd)} such rows)"
        )
    return np.array([value in _YES for value in written], dtype=np.bool_)


def cut_trusted_test(strata: IntArray, trusted: BoolArray) -> tuple[IntArray, IntArray]:
    """Half of the trusted samples for the test part, which wrong labels would make worthless; its classes in proportion.

    Args:
        strata: What is to be in proportion, shape (N,).
        trusted: Which samples can be trusted, shape (N,).

    Returns:
        Training rows and test rows, each sorted; the same whatever the seed of a run.

    Raises:
        ValueError: with fewer than two of them.
    """
    rows = np.flatnonzero(trusted).astype(np.int64)
    if len(rows) < 2:
        raise ValueError(
            "half of the trusted samples are kept to test with, so --trusted needs at least 2 of them, or a test part; "
            f"got {len(rows)}"
        )
    test = np.sort(rows[order_to_set_aside(strata[rows], None, TEST_SEED)[: len(rows) // 2]])
    return np.setdiff1d(np.arange(len(strata), dtype=np.int64), test), test
