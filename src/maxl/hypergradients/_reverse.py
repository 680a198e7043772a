"""Reverse mode: differentiate through the step's own gradient, as the paper does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from maxl.hypergradients._graph import graph_nodes
from maxl.hypergradients._inputs import Inputs, device_of
from maxl.hypergradients._problem import Problem, Signals, differentiate, leaves_of
from maxl.hypergradients._purity import differentiable_kernels
from maxl.hypergradients._update_rule import UpdateRule
from maxl.hypergradients._way import Way


@dataclass(frozen=True)
class Reverse(Way):
    """Reverse mode through the graph of ∇_θ₁ L_in (paper, equation 4): exact, the reference; slow and large."""

    compiles: ClassVar[bool] = False

    def through(
        self, problem: Problem, signals: Signals, rule: UpdateRule, x: Inputs, y: Tensor
    ) -> tuple[Tensor, Signals]:
        """As ``Way.through``; one graph serves the step and its derivative.

        Raises:
            RuntimeError: if an operator of the network has no double backward, one that hides this included.
        """
        graph = _Graph(problem, signals)
        outer, u = problem.step([None if g is None else g.detach() for g in graph.gradient], rule, x, y)
        return outer, graph.along(u)

    def along(self, problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
        """As ``Way.along``, by a double backward.

        Raises:
            RuntimeError: as ``through``.
        """
        return _Graph(problem, signals).along(u)


class _Graph:
    """∇_θ₁ L_in with its graph."""

    def __init__(self, problem: Problem, signals: Signals) -> None:
        self.problem = problem
        self.leaves = tuple(s.detach().requires_grad_() for s in signals)
        self.theta = leaves_of(problem.weights)
        own = problem.own_weights()
        self.gradient = self._within(
            lambda: _gradient_with_graph(problem.inner(self.theta, self.leaves), self.theta, own)
        )

    def along(self, u: Sequence[Tensor | None]) -> Signals:
        """−d/dt ⟨u, ∇_θ₁ L_in⟩."""
        pairs = [
            (g, -u_p)
            for g, u_p in zip(self.gradient, u, strict=True)
            if g is not None and u_p is not None and g.requires_grad
        ]
        if not pairs:
            return tuple(torch.zeros_like(s) for s in self.leaves)
        outputs, seeds = zip(*pairs, strict=True)
        results = self._within(lambda: torch.autograd.grad(outputs, self.leaves, seeds, allow_unused=True))
        return tuple(
            torch.zeros_like(leaf) if g is None else g for leaf, g in zip(self.leaves, results, strict=True)
        )

    def _within(self, do: Callable[[], tuple[Tensor | None, ...]]) -> tuple[Tensor | None, ...]:
        with (
            torch.enable_grad(),
            differentiable_kernels(self.problem.network, device_of(self.problem.x).type),
        ):
            return self.problem.within(self.theta, do, self.problem.buffers)


def _gradient_with_graph(
    loss: Tensor, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[Tensor | None, ...]:
    grads = differentiate(loss, weights, own, create_graph=True)
    # Autograd prunes what it cannot reach, so a once_differentiable function would drop its terms silently.
    for node in graph_nodes(grads):
        if node.name().endswith("::Error"):  # what torch puts in place of such a function's second derivative
            raise RuntimeError(
                "no double backward: a once_differentiable autograd.Function of the network cuts the graph; "
                'pass hypergradient="finite-difference", or "forward" if the function has a jvp'
            )
    return tuple(grads)
