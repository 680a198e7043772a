"""Gradients that are sent while the backward pass goes on, against those that are sent after it: in three processes."""

from __future__ import annotations

from pathlib import Path

import _reducing
import pytest
import torch.distributed as dist
from _started import needs_gloo, wrong

import maxl

SCRIPT = Path(_reducing.__file__)
SIZE = 3  # two would not show that the order of a sum stays the same


@needs_gloo
@pytest.mark.parametrize("case", [case.__name__ for case in _reducing.CASES])
def test_what_is_sent_early_is_the_sum(case: str) -> None:
    assert wrong(SCRIPT, SIZE)[case] == [None] * SIZE


def test_a_bucket_holds_something() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="bucket_bytes needs to be at least 1; got 0"):
            maxl.DataParallel(bucket_bytes=0)
    finally:
        dist.destroy_process_group()
