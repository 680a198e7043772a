"""The update just taken is the lookahead, judged at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxl.learning._lookahead import Lookahead
from maxl.learning._record import Update
from maxl.learning._result import StepResult

if TYPE_CHECKING:
    from maxl.learning._meta import MetaAuxiliaryLearner


class Taken(Lookahead):
    """θ₁⁺ is the network as the training step left it, judged on its own batch or an outer one. Exact.

    No further step has to be computed: gradient and layer outputs are those of training.

    Args:
        recompute: As for ``Lookahead``.
    """

    follows = True
    parallel = True

    def teach(self, learner: MetaAuxiliaryLearner, update: Update) -> StepResult:
        """As ``Lookahead.teach``."""
        update.check_unmoved(learner.weights())
        outer, v = learner.outer_gradient(update)
        return learner.teach_through(update, outer, v)
