"""Runs small enough for tests: a hundred digits, a small network, one thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.loading import load_data

TINY: dict[str, Any] = {
    "data": "digits",
    "train_size": 100,
    "trunk": "mlp",
    "psi": [3],
    "epochs": 2,
    "batch_size": 25,
    "tensorboard": False,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in a fixed order, and nothing taken from the neighbours; import it to use it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changes: Any) -> RunConfig:
    return RunConfig.from_dict({**TINY, **changes})


@cache
def digits(seed: int = 0) -> DataSet:
    return load_data(tiny(seed=seed))


def runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a study one after another in this process: starting others takes longer than the runs."""
    monkeypatch.setattr(
        "maxl.experiments.studies.workers.ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(1)
    )


class Interrupted(Exception):
    """Stands for a power cut."""


def interrupt_after(epoch: int) -> Any:
    """What a run reports to, and is cut off by when an epoch has ended."""

    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Interrupted

    return report


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the time, the one thing that two equal runs do not share."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def model(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
