"""A script in several processes that talk by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.distributed as dist

import maxl

PATIENCE = timedelta(minutes=7)  # no default, so that a group that takes it over is seen to
Case = Callable[[maxl.DataParallel], None]
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo to talk through"
)


def started(script: Path, size: int) -> list[dict[str, Any]]:
    """The JSON object that each of ``python SCRIPT RANK SIZE STORE`` prints last."""
    with TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(size), str(Path(folder) / "store")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(size)
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
    return results


@cache
def wrong(script: Path, size: int) -> dict[str, list[str | None]]:
    """What was wrong in each process of a script that calls ``try_all``, case by case."""
    results = started(script, size)
    return {name: [result[name] for result in results] for name in results[0]}


def try_all(cases: Sequence[Case], **options: Any) -> None:
    """In one process of such a script: prints what is wrong in each case, or None.

    Args:
        cases: Called one after another, with a world of their own.
        options: Of the worlds.
    """
    number, processes, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=processes, timeout=PATIENCE
    )
    result = {}
    for case in cases:
        result[case.__name__] = _tried(case, maxl.DataParallel(**options))
        dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(result))


def _tried(case: Case, world: maxl.DataParallel) -> str | None:
    try:
        case(world)
    except AssertionError as error:
        return str(error) or "an assertion"
    return None
