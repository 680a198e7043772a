"""The outer loss and its gradient on a batch that may come in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from maxl.hypergradients import Inputs, Problem
from maxl.learning._mix import added

OuterBatch = tuple[Inputs, Tensor, float]  # (x, y, share in all that judges)


def outer_gradient(
    problem: Callable[..., Problem],
    batches: Sequence[OuterBatch],
    weights: dict[str, Tensor],
    watching: Callable[[Sequence[Tensor]], AbstractContextManager[object]],
) -> tuple[Tensor, list[Tensor | None]]:
    """The sum of the parts' outer losses, each times its share, and v = ∇L_out.

    Args:
        problem: Of (x, y, outer_share=, watching=).
        batches: At least one.
        weights: θ₁⁺.
        watching: As of a ``Reducer``: is told of the pass where one part is all.
    """
    (x, y, share), *rest = batches
    if not rest:
        return problem(x, y, outer_share=share, watching=watching).outer_gradient(weights, x, y)
    total, v = problem(x, y, outer_share=share).outer_gradient(weights, x, y)
    for x, y, share in rest:
        loss, gradient = problem(x, y, outer_share=share).outer_gradient(weights, x, y)
        total = total + loss
        v = added(v, gradient)
    return total, v
