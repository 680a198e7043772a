"""Labels of a second task (MAXL)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.losses import AuxiliaryLoss, focal_loss, negative_entropy
from maxl.supervision._rows import flat, rows_of_positions
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Task

Regulariser = Callable[[Tensor, Tensor], Tensor]  # (labels, y) -> scalar


class AuxiliaryLabels(Supervision):
    """L_in = L_pri(f(x), y) + w L_aux(f(x), t), with t the labels of a second task (paper, section 3.1).

    Args:
        loss: (logits, labels) → scalar; the paper's focal loss by default. It gets whatever else the generator
            gives as further arguments.
        weight: w ≥ 0, factor on the auxiliary loss.
        entropy_weight: λ, weight of the anti-collapse term H that is added to the outer loss.
        regulariser: (labels, y) → scalar, in place of λH.
    """

    signals: ClassVar[tuple[str, ...]] = ("labels",)
    trains_on_outer_loss = True

    def __init__(
        self,
        loss: AuxiliaryLoss = focal_loss,
        *,
        weight: float = 1.0,
        entropy_weight: float = 0.2,
        regulariser: Regulariser | None = None,
    ) -> None:
        self.loss = loss
        self.weight = weight
        self.entropy_weight = entropy_weight
        self.regulariser = regulariser

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above; without signals the primary loss alone.

        Raises:
            ValueError: if there are labels and no auxiliary outputs.
        """
        primary = task.loss(outputs[0], y)
        if not signals:
            return Losses(primary, None)
        if len(outputs) < 2:
            raise ValueError(
                "auxiliary labels need a network that gives (primary, auxiliary) outputs; got primary ones alone: "
                "put the model's trunk into maxl.MultiTaskNetwork"
            )
        logits, labels = rows_of_positions(task, outputs[1], signals[0], y)
        auxiliary = self._auxiliary(logits, (labels, *flat(task, signals[1:])))
        return Losses(primary, auxiliary if self.weight == 1.0 else self.weight * auxiliary)

    def penalty(self, signals: Signals, y: Tensor) -> Tensor:
        """λH of the labels, or the regulariser's value."""
        labels = signals[0].flatten(0, -2)  # a row for each position of a dense task
        if self.regulariser is not None:
            return self.regulariser(labels, y.flatten() if signals[0].dim() > 2 else y)
        return self.entropy_weight * negative_entropy(labels)

    def _auxiliary(self, logits: Tensor, signals: Signals) -> Tensor:
        if len(signals) > 1 and self.loss is focal_loss:
            raise ValueError(
                "a generator that gives weights beside its labels needs a loss that takes them: "
                "supervision=maxl.supervision.WeightedLabels(), or auxiliary_loss=maxl.weighted_focal_loss"
            )
        return self.loss(logits, *signals)

    def check_signals(self, signals: Signals) -> Signals:
        """The signals as they are: a loss of one's own may take several."""
        return signals
