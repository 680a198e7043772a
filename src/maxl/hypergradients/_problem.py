"""The two-level problem that every hypergradient method answers.

Symbols, as in the paper: θ₁ the network's weights, t = g(x, y; θ₂) the generated labels,
L_in(θ₁, t) = L_pri + L_aux the training loss, U the optimizer's step, θ₁⁺ = U(θ₁, ∇L_in) the lookahead,
L_pri(θ₁⁺) the outer loss. A method returns dL_pri(θ₁⁺)/dt, a small tensor; one ordinary backward
through the generator then gives the gradient for θ₂.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from maxl.hypergradients._dual_kernels import Recording
from maxl.hypergradients._purity import RandomState, pure_call
from maxl.hypergradients._update_rules import Factor, Lookahead

PrimaryLoss = Callable[[Tensor, Tensor], Tensor]
AuxiliaryLoss = Callable[..., Tensor]  # (logits, labels) or (logits, labels, weights) -> scalar
Signals = tuple[Tensor, ...]  # what the generator hands over: (labels,) or (labels, weights)


class Passes(Protocol):
    """Passes of a network that replace eager ones: see ``CompiledPasses``."""

    def pure(self, weights: Mapping[str, Tensor], *inputs: Tensor) -> tuple[Tensor, ...] | Tensor: ...

    def tangent(
        self, weights: Mapping[str, Tensor], u: Mapping[str, Tensor | None], x: Tensor
    ) -> tuple[Tensor, Tensor] | None: ...


@dataclass(kw_only=True)
class Problem:
    """A batch, the two losses and the weights at which the training step is (or was) taken.

    Args:
        network: Maps x to (primary, auxiliary) logits.
        weights: Trainable weights θ₁ by name, at which L_in is differentiated.
        x, y: The training batch.
        primary_loss: (logits, y) → scalar.
        auxiliary_loss: (logits, *signals) → scalar, twice differentiable in the logits.
        random: State of the generators before the training pass, so that dropout masks agree.
        autocast: Lower precision for the passes of the network, or None.
        recording: Outputs of layers in the training pass, for the forward method to reuse, or None.
        passes: The network's compiled passes, or None for eager ones. They cannot be differentiated twice.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    primary_loss: PrimaryLoss
    auxiliary_loss: AuxiliaryLoss
    random: RandomState
    autocast: torch.dtype | None = None
    recording: Recording | None = None
    passes: Passes | None = None

    def precision(self) -> AbstractContextManager[object]:
        """The autocast region of a pass, or nothing."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.x.device.type, self.autocast)

    def logits(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Primary and auxiliary logits in float32 or better; changes nothing in the network."""
        with self.precision():
            pure = partial(pure_call, self.network) if self.passes is None else self.passes.pure
            primary, auxiliary = pure(weights, x)
        return at_least_float(primary), at_least_float(auxiliary)

    def auxiliary_tangent(self, u: Sequence[Tensor | None]) -> tuple[Tensor, Tensor] | None:
        """Auxiliary logits and their tangent along u by a compiled pass; None where there is none."""
        if self.passes is None:
            return None
        with self.random.replay(), self.precision():
            pair = self.passes.tangent(self.weights, dict(zip(self.weights, u, strict=True)), self.x)
        return None if pair is None else (at_least_float(pair[0]), at_least_float(pair[1]))

    def training_loss(self, weights: Mapping[str, Tensor], signals: Signals) -> Tensor:
        """L_in = L_pri + L_aux at ``weights``, with the random numbers of the training pass."""
        with self.random.replay():
            primary, auxiliary = self.logits(weights, self.x)
        return self.primary_loss(primary, self.y) + self.auxiliary_loss(auxiliary, *signals)

    def outer_loss(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """L_pri at ``weights`` on a batch of one's choice."""
        return self.primary_loss(self.logits(weights, x)[0], y)

    def training_gradient(self, signals: Signals) -> list[Tensor | None]:
        """∇_θ₁ L_in with the labels held constant."""
        leaves = leaves_of(self.weights)
        with torch.enable_grad():
            loss = self.training_loss(leaves, tuple(s.detach() for s in signals))
        return list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))

    def outer_gradient(
        self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss and v = ∇L_pri at the lookahead ``weights``."""
        leaves = leaves_of(weights)
        with torch.enable_grad():
            loss = self.outer_loss(leaves, x, y)
        return loss.detach(), list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))

    def direction(
        self, signals: Signals, lookahead: Lookahead, x: Tensor, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss at θ₁⁺ on (x, y), and u = −(∂U/∂∇)ᵀ v."""
        theta = list(self.weights.values())
        with torch.no_grad():
            with self.recording or nullcontext():
                grads = self.training_gradient(signals)
            ahead = dict(zip(self.weights, lookahead.step(theta, grads), strict=True))
            factor = lookahead.factor(theta, grads)
        del grads
        loss, v = self.outer_gradient(ahead, x, y)
        return loss, scale(v, factor, in_place=True)


def scale(
    v: Sequence[Tensor | None], factor: Sequence[Factor], *, in_place: bool = False
) -> list[Tensor | None]:
    """u = factor · v; None where either is: such a weight does not carry the labels' influence.

    ``in_place`` overwrites v, which saves its size in memory.
    """
    if in_place:
        return [None if v_p is None or f is None else v_p.mul_(f) for v_p, f in zip(v, factor, strict=True)]
    return [None if v_p is None or f is None else v_p * f for v_p, f in zip(v, factor, strict=True)]


def leaves_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as fresh leaves that gradients can be taken for."""
    return {name: p.detach().requires_grad_() for name, p in weights.items()}


def at_least_float(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
