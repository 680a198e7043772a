"""How long the steps of advice take, and how much of them a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maxl.experiments.studies.remaining import COST


@dataclass(frozen=True)
class Reckoning:
    """Reckons with the time of a single-task run, and what other methods cost beside it.

    Attributes:
        per_run: Seconds of a single-task run, as timed before the first one.
        startup: Seconds until a study's processes have started.
        places: Runs at a time, where there are enough of them.
        pace: How many times as long as that runs have taken so far.
    """

    per_run: float
    startup: float
    places: int
    pace: float = 1.0

    def seconds(self, methods: Sequence[str], seeds: int = 1) -> float:
        """Of a run of each method with each of so many seeds."""
        return self.of([(method, 1.0) for method in methods] * seeds)

    def of(self, runs: Sequence[tuple[str, float]]) -> float:
        """Seconds of runs, of each its method and the part of it that is still to train; 0 of none."""
        units = [COST.get(method, 1.0) * part for method, part in runs]
        if not units:
            return 0.0
        longest, shared = max(units), sum(units) / min(self.places, len(units))
        return self.per_run * self.pace * max(longest, shared)

    def seeds(self, methods: Sequence[str], left: float, most: int) -> int:
        """How many seeds of some methods, at most so many, are trained in the seconds that are left."""
        fitting = (n for n in range(most, 0, -1) if self.seconds(methods, n) <= left - self.startup)
        return next(fitting, 0)
