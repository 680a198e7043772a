"""A further step that is not taken is the lookahead, as in the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from maxl.hypergradients import Inputs, RandomState, device_of
from maxl.learning._lookahead import Lookahead
from maxl.learning._record import MicroBatch, Update
from maxl.learning._result import StepResult
from maxl.presets import check_choice

if TYPE_CHECKING:
    from maxl.learning._meta import MetaAuxiliaryLearner


class Virtual(Lookahead):
    """θ₁⁺ is one step from the network as it stands, on the last batch; computed, judged and forgotten. Exact.

    Args:
        rule: "optimizer" to step as the optimizer would (SGD, Adam, AdamW with all options), "sgd" for the paper's
            plain step with the optimizer's learning rates.
        recompute: As for ``Lookahead``.

    Raises:
        ValueError: if the rule is unknown.
    """

    follows = False
    parallel = True

    def __init__(self, rule: Literal["optimizer", "sgd"] = "optimizer", *, recompute: bool = False) -> None:
        super().__init__(recompute=recompute)
        check_choice("the rule of maxl.Virtual (lookahead_rule)", rule, ("optimizer", "sgd"))
        self.rule = rule

    def teach(self, learner: MetaAuxiliaryLearner, update: Update) -> StepResult:
        """As ``Lookahead.teach``.

        Raises:
            ValueError: if the batch came in parts, or the network is in another mode than when it was trained on it.
        """
        if len(update.parts) != 1:
            raise ValueError(
                "a virtual step is taken on one batch; got gradients accumulated over several: use "
                "lookahead=maxl.Taken()"
            )
        (part,) = update.parts
        part.check_unchanged()
        if part.training != learner.network.training:
            raise ValueError(
                "a virtual step needs the mode of the training step whose batch it takes; got a network in "
                f"{'training' if learner.network.training else 'evaluation'} mode after one in the other: call "
                "network.eval() after meta_step"
            )
        x, y = update.outer or (part.problem.x, part.problem.y)
        problem = learner.problem(
            part.problem.x,
            part.problem.y,
            recording=learner.recording(outputs=not self.recompute),
            share=learner.share_of(len(part.problem.y), part.problem.y),
            outer_share=learner.share_of(len(y), y),
        )
        rule = learner.rule(plain=self.rule == "sgd")
        outer, gradients = learner.way.through(problem, part.signals, rule, x, y)
        return learner.teach(update, [gradients], outer)

    def check(self, learner: MetaAuxiliaryLearner) -> None:
        """As ``Lookahead.check``; the plain rule follows any optimizer."""
        learner.rule(plain=self.rule == "sgd")


def update_on(
    learner: MetaAuxiliaryLearner, x: Inputs, y: Tensor, outer: tuple[Inputs, Tensor] | None
) -> Update:
    """A batch of one's choice as one to step on, with the signals that it has now."""
    random = RandomState.capture(device_of(x))
    signals = learner.supervision.check_signals(learner.labels.again(x, y))
    problem = learner.problem(x, y, random=random)
    return Update([MicroBatch(problem, tuple(s.detach() for s in signals), signals, random)], outer)
