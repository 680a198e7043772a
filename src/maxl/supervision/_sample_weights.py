"""How much each sample counts (Meta-Weight-Net)."""

from __future__ import annotations

from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.supervision._rows import flat
from maxl.supervision._supervision import Losses, Supervision
from maxl.tasks import Task


class SampleWeights(Supervision):
    """L_in = mean_i(ω_i L_pri,i), with ω the weights of the samples (Shu et al., NeurIPS 2019, arXiv 1902.07379).

    There they are a function of a sample's loss; here of whatever the generator looks at. Judge them by samples
    that can be trusted: ``outer_batch``.

    Args:
        normalise: Divide the weights by their mean over the batch, as the authors do.
    """

    signals = ("weights",)
    trains_on_outer_loss = False

    def __init__(self, *, normalise: bool = False) -> None:
        self.normalise = normalise

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above; ``signals`` is (weights,), shape (M,)."""
        (weights,) = flat(task, self.check_signals(signals))
        each = task.losses(outputs[0], y)
        if weights.shape != each.shape:
            raise ValueError(
                f"sample weights need one number a sample, shape {tuple(each.shape)}; got {tuple(weights.shape)}"
            )
        weighted = (weights * each).mean()
        return Losses(weighted / weights.mean() if self.normalise else weighted, None)
