"""The protocol of trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Follows one run. What it raises ends the tracking, never the run.

    A run asks for one by calling a factory with its folder, ``Path``: a class whose constructor takes the folder is one.
    A run that goes on after an interruption makes a new tracker for the same folder, so what has to be known then, such as
    the number of a run on a server, belongs in a file there.

    Example:
        >>> class Printed:
        ...     def __init__(self, folder: Path) -> None:
        ...         self.folder = folder
        ...     def start(self, config: Mapping[str, Any]) -> None:
        ...         print(self.folder, config["method"])
        ...     def log(self, metrics: Mapping[str, float], step: int) -> None:
        ...         print(step, metrics["train_loss"])
        ...     def finish(self, summary: Mapping[str, Any] | None) -> None:
        ...         print("stopped" if summary is None else "finished")
    """

    def start(self, config: Mapping[str, Any]) -> None:
        """Called before the first epoch of a run, and before the next one of a run that goes on.

        Args:
            config: Every setting of the run, plain values by name.
        """
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Called after each epoch.

        Args:
            metrics: The epoch's finite numbers, by their names in metrics.jsonl.
            step: The epoch, from 1. After an interruption some may come a second time, with the same numbers.
        """
        ...

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Called once, last of all.

        Args:
            summary: What summary.json holds; None where the run has stopped before its end. It may go on later.
        """
        ...


TrackerFactory = Callable[[Path], Tracker]
