"""Gradients that are sent while the backward pass goes on, against those that are sent after it: in three processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import _reducing
import pytest
import torch.distributed as dist

import maxl

SCRIPT = Path(_reducing.__file__)
SIZE = 3  # two would not show that the order of a sum stays the same


@cache
def found() -> dict[str, list[str | None]]:
    """What was wrong, case by case, in each process."""
    with TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(rank), str(SIZE), str(Path(folder) / "store")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(SIZE)
        ]
        results = []
        try:
            for process in running:
                out, err = process.communicate(timeout=300)
                assert process.returncode == 0, err
                results.append(json.loads(out.splitlines()[-1]))
        finally:  # a failure of one leaves the others waiting for it
            for process in running:
                process.kill()
                process.communicate()
    return {name: [result[name] for result in results] for name in results[0]}


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo to talk through"
)
@pytest.mark.parametrize("case", [case.__name__ for case in _reducing.CASES])
def test_what_is_sent_early_is_the_sum(case: str) -> None:
    assert found()[case] == [None] * SIZE


def test_a_bucket_holds_something() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="bucket_bytes needs to be at least 1; got 0"):
            maxl.DataParallel(bucket_bytes=0)
    finally:
        dist.destroy_process_group()
