"""What a study asks of that which trains its runs: processes of this machine, or tasks on many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.tracking import TrackerFactory

# Seconds after which a network file system gives up the lock of a machine that is gone; most say 90.
LEASE = 120.0

Job = tuple[RunConfig, Path, str]  # settings, folder and name of a run


class Crew(Protocol):
    """Those who train while a launcher is open."""

    def at_a_time(self, most: int | None) -> int:
        """Runs that go on at a time where there are enough, at least 1; ``most`` as for ``train``."""

    def train(
        self,
        jobs: Sequence[Job],
        *,
        most: int | None,
        tick: Callable[[int], None],
        track: Sequence[TrackerFactory] = (),
    ) -> Mapping[Path, str]:
        """Trains runs; one that has begun goes on from its checkpoint.

        Args:
            jobs: The runs, of which none has ended.
            most: Runs at a time at most; None for as many as there is room for.
            tick: Called about twice a second with the number of runs that have not ended.
            track: What makes trackers of each run, besides those that its config names; other processes import it.

        Returns:
            The folders of runs that ended without a result, and a sentence that says why. Runs that diverge have ended
            with one: their folders say so.

        Raises:
            ValueError: if the runs cannot go on; what they have is kept.
        """


class Launcher(Protocol):
    """Where the runs of a study are trained."""

    @property
    def elsewhere(self) -> bool:
        """Whether other machines than this one may train, so that devices need not be here."""

    def open(self, out: Path, configs: Sequence[RunConfig]) -> AbstractContextManager[Crew]:
        """A context within which runs are trained; whatever it starts has ended when it is left.

        Args:
            out: The study's folder, into which all write.
            configs: The settings of the runs, at least one.

        Raises:
            ValueError: if they cannot be trained there; nothing has been written then.
        """
