"""Whether tensors are finite: right where sums overflow, cancel or do not exist."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maxl.hypergradients import all_finite

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_anywhere_is_seen(kind: torch.dtype, bad: float) -> None:
    tensors = [torch.ones(3, 4, dtype=kind), torch.tensor(2.0, dtype=kind), torch.ones(5, dtype=kind)]
    assert all_finite(tensors)
    tensors[2][3] = bad
    assert not all_finite(tensors)


@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_sums_that_overflow_are_no_bad_numbers(kind: torch.dtype) -> None:
    largest = torch.full((9,), torch.finfo(kind).max, dtype=kind)
    assert all_finite([largest])
    assert all_finite([largest, -largest])  # inf − inf, were sums alone asked
    assert not all_finite([largest, torch.tensor([math.inf, -math.inf], dtype=kind)])


def test_tensors_without_numbers_or_of_whole_ones_are_finite() -> None:
    assert all_finite([])
    assert all_finite([torch.empty(0), torch.empty(0, 3)])
    assert all_finite([torch.tensor([1, 2]), torch.tensor(True), torch.ones(2)])
    assert not all_finite([torch.tensor([1, 2]), torch.tensor(math.nan)])


def test_kinds_may_be_mixed_and_graphs_are_left_alone() -> None:
    w = torch.ones(3, requires_grad=True)
    tensors: list[Tensor] = [w, torch.full((2,), 1e300, dtype=torch.float64), w * 2]
    assert all_finite(tensors)
    assert w.grad is None


@given(st.lists(st.lists(st.floats(width=32), max_size=5), max_size=4))
def test_it_says_what_every_number_says(values: list[list[float]]) -> None:
    assert all_finite([torch.tensor(v) for v in values]) == all(math.isfinite(x) for v in values for x in v)
