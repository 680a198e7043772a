"""Training on what the network finds easy."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.supervision._rows import counting
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Classification, Segmentation, Task, is_dense


class SmallLosses(Supervision):
    """L_in is the mean of the smallest primary losses of a batch, a share of them, as wrong labels are learned last
    (small-loss selection; Han et al., NeurIPS 2018, arXiv 1804.06872, who select so for a second network, and come down to
    the share over the first epochs: here it is the same from the first step on).

    Class weights of a ``Classification`` or ``Segmentation`` weigh the losses of those that are kept and select none: with
    them a rare class would be the one that is dropped.

    Of a dense task the positions that count are selected among; the mean has the ignored ones as zeros, as the task's own, which
    is what ``keep=1`` gives.

    Uses no generator: a control for methods that weigh samples or correct labels.

    Args:
        keep: Share of a batch's samples, or of the positions that count, above 0 and at most 1; at least one is kept.

    Raises:
        ValueError: if the share is outside its range.
    """

    signals = ()
    trains_on_outer_loss = False

    def __init__(self, keep: float = 0.7) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"keep needs to be above 0 and at most 1; got {keep}")
        self.keep = keep

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above."""
        self.check_signals(signals)
        each = by = task.losses(outputs[0], y)
        if isinstance(task, Classification | Segmentation) and task.class_weights is not None:
            by = dataclasses.replace(task, class_weights=None).losses(outputs[0], y)
        if is_dense(task):
            return Losses(self._of_positions(each, by, counting(task, y, len(each))), None)
        count = max(1, round(self.keep * len(each)))
        return Losses(each[by.topk(count, largest=False).indices].mean(), None)

    def _of_positions(self, each: Tensor, by: Tensor, counts: Tensor) -> Tensor:
        """How many count is not read, which would wait for an accelerator."""
        order = by.detach().masked_fill(~counts, torch.inf).argsort()
        number = counts.sum().to(each.dtype)
        count = (self.keep * number).round().clamp_min(1)
        kept = (torch.arange(len(each), device=each.device) < count) & counts[order]
        return torch.where(kept, each[order], 0).sum() / count * (number / len(each))
