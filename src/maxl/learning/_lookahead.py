"""What a meta step differentiates through, and when: what a lookahead has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from maxl.hypergradients import Outputs
from maxl.learning._record import Batch, Update
from maxl.learning._result import StepResult

if TYPE_CHECKING:
    from maxl.learning._meta import MetaAuxiliaryLearner

Judged = tuple[StepResult | None, list[Tensor | None] | None]


class Lookahead(ABC):
    """Which step leads to θ₁⁺, and which samples judge it there.

    A learner works on a copy of its own, so that an object may keep what it needs from step to step.

    Args:
        recompute: Make the signals' graph and the outputs of the network's layers again for the meta step rather than
            keep them from the training pass: less memory, more time, the same result. ``MetaAuxiliaryLearner.step`` then
            lets go of the gradients as well, once the optimizer has stepped.

    Attributes:
        follows: Whether θ₁⁺ is the network after the step that the optimizer takes. Then the weights from before it
            are kept, and how it depends on its gradient, whoever takes it and whatever clipped or scaled it.
        parallel: Whether it is exact where several processes share a batch: whether whatever it computes of samples is
            averaged by what the learner offers.
        waits: Whether a later batch judges the step, so that it is remembered until then.
    """

    follows: ClassVar[bool]
    parallel: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    def __init__(self, *, recompute: bool = False) -> None:
        self.recompute = recompute

    def judge(self, learner: MetaAuxiliaryLearner, batch: Batch, outputs: Outputs) -> Judged:
        """Called within ``backward``, after the network's pass: a batch that judges the step before does so here.

        Returns:
            The meta step's result, if one was taken; and ∇L_pri on the batch by weight, if it was computed.
        """
        return None, None

    @abstractmethod
    def teach(self, learner: MetaAuxiliaryLearner, update: Update) -> StepResult:
        """The meta step, after the optimizer's step.

        Args:
            learner: Offers ``outer_gradient`` (judge), ``teach_through`` (differentiate through an update that was taken
                and teach), ``teach`` (teach, where dL_out/dt is known), ``rule``, ``weights`` and ``problem``.
            update: The training step just taken.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the object keeps from step to step, tensors and numbers alone, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave.

        Raises:
            ValueError: if there is something to restore and no place for it.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps nothing from step to step; got {', '.join(state)}")

    def check(self, learner: MetaAuxiliaryLearner) -> None:
        """Refuses what cannot be followed, before any step.

        Raises:
            ValueError: if the learner's optimizer is of a kind without a rule.
        """
        learner.rule()
