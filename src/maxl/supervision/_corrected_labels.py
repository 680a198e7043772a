"""What a sample's label should have been (meta label correction)."""

from __future__ import annotations

from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.supervision._rows import rows_of_positions
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Task


class CorrectedLabels(Supervision):
    """L_in = L_pri(f(x), t), with t in place of the given labels (Zheng et al., AAAI 2021, arXiv 1911.03809).

    Judge them by samples whose labels can be trusted: ``outer_batch``.
    """

    signals = ("labels",)
    trains_on_outer_loss = False

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above; ``signals`` is (labels,), targets of the primary task: soft labels (N, C), or whatever y is.

        Raises:
            ValueError: if they have neither the shape of the outputs nor that of y.
        """
        (labels,) = self.check_signals(signals)
        if labels.shape not in (outputs[0].shape, y.shape):  # a loss of one's own may broadcast them
            raise ValueError(
                f"corrected labels need the shape of the outputs, {tuple(outputs[0].shape)}, or of the targets, "
                f"{tuple(y.shape)}; got {tuple(labels.shape)}"
            )
        return Losses(task.loss(*rows_of_positions(task, outputs[0], labels, y)), None)
