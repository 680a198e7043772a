"""How dL_out(θ₁⁺)/dt is computed: what a way to differentiate has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from maxl.hypergradients._inputs import Inputs
from maxl.hypergradients._problem import Problem, Signals
from maxl.hypergradients._update_rule import UpdateRule


class Way(ABC):
    """A way to differentiate through a step; it holds settings and no state.

    Attributes:
        reuses_outputs: Whether outputs of layers kept from the training pass save it work.
        compiles: Whether it can go through compiled passes, which differentiate once.
    """

    reuses_outputs: ClassVar[bool] = False
    compiles: ClassVar[bool] = True

    @abstractmethod
    def along(self, problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
        """dL_out/dt = −d/dt ⟨u, ∇_θ₁ L_in(θ₁, t)⟩, for a step whose direction u is known.

        Args:
            problem: The two-level problem, at the weights from which the training step starts.
            signals: t, one tensor or several.
            u: −(∂U/∂∇)ᵀ v for each weight, None where it is zero.

        Returns:
            One tensor for each signal, of its shape.
        """

    def tolerance(self, rounding: float) -> float:
        """Relative difference to ordinary gradients beyond which something is wrong: see ``OrReverse``.

        Args:
            rounding: Relative difference of two passes of the network that may be rounding.
        """
        return min(0.005, 100 * rounding)

    def through(
        self, problem: Problem, signals: Signals, rule: UpdateRule, x: Inputs, y: Tensor
    ) -> tuple[Tensor, Signals]:
        """The outer loss on (x, y) after a virtual step by ``rule``, and dL_out/dt."""
        outer, u = problem.direction(signals, rule, x, y)
        return outer, self.along(problem, signals, u)
