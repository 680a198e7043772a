"""Labels of a second task, and how much each sample's label counts (weight-aware MAXL)."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.losses import AuxiliaryLoss, weighted_focal_loss
from maxl.supervision._auxiliary_labels import AuxiliaryLabels, Regulariser
from maxl.supervision._rows import check_weights, counting, of_mean_one
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Task, is_dense


class WeightedLabels(AuxiliaryLabels):
    """L_in = L_pri + w mean_i(ω_i L_aux,i), labels t and weights ω both learned (OpenReview sRDCzh6gVw).

    Args:
        loss: (logits, labels, weights) → scalar.
        normalise: Divide the weights by their mean over the batch, so that they say which sample and not how much; of a dense
            task over the positions that count.
        weight, entropy_weight, regulariser: As for ``AuxiliaryLabels``.
    """

    signals = ("labels", "weights")

    def __init__(
        self,
        loss: AuxiliaryLoss = weighted_focal_loss,
        *,
        normalise: bool = False,
        weight: float = 1.0,
        entropy_weight: float = 0.2,
        regulariser: Regulariser | None = None,
    ) -> None:
        super().__init__(loss, weight=weight, entropy_weight=entropy_weight, regulariser=regulariser)
        self.normalise = normalise

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As ``AuxiliaryLabels.losses``; ``signals`` is (labels, weights), weights of shape (N,), or that of a dense task's
        positions.

        Raises:
            ValueError: also if there is not one weight for each.
        """
        if len(signals) > 1 and len(outputs) > 1:
            labels, weights = self.check_signals(signals)
            check_weights(task, outputs[1], weights)
            signals = labels, self._of_batch(task, y, weights)
        return super().losses(task, outputs, y, signals)

    def _of_batch(self, task: Task, y: Tensor, weights: Tensor) -> Tensor:
        """Of the shape of the weights; 0 at positions that are ignored."""
        counts = counting(task, y, weights.numel()).view_as(weights) if is_dense(task) else None
        if self.normalise:
            return of_mean_one(weights, counts)
        return weights if counts is None else torch.where(counts, weights, 0)

    def _auxiliary(self, logits: Tensor, signals: Signals) -> Tensor:
        labels, weights = signals
        return self.loss(logits, labels, weights)

    def check_signals(self, signals: Signals) -> Signals:
        """As ``Supervision.check_signals``."""
        return Supervision.check_signals(self, signals)
