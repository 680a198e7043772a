"""How long runs will take: by a few steps, by those that have ended, and by what methods cost beside each other."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.methods import (
    JUDGED_METHODS,
    LEARNED_METHODS,
    PREPARED_METHODS,
    PROTOTYPE_METHODS,
)
from maxl.experiments.runs.trainer import train
from maxl.hypergradients import RandomState

if TYPE_CHECKING:
    from maxl.experiments.studies.study import PlannedRun

# Time of a run as a multiple of single-task training's, of small networks: large ones learn labels in less than three, on
# features that are shared; clusters of trunk features need one of these first, and
# agreement two on half of the samples each.
COST = {
    **dict.fromkeys((*LEARNED_METHODS, *JUDGED_METHODS), 4.0),
    **dict.fromkeys(PREPARED_METHODS, 2.0),
    **dict.fromkeys(PROTOTYPE_METHODS, 14.0),  # ten networks first, by default
}
_STEPS, _SECONDS = 8, 2.0  # steps that are timed after the first, or fewer where they take so long
_LONG = 0.5  # seconds of an epoch beside which its looks and files no longer count
_EPOCHS = 4  # that are timed of shorter ones


def duration_text(seconds: float) -> str:
    """As one says it: "40 seconds", "12 minutes", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds" if seconds >= 1.5 else "1 second"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


class StepClock:
    """Times the first steps of a run, as its ``watch``, and says once how long all of its epochs will take.

    The first step, in which kernels are chosen and memory is taken, does not count; nor do looks at the test part.

    Args:
        epochs: Of the run.
        told: Called with the seconds of all epochs.
    """

    def __init__(self, epochs: int, told: Callable[[float], None]) -> None:
        self.epochs, self.told = epochs, told
        self.start = 0.0
        self.count, self.done = 0, False

    def __call__(self, step: int, steps: int) -> None:
        """After a step.

        Args:
            step: Its number in the run's call, from 1.
            steps: Of an epoch.
        """
        if self.done:
            return
        _wait_for_device()
        now = time.monotonic()
        if step == 1:
            self.start = now
            if steps > 1:
                return
        self.count = step - 1
        if self.count and (self.count >= _STEPS or now - self.start > _SECONDS or step == steps):
            self.done = True
            self.told((now - self.start) / self.count * steps * self.epochs)


def for_its_time(config: RunConfig, epochs: int = 1) -> RunConfig:
    """A single-task run of a config that is trained for what it takes alone."""
    return dataclasses.replace(
        config, method="single", epochs=epochs, warmup=0.0, tensorboard=False, track=None
    )


def _wait_for_device() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


class _Enough(Exception):
    """The steps that were to be timed have been taken."""


def time_single(config: RunConfig, data: DataSet) -> float | None:
    """Seconds of a single-task run of a config; None where it diverges at once.

    By a few steps where an epoch of them takes long. Of a short one the steps are the lesser part, so that whole epochs
    are timed.

    Args:
        config: Its method does not count.
        data: Its data set.
    """
    found: list[float] = []

    def told(seconds: float) -> None:
        found.append(seconds)
        if seconds > _LONG * config.epochs:
            raise _Enough

    with RandomState.capture(torch.device("cpu")).replay(), tempfile.TemporaryDirectory() as folder:
        try:
            train(for_its_time(config), Path(folder) / "run", data=data, watch=StepClock(config.epochs, told))
            epoch, rest = time_epochs(config, data, _EPOCHS)
        except _Enough:
            return found[0]
        except FloatingPointError:  # the runs themselves will say so
            return None
    return epoch * config.epochs + rest


def time_epochs(config: RunConfig, data: DataSet | None = None, epochs: int = 2) -> tuple[float, float]:
    """Seconds of an epoch of single-task training, and of what a run takes besides: its start and its end.

    Args:
        config: Its method does not count.
        data: Its data set; by default it is loaded, which counts as a part of the start.
        epochs: To train, if the config has as many; the first counts as the others do where it is the only one.
    """
    short = for_its_time(config, min(epochs, config.epochs))
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        train(short, Path(folder) / "run", data=data, report=lambda _: ends.append(time.monotonic()))
        whole = time.monotonic() - start
    epoch = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else whole
    return epoch, max(0.0, whole - short.epochs * epoch)


class Remaining:
    """How long the planned runs of a study will still take.

    Args:
        out: The study's folder.
        planned: Its runs.
        jobs: Runs at a time.
    """

    def __init__(self, out: Path, planned: Sequence[PlannedRun], jobs: int) -> None:
        self.out, self.planned, self.jobs = out, planned, jobs
        self.start, self.before, self.seen = time.monotonic(), self._done(), False

    def expected(self, single: float | None = None) -> float | None:
        """Seconds, before anything of this call has been trained; None where nothing is known.

        Args:
            single: Of a single-task run, where no run has ended that would tell.
        """
        known = self._known()
        if not known:
            if single is None:
                return None
            known = {"single": single}
        weights = self._weights(known)
        return sum(w * (1 - d) for w, d in zip(weights, self.before, strict=True)) / self.jobs

    def left(self) -> float | None:
        """Seconds, by the pace of this call since its first epoch; None until that is known."""
        done = self._done()
        weights = self._weights(self._known() or {"single": 1.0})
        trained = sum(w * (d - b) for w, d, b in zip(weights, done, self.before, strict=True))
        if trained <= 0:
            return None
        if not self.seen:  # from here on: how long processes take to start says nothing of epochs
            self.seen, self.start, self.before = True, time.monotonic(), done
            return None
        rest = sum(w * (1 - d) for w, d in zip(weights, done, strict=True))
        return rest / trained * (time.monotonic() - self.start)

    def _done(self) -> list[float]:
        """The part of each run that is trained, from 0 to 1."""
        return [part_done(RunFolder(self.out / p.path), p.config.epochs) for p in self.planned]

    def _known(self) -> dict[str, float]:
        """Seconds of a run of each method that has ended here, from its first file to its last.

        Not of those that train networks for their labels before they write anything: files do not tell how long.
        """
        taken = defaultdict(list)
        for p in self.planned:
            folder = RunFolder(self.out / p.path)
            if p.config.method in PROTOTYPE_METHODS:
                continue
            if folder.finished and folder.config.exists():
                seconds = folder.summary.stat().st_mtime - folder.config.stat().st_mtime
                taken[p.config.method].append(max(0.01, seconds))
        return {method: statistics.median(values) for method, values in taken.items()}

    def _weights(self, known: dict[str, float]) -> list[float]:
        """Seconds of each run; of a method that is not known, by what it costs beside one that is."""
        like, seconds = next(iter(known.items()))
        unit = seconds / COST.get(like, 1.0)
        methods = [p.config.method for p in self.planned]
        return [known.get(method, unit * COST.get(method, 1.0)) for method in methods]


def part_done(folder: RunFolder, epochs: int) -> float:
    """The part of a run that is trained, from 0 to 1, which is that of all that have ended."""
    return 1.0 if folder.finished or folder.diverged else min(1.0, lines(folder) / epochs)


def lines(folder: RunFolder) -> int:
    """Epochs that a run has written."""
    if not folder.metrics.exists():
        return 0
    with folder.metrics.open("rb") as file:
        return sum(1 for _ in file)
