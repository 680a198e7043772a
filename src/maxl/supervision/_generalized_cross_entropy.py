"""A loss that a wrong label cannot pull at for ever."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.supervision._rows import classes_that_count, counting
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Classification, Segmentation, Task, is_dense


class GeneralizedCrossEntropy(Supervision):
    """L_in = mean_i (1 − p_i^q) / q, with p_i the probability of the given class (Zhang and Sabuncu, NeurIPS 2018,
    arXiv 1805.07836): cross-entropy as q → 0, the mean absolute error at q = 1.

    Uses no generator: a control for methods that weigh samples or correct labels. For classes alone. The options of
    a ``Classification`` or ``Segmentation`` apply: with its label_smoothing ε a sample has (1 − ε) times this loss, and ε times the mean
    over all classes in place of its own; with its class_weights it is multiplied by that of the given class. Of a dense task samples are
    positions, the ignored ones as zeros.

    Args:
        q: Above 0 and at most 1.

    Raises:
        ValueError: if q is outside its range.
    """

    signals = ()
    trains_on_outer_loss = False

    def __init__(self, q: float = 0.7) -> None:
        if not 0 < q <= 1:
            raise ValueError(f"q needs to be above 0 and at most 1; got {q}")
        self.q = q

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above; outputs[0] are logits of shape (M, C), y classes, int64 of shape (M,); of a dense task (N, ..., C) and (N, ...).

        Raises:
            ValueError: for targets that are no classes.
        """
        self.check_signals(signals)
        logits, dense = outputs[0], is_dense(task)
        if not (dense or logits.dim() == 2) or y.shape != logits.shape[:-1] or y.is_floating_point():
            raise ValueError(
                "generalized cross-entropy is of classes: logits (M, C) and targets int64 of shape (M,), or a task of positions; got "
                f"{tuple(logits.shape)} and {y.dtype} of shape {tuple(y.shape)}"
            )
        counts = None
        if dense:
            logits = logits.flatten(0, -2)
            counts = counting(task, y, len(logits))
            y = classes_that_count(y.flatten(), counts, logits.shape[1])
        log_p = logits.log_softmax(-1)
        each = self._of(log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1))
        if isinstance(task, Classification | Segmentation):
            if task.label_smoothing:
                each = (1 - task.label_smoothing) * each + task.label_smoothing * self._of(log_p).mean(-1)
            if task.class_weights is not None:
                each = logits.new_tensor(task.class_weights)[y] * each
        return Losses((each if counts is None else torch.where(counts, each, 0)).mean(), None)

    def _of(self, log_p: Tensor) -> Tensor:
        """The loss of classes by their log-probabilities."""
        return -torch.expm1(self.q * log_p) / self.q
