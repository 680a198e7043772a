"""A lookahead of one's own: the outer loss after several training steps, differentiated through all of them."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

import maxl
from maxl.hypergradients import RandomState, leaves_of
from maxl.learning import Lookahead, MicroBatch, Update


class SeveralSteps(Lookahead):
    """After every step, reverse mode through the last ``steps`` of them, to the mean loss of their batches.

    The network's optimizer needs to be SGD without momentum and weight decay.

    Args:
        steps: At least 1.
    """

    follows = True

    def __init__(self, steps: int) -> None:
        super().__init__(recompute=True)
        self.taken: deque[tuple[dict[str, Tensor], Tensor, Tensor]] = deque(maxlen=steps)

    def teach(self, learner: maxl.MetaAuxiliaryLearner, update: Update) -> maxl.StepResult:
        """As ``Lookahead.teach``."""
        (group,) = learner.optimizer.param_groups
        assert not group["momentum"]
        assert not group["weight_decay"]
        (last,) = update.parts
        self.taken.append((dict(update.weights), last.problem.x, last.problem.y))
        weights, parts, leaves = leaves_of(self.taken[0][0]), [], []
        for _, x, y in self.taken:
            graph, problem = learner.labels.again(x, y), learner.problem(x, y)
            leaves.append(tuple(s.detach().requires_grad_() for s in graph))
            parts.append(
                MicroBatch(problem, tuple(s.detach() for s in graph), graph, RandomState.capture(x.device))
            )
            with torch.enable_grad():
                loss = problem.inner(weights, leaves[-1])
                gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                moved = zip(weights.items(), gradients, strict=True)
                weights = {name: w - group["lr"] * g for (name, w), g in moved}
        with torch.enable_grad():
            outer = torch.stack([problem.outer(weights, x, y) for _, x, y in self.taken]).mean()
        slopes = iter(torch.autograd.grad(outer, [s for signals in leaves for s in signals]))
        return learner.teach(Update(parts), [tuple(next(slopes) for _ in s) for s in leaves], outer.detach())
