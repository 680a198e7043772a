"""How long runs take, before they are run."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from pathlib import Path

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.trainer import train
from maxl.experiments.studies.remaining import for_its_time, time_epochs
from maxl.experiments.studies.study import Study
from maxl.experiments.studies.workers import device_count


def time_runs(base: RunConfig) -> tuple[float, float]:
    """Seconds of a single-task run, and of starting the processes of a study; trains for an epoch or two, three times."""
    base = dataclasses.replace(base, seed=0)
    one = for_its_time(base)
    with tempfile.TemporaryDirectory() as folder:
        train(one, Path(folder) / "warm")  # packages are imported, kernels chosen
        epoch, rest = time_epochs(base)
        start = time.monotonic()
        Study(one, ["single"], [0]).run(Path(folder) / "study", jobs=1)
        in_process = time.monotonic() - start
    return epoch * base.epochs + rest, max(0.0, in_process - epoch - rest)


def runs_at_a_time(base: RunConfig, jobs: int | None) -> int:
    """Runs of a study at a time, where there are enough of them."""
    return jobs or device_count(base.device) or max(1, (os.cpu_count() or 1) // base.threads)
