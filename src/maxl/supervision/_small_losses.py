"""Training on what the network finds easy."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Classification, Segmentation, Task


class SmallLosses(Supervision):
    """L_in is the mean of the smallest primary losses of a batch, a share of them, as wrong labels are learned last
    (small-loss selection; Han et al., NeurIPS 2018, arXiv 1804.06872, who select so for a second network, and come down to
    the share over the first epochs: here it is the same from the first step on).

    Class weights of a ``Classification`` or ``Segmentation`` weigh the losses of those that are kept and select none: with
    them a rare class would be the one that is dropped.

    Uses no generator: a control for methods that weigh samples or correct labels.

    Args:
        keep: Share of a batch's samples, above 0 and at most 1; at least one sample is kept.

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
        each = task.losses(outputs[0], y)
        count = max(1, round(self.keep * len(each)))
        if not isinstance(task, Classification | Segmentation) or task.class_weights is None:
            return Losses(each.topk(count, largest=False).values.mean(), None)
        by = dataclasses.replace(task, class_weights=None).losses(outputs[0], y)
        return Losses(each[by.topk(count, largest=False).indices].mean(), None)
