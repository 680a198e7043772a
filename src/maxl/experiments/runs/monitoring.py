"""What a run watches while it trains: sums of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from maxl.experiments.runs.processes import ALONE, Processes
from maxl.learning import StepResult

Report = Callable[[dict[str, Any]], None]


class Totals:
    """Sums over an epoch, kept on the device so that no step waits for it."""

    NAMES: ClassVar[dict[str, str]] = {
        "train_primary_loss": "primary_loss",
        "train_auxiliary_loss": "auxiliary_loss",
        "gate": "gate",
        "outer_loss": "outer_loss",
        "label_entropy_term": "label_entropy_term",
        "hypergradient_norm": "hypergradient_norm",
        "regulariser_norm": "regulariser_norm",
    }

    def __init__(self, *, classes: bool = True) -> None:
        self.classes = classes  # whether targets are classes, so that there is an accuracy
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, result: StepResult, y: Tensor | None) -> None:
        for name, attribute in self.NAMES.items():
            value = getattr(result, attribute)
            if value is not None:
                self._add(name, value, 1)
        if self.classes and y is not None and result.primary_logits is not None:
            self._add("train_accuracy", (result.primary_logits.argmax(1) == y).sum(), len(y))

    def _add(self, name: str, value: Tensor, count: int) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + count

    def means(self, processes: Processes = ALONE) -> dict[str, float | None]:
        """Means over steps (batches are equally large), and the accuracy over samples, those of all processes.

        Losses and norms of a step are those of the whole batch already.
        """
        if "train_accuracy" in self.sums:
            right, seen = self.sums["train_accuracy"], self.counts["train_accuracy"]
            self.sums["train_accuracy"] = right.new_tensor(processes.total(int(right)))
            self.counts["train_accuracy"] = int(processes.total(seen))
        row: dict[str, float | None] = dict.fromkeys([*self.NAMES, *["train_accuracy"] * self.classes])
        row |= {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        losses = [row[name] for name in ("train_primary_loss", "train_auxiliary_loss")]
        row["train_loss"] = sum(value for value in losses if value is not None)
        return row
