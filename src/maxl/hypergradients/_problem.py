"""The two-level problem that every way to differentiate answers.

Symbols, as in the paper: θ₁ the network's weights, z = f(x; θ₁) its outputs, t = g(x, y; θ₂) the generated
signals, L_in(z, y, t) the training loss, U the optimizer's step, θ₁⁺ = U(θ₁, ∇L_in) the lookahead, L_out(θ₁⁺) the
outer loss. A way returns dL_out(θ₁⁺)/dt, a small tensor for each signal; one ordinary backward through the
generator then gives the gradient for θ₂. Nothing here knows what the signals mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from maxl.hypergradients._dual_kernels import Recording
from maxl.hypergradients._purity import pure_call
from maxl.hypergradients._random_state import RandomState
from maxl.hypergradients._update_rule import Factor, UpdateRule

Outputs = tuple[Tensor, ...]  # what the network gives: (primary,) or (primary, auxiliary)
Signals = tuple[Tensor, ...]  # what the generator gives, for instance (labels,) or (labels, weights)
TrainingLoss = Callable[[Outputs, Tensor, Signals], Tensor]  # (outputs, y, signals) -> scalar
OuterLoss = Callable[[Tensor, Tensor], Tensor]  # (primary outputs, y) -> scalar
# (tensors or None, tensors like them) -> their sums over all processes
Total = Callable[[Sequence[Tensor | None], Sequence[Tensor]], list[Tensor | None]]


class Passes(Protocol):
    """Passes of a network that replace eager ones: see ``CompiledPasses``."""

    def pure(self, weights: Mapping[str, Tensor], *inputs: Tensor) -> tuple[Tensor, ...] | Tensor: ...

    def tangent(
        self, weights: Mapping[str, Tensor], u: Mapping[str, Tensor | None], x: Tensor
    ) -> tuple[Outputs, Outputs] | None: ...


@dataclass(kw_only=True)
class Problem:
    """A batch, the two losses and the weights at which the training step is (or was) taken.

    Args:
        network: Maps x to its outputs, the primary ones first.
        weights: Trainable weights θ₁ by name, at which L_in is differentiated.
        x, y: The training batch.
        training_loss: L_in, a function of outputs, targets and signals.
        outer_loss: L_out, a function of primary outputs and targets.
        random: State of the generators before the training pass, so that dropout masks agree.
        autocast: Lower precision for the passes of the network, or None.
        recording: Outputs of layers in the training pass, for forward mode to reuse, or None.
        passes: The network's compiled passes, or None for eager ones. They cannot be differentiated twice.
        share: Share of this batch in the training step, a factor on L_in: 1 for a whole batch.
        outer_share: Share of the outer batch likewise, a factor on L_out.
        total: Sums gradients over processes that each have a part of the batch, or None for one process.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    training_loss: TrainingLoss
    outer_loss: OuterLoss
    random: RandomState
    autocast: torch.dtype | None = None
    recording: Recording | None = None
    passes: Passes | None = None
    share: float = 1.0
    outer_share: float = 1.0
    total: Total | None = None

    def precision(self) -> AbstractContextManager[object]:
        """The autocast region of a pass, or nothing."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.x.device.type, self.autocast)

    def outputs(self, weights: Mapping[str, Tensor], x: Tensor) -> Outputs:
        """The network's outputs in float32 or better; changes nothing in the network."""
        with self.precision():
            pure = partial(pure_call, self.network) if self.passes is None else self.passes.pure
            return in_float(pure(weights, x))

    def compiled_tangent(self, u: Sequence[Tensor | None]) -> tuple[Outputs, Outputs] | None:
        """Outputs and their tangents along u by a compiled pass; None where there is none."""
        if self.passes is None:
            return None
        with self.random.replay(), self.precision():
            pair = self.passes.tangent(self.weights, dict(zip(self.weights, u, strict=True)), self.x)
        return None if pair is None else (in_float(pair[0]), in_float(pair[1]))

    def inner(self, weights: Mapping[str, Tensor], signals: Signals) -> Tensor:
        """L_in at ``weights``, with the random numbers of the training pass."""
        with self.random.replay():
            outputs = self.outputs(weights, self.x)
        return self.loss(outputs, signals)

    def loss(self, outputs: Outputs, signals: Signals) -> Tensor:
        """L_in of outputs, or this batch's summand of it."""
        loss = self.training_loss(outputs, self.y, signals)
        return loss if self.share == 1.0 else self.share * loss

    def outer(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """L_out at ``weights`` on a batch of one's choice."""
        loss = self.outer_loss(self.outputs(weights, x)[0], y)
        return loss if self.outer_share == 1.0 else self.outer_share * loss

    def training_gradient(self, signals: Signals) -> list[Tensor | None]:
        """∇_θ₁ L_in with the signals held constant."""
        leaves = leaves_of(self.weights)
        with torch.enable_grad():
            loss = self.inner(leaves, tuple(s.detach() for s in signals))
        return list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))

    def outer_gradient(
        self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss and v = ∇L_out at the lookahead ``weights``."""
        leaves = leaves_of(weights)
        with torch.enable_grad():
            loss = self.outer(leaves, x, y)
        return loss.detach(), list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))

    def direction(
        self, signals: Signals, rule: UpdateRule, x: Tensor, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss at θ₁⁺ on (x, y), and u = −(∂U/∂∇)ᵀ v."""
        theta = list(self.weights.values())
        with torch.no_grad():
            with self.recording or nullcontext():
                grads = self.training_gradient(signals)
                if self.total is not None:
                    grads = self.total(grads, theta)
            ahead = dict(zip(self.weights, rule.step(theta, grads), strict=True))
            factor = rule.factor(theta, grads)
        del grads
        loss, v = self.outer_gradient(ahead, x, y)
        if self.total is not None:
            everybodys, *v = self.total([loss, *v], [loss, *theta])
            assert everybodys is not None
            loss = everybodys
        return loss, scale(v, factor)


def scale(v: list[Tensor | None], factor: Sequence[Factor]) -> list[Tensor | None]:
    """u = factor · v; None where either is: such a weight does not carry the signals' influence.

    Empties v as it goes, so that both are never there as a whole. Not in place: autograd hands out one tensor
    for weights that are added to each other, and views of a single number for expanded ones.
    """
    u: list[Tensor | None] = []
    for i, f in enumerate(factor):
        v_p, v[i] = v[i], None
        u.append(None if v_p is None or f is None else v_p * f)
    v.clear()
    return u


def leaves_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as fresh leaves that gradients can be taken for."""
    return {name: p.detach().requires_grad_() for name, p in weights.items()}


def as_tuple(output: Any) -> tuple[Tensor, ...]:
    """What a module gives, one tensor or several, as a tuple."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def in_float(outputs: Any) -> Outputs:
    """Outputs as a tuple, in float32 or better: losses are not taken in half precision."""
    return tuple(o.float() if o.dtype in (torch.float16, torch.bfloat16) else o for o in as_tuple(outputs))
