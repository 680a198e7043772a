"""A hypergradient against ordinary gradients: an independent look along one direction of the signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maxl.hypergradients._problem import Problem, Signals

# Largest relative change of a signal; a loss linear or quadratic in its signals has no error in it.
LARGEST = 0.05


@dataclass(frozen=True)
class Comparison:
    """What a way gives along a direction of the signals, and what two ordinary gradients of L_in give.

    Attributes:
        found, expected: The two derivatives.
        noise: What rounding may put between them.
    """

    found: float
    expected: float
    noise: float

    @property
    def says(self) -> bool:
        """Whether there was anything to compare."""
        return self.found != 0 or self.expected != 0

    def agrees(self, tolerance: float) -> bool:
        """Whether they differ by no more than a relative ``tolerance`` and rounding; nothing to go by agrees, too."""
        bound = tolerance * max(abs(self.found), abs(self.expected)) + self.noise
        return not math.isfinite(self.expected) or abs(self.found - self.expected) <= bound  # False for nan

    def __str__(self) -> str:
        return (
            f"{self.found:.4g} where ordinary gradients at two neighbouring signals give {self.expected:.4g}"
        )


def compare(problem: Problem, signals: Signals, u: Sequence[Tensor | None], found: Signals) -> Comparison:
    """⟨dL_out/dt, δ⟩ against −⟨u, ∇L_in(t + εδ) − ∇L_in(t − εδ)⟩ / 2ε, which moves no weight and crosses no kink.

    δ is half of what was found, which carries the signal, and half noise, which sees what was not found; it moves each
    signal in proportion to its size, so that labels stay positive. The gradients are those of the network's own
    backward pass: hooks, detached parts and operators without formulas count.

    Args:
        problem: At the weights of the training step.
        signals: t.
        u: The direction −(∂U/∂∇)ᵀ v.
        found: dL_out/dt.
    """
    signals = tuple(s.detach() for s in signals)
    random = torch.Generator().manual_seed(0)
    noise = tuple(torch.randn(f.shape, generator=random).to(f) for f in found)
    sizes = tuple(s.abs() if bool(s.any()) else torch.ones_like(s) for s in signals)
    relative = tuple(_unit(f * s) + _unit(n) for f, n, s in zip(found, noise, sizes, strict=True))
    direction = tuple(r * s for r, s in zip(relative, sizes, strict=True))
    largest = torch.stack([r.abs().max() for r in relative]).max()
    if problem.total is not None:  # the same step everywhere, as samples may meet in the network
        (sum_of_all,) = problem.total([largest], [largest])
        assert sum_of_all is not None
        largest = sum_of_all
    # Rounding costs δ/ε and a third derivative ε²; passes that may differ by √δ round by δ.
    step = min(LARGEST, problem.rounding() ** 0.5) / float(largest)
    plus, size = _along(problem, tuple(s + step * d for s, d in zip(signals, direction, strict=True)), u)
    minus, _ = _along(problem, tuple(s - step * d for s, d in zip(signals, direction, strict=True)), u)
    along = (minus - plus) / (2 * step)
    ours = torch.stack([(wide(f) * wide(d)).sum() for f, d in zip(found, direction, strict=True)]).sum()
    if problem.total is not None:  # each process has its rows, and its summand of the gradient
        pair = problem.total([ours, along, size], [ours, along, size])
        ours, along, size = (ours.new_zeros(()) if p is None else p for p in pair)
    rounding = problem.rounding() ** 2 * float(size) / step
    return Comparison(float(ours), float(along), rounding)


def _along(problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """⟨u, ∇L_in⟩ and a bound on its terms; the gradient itself is not kept."""
    gradient = problem.training_gradient(signals)
    dot = size = wide(signals[0].new_zeros(()))
    for u_p, g in zip(u, gradient, strict=True):
        if u_p is not None and g is not None:
            a, b = wide(u_p), wide(g)
            dot, size = dot + (a * b).sum(), size + a.norm() * b.norm()
    return dot, size


def wide(t: Tensor) -> Tensor:
    """In float64, for sums that cancel; Apple's GPUs have none. A complex number is two real ones."""
    t = torch.view_as_real(t) if t.is_complex() else t
    return t.float() if t.device.type == "mps" else t.double()


def _unit(t: Tensor) -> Tensor:
    unit: Tensor = t / t.norm().clamp_min(torch.finfo(t.dtype).tiny)
    return unit
