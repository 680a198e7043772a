"""The update just taken is the lookahead, judged by the next batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, gradient_hook
from maxl.learning._lookahead import Judged
from maxl.learning._record import Batch, Update
from maxl.learning._result import StepResult
from maxl.learning._taken import Taken

if TYPE_CHECKING:
    from maxl.learning._meta import MetaAuxiliaryLearner


class Next(Taken):
    """θ₁⁺ is the network as the training step left it, judged by the batch that it is trained on next. Exact.

    That batch's primary gradient is needed for its own training step anyway. The generator is taught within the
    next ``backward``, before it gives that batch its labels; ``meta_step`` has nothing left to do. Compiled, it saves
    nothing: the judging gradient then takes a pass of its own.

    Args:
        recompute: As for ``Lookahead``.
    """

    waits = True

    def judge(self, learner: MetaAuxiliaryLearner, batch: Batch, outputs: Outputs) -> Judged:
        """As ``Lookahead.judge``.

        Raises:
            ValueError: if the batch comes with one to judge it, or in parts.
        """
        if batch.outer is not None:
            raise ValueError("maxl.Next() takes the next batch as the outer batch; drop outer_batch=")
        if batch.share != 1.0:
            raise ValueError(
                "maxl.Next() judges by whole batches; got a part of one: accumulate with lookahead=maxl.Taken()"
            )
        update = learner.take_update()
        if update is None and not learner.mix.splits:
            return None, None
        loss = learner.task.loss(outputs[0], batch.y)
        loss = loss if batch.part == 1.0 else batch.part * loss
        weights = batch.weights
        if update is not None:
            update.check_unmoved(weights)
        if learner.passes is not None:  # no two backward passes go through one compiled pass
            assert update is not None  # a mix that splits is not compiled
            with batch.problem.random.replay():
                problem = learner.problem(batch.x, batch.y, outer_share=batch.part)
                _, v = problem.outer_gradient(weights, batch.x, batch.y)
            return learner.teach_through(update, *learner.summed(loss.detach(), v)), None
        scaled = loss if batch.scale is None else batch.scale * loss
        theta = list(weights.values())
        with learner.judging.watching(theta if update is not None else ()):
            gradient = torch.autograd.grad(scaled, theta, retain_graph=True, allow_unused=True)
        # A hook on gradients need not do to two what it does to their sum: training then takes a pass of its own.
        shares = learner.supervision.trains_on_outer_loss and gradient_hook(learner.network) is None
        trained_on: list[Tensor | None] | None = list(gradient) if shares else None
        if update is None:
            return None, trained_on
        outer, v = learner.summed(loss.detach(), list(gradient))
        if batch.scale is not None:
            v = [None if g is None else g / batch.scale for g in v]
        return learner.teach_through(update, outer, v), trained_on

    def teach(self, learner: MetaAuxiliaryLearner, update: Update) -> StepResult:
        """Nothing yet, as the next batch teaches; at once where a batch was named to judge by."""
        if update.outer is not None:
            return super().teach(learner, update)
        learner.keep_update(update)
        return StepResult()
