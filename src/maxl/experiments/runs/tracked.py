"""A run's trackers while it trains: what fails among them ends its own tracking, and nothing that they do changes the run."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.tracking import Tracker, TrackerFactory, require_installed, tracker_named
from maxl.hypergradients import RandomState

_logger = logging.getLogger(__name__)

Log = Callable[[Mapping[str, Any]], None]
Finish = Callable[[Mapping[str, Any]], None]


def tracker_names(config: RunConfig) -> tuple[str, ...]:
    """The trackers that a config asks for."""
    return tuple(dict.fromkeys([*["tensorboard"] * config.tensorboard, *(config.track or ())]))


def require_trackers(config: RunConfig) -> None:
    """ValueError, with what to do, if the package of a tracker that a config asks for is not installed."""
    for name in tracker_names(config):
        require_installed(name)


@contextmanager
def tracked(
    config: RunConfig, folder: Path, further: Sequence[TrackerFactory], device: torch.device
) -> Iterator[tuple[Log, Finish]]:
    """Starts a run's trackers; yields what logs an epoch's metrics, and what finishes with the summary.

    Left without the latter, the run has stopped before its end, and so the trackers are told. A tracker that raises is
    named in one warning and left alone from then on. Random numbers that trackers draw are not taken from the run's.

    Args:
        config: Of the run.
        folder: Its folder.
        further: Factories of trackers besides those that the config names.
        device: Of the run.
    """
    trackers = _Trackers(device)
    factories: list[tuple[str, TrackerFactory]] = [(n, tracker_named(n)) for n in tracker_names(config)]
    factories += [(getattr(f, "__qualname__", repr(f)), f) for f in further]
    trackers.make(factories, folder)
    trackers.each(lambda tracker: tracker.start(config.to_dict()))

    def log(row: Mapping[str, Any]) -> None:
        trackers.each(lambda tracker: tracker.log(_numbers(row), int(row["epoch"])))

    def finish(summary: Mapping[str, Any]) -> None:
        trackers.end(dict(summary))

    try:
        yield log, finish
    finally:
        trackers.end(None)


@contextmanager
def untracked() -> Iterator[tuple[Log, Finish]]:
    """As ``tracked``, where another process writes."""
    yield lambda row: None, lambda summary: None


class _Trackers:
    """Those that work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.working: dict[str, Tracker] = {}

    def make(self, factories: Sequence[tuple[str, TrackerFactory]], folder: Path) -> None:
        for name, factory in factories:
            key = name if name not in self.working else f"{name} ({len(self.working)})"
            if (tracker := self._guarded(key, lambda factory=factory: factory(folder))) is not None:  # type: ignore[misc]
                self.working[key] = tracker

    def each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.working.items()):
            self._guarded(name, lambda tracker=tracker: act(tracker))  # type: ignore[misc]

    def end(self, summary: dict[str, Any] | None) -> None:
        """Finishes each, once."""
        self.each(lambda tracker: tracker.finish(summary))
        self.working = {}

    def _guarded(self, name: str, act: Callable[[], Any]) -> Any:
        try:
            with RandomState.capture(self.device).replay():
                return act()
        except Exception as error:  # whatever another package raises: the run is worth more than its tracking
            self.working.pop(name, None)
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            warnings.warn(
                f"tracking by {name} has stopped, the run goes on, and its folder has everything: {said}",
                RunWarning,
                stacklevel=2,
            )
            _logger.debug("tracking by %s has stopped", name, exc_info=True)
            return None


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an epoch but its own; a new dict for each tracker."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and name != "epoch"
        and math.isfinite(value)
    }
