"""How much each sample counts (Meta-Weight-Net)."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.supervision._rows import check_weights, counting, flat, of_mean_one
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Task, is_dense


class SampleWeights(Supervision):
    """L_in = mean_i(ω_i L_pri,i), with ω the weights of the samples (Shu et al., NeurIPS 2019, arXiv 1902.07379).

    There they are a function of a sample's loss; here of whatever the generator looks at. Judge them by samples
    that can be trusted: ``outer_batch``.

    Args:
        normalise: Divide the weights by their mean over the batch, as the authors do; of a dense task over the positions that
            count.
        effective: The least effective sample size of a batch, (Σω)²/Σω², as a share of it, above 0 and below 1. Weights
            that are further apart are moved towards their mean, ω̃ = 1 + s(ω − 1) with the largest s ≤ 1 that keeps it,
            so that few samples cannot take all the weight. None sets no limit; another value goes with ``normalise``.

    Raises:
        ValueError: if ``effective`` is outside its range, or given without ``normalise``.
    """

    signals = ("weights",)
    trains_on_outer_loss = False

    def __init__(self, *, normalise: bool = False, effective: float | None = None) -> None:
        if effective is not None and not 0 < effective < 1:
            raise ValueError(f"effective needs to be above 0 and below 1; got {effective}")
        if effective is not None and not normalise:
            raise ValueError("effective moves weights towards their mean, which is 1: pass normalise=True")
        self.normalise = normalise
        self.effective = effective

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above; ``signals`` is (weights,), shape (N,); of a dense task that of the positions, (N, ...).

        Raises:
            ValueError: if there is not one weight for each.
        """
        check_weights(task, outputs[0], *self.check_signals(signals))
        (weights,) = flat(task, signals)
        each = task.losses(outputs[0], y)
        if weights.shape != each.shape:
            raise ValueError(
                f"sample weights need one number a sample, shape {tuple(each.shape)}; got {tuple(weights.shape)}"
            )
        counts = counting(task, y, len(each)) if is_dense(task) else None
        return Losses((self.of_batch(weights, counts) * each).mean(), None)

    def of_batch(self, weights: Tensor, counts: Tensor | None = None) -> Tensor:
        """What the samples of a batch count in the end, of shape (M,), from their weights.

        Args:
            weights: Shape (M,).
            counts: Which of them count, bool of shape (M,), the others nothing whatever their weights; all by default.
        """
        if not self.normalise:
            return weights if counts is None else torch.where(counts, weights, 0)
        weights = of_mean_one(weights, counts)
        if self.effective is None:
            return weights
        apart = weights - 1 if counts is None else torch.where(counts, weights - 1, 0)
        square = apart.square()
        variance = square.mean() if counts is None else square.sum() / counts.sum().clamp_min(1)
        most = 1 / self.effective - 1
        # Where all weights are alike the root has no derivative; there nothing is to be moved.
        shrink = (most / variance.clamp_min(max(most, torch.finfo(weights.dtype).tiny))).sqrt()
        moved = 1 + shrink * apart
        return moved if counts is None else torch.where(counts, moved, 0)
