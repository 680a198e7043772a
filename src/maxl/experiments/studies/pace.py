"""How long runs take, before they are run."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.trainer import train
from maxl.experiments.studies.remaining import for_its_time, time_epochs
from maxl.experiments.studies.study import Study


def time_runs(base: RunConfig) -> tuple[float, float]:
    """Seconds of a single-task run, and of starting the processes of a study; trains for an epoch or two, three times.

    Raises:
        ValueError: if such a run diverges at a third of the learning rate, the lowest that is tried first.
    """
    base = dataclasses.replace(base, seed=0, learning_rate=base.learning_rate / 3)
    one = for_its_time(base)
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(one, Path(folder) / "warm")  # packages are imported, kernels chosen
            epoch, rest = time_epochs(base)
        except FloatingPointError as error:
            raise ValueError(f"a run that was to be timed diverged: {error}") from error
        start = time.monotonic()
        Study(one, ["single"], [0]).run(Path(folder) / "study", jobs=1)
        in_process = time.monotonic() - start
    return epoch * base.epochs + rest, max(0.0, in_process - epoch - rest)
