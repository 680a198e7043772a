"""What a search tells Optuna of a trial, and how it hears whether one has ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from maxl.experiments.runs.folder import RunFolder

if TYPE_CHECKING:  # it belongs to an extra
    import optuna

ENDED = "ended"  # the attribute of a trial that has ended by itself, written last
STATES = {"finished": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL"}  # its words as Optuna has them


class Pruned(Exception):
    """A trial that is not worth its last epochs."""


class Reports:
    """Tells Optuna of each epoch's validation result, and hears whether to go on.

    Args:
        trial: Of the search.
        folder: Of its run.
        key: Of the validation result in a line of metrics.
        epochs: In all.
        note: Called with what is going on, in words.
    """

    def __init__(
        self, trial: optuna.Trial, folder: RunFolder, key: str, epochs: int, note: Callable[[str], None]
    ) -> None:
        self.trial, self.folder, self.key, self.epochs, self.note = trial, folder, key, epochs, note
        self._told: set[int] = set()

    def catch_up(self) -> None:
        """Tells of the epochs before an interruption, so that later trials are held against them, too.

        Raises:
            Pruned: where the trial would have been without one.
        """
        rows = self.folder.read_metrics() if self.folder.started else []
        for row in rows:
            self._tell(row)
        if rows and not self.folder.finished:
            self._prune(rows[-1])

    def __call__(self, row: dict[str, Any]) -> None:
        """Of an epoch that has just ended.

        Raises:
            Pruned: if the trial has fallen behind.
        """
        self._tell(row)
        self.note(f"epoch {row['epoch']} of {self.epochs}")
        self._prune(row)

    def _prune(self, row: dict[str, Any]) -> None:
        if row["epoch"] < self.epochs and self.trial.should_prune():
            raise Pruned

    def _tell(self, row: dict[str, Any]) -> None:
        value, epoch = row.get(self.key), int(row["epoch"])
        if epoch not in self._told and value is not None and math.isfinite(value):
            self.trial.report(float(value), epoch)
            self._told.add(epoch)


def ended_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have ended by themselves, in order."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state.name == STATES.get(str(t.user_attrs.get(ENDED)))]
