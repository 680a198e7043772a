"""A lookahead of one's own: each update judged at a running average of the weights."""

from __future__ import annotations

from torch import Tensor

import maxl
from maxl.learning import Update


class Averaged(maxl.Taken):
    """Judges each update by ∇L_pri at an exponential average of the weights that includes it.

    A step enters this average and all later ones with factors that sum to one, hence no factor here.

    Args:
        rate: Part of each step's weights in the average, in (0, 1].
    """

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate
        self.average: dict[str, Tensor] = {}

    def teach(self, learner: maxl.MetaAuxiliaryLearner, update: Update) -> maxl.StepResult:
        """As ``Lookahead.teach``."""
        if not self.average:  # it starts where the first step did
            self.average = {name: p.clone() for name, p in update.weights.items()}
        for name, p in learner.weights().items():
            self.average[name].lerp_(p.detach(), self.rate)
        outer, v = learner.outer_gradient(update, self.average)
        return learner.teach_through(update, outer, v)

    def state_dict(self) -> dict[str, Tensor]:
        """The average."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores it."""
        self.average = state
