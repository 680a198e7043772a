"""How the gradients of the two losses meet in the weights that both train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from maxl.supervision import Losses

Gradients = Sequence[Tensor | None]
Gate = Callable[[Gradients, Gradients], Tensor]  # (∇L_pri, ∇L_aux) by weight -> factor on ∇L_aux, a scalar


class Mixed(NamedTuple):
    """What became of the auxiliary gradient."""

    gate: Tensor | None = None  # the factor on it where the tasks share a weight; None without a gate
    factors: list[Tensor | None] | None = None  # the same by weight, None standing for 1; None for all 1


class Mix(ABC):
    """Fills ``p.grad`` from the two parts of the training loss.

    Attributes:
        splits: Whether it needs the two gradients apart, and so two backward passes.
    """

    splits: ClassVar[bool]

    @abstractmethod
    def backward(self, losses: Losses, weights: Sequence[Tensor], primary: Gradients | None) -> Mixed:
        """Adds the gradient of the training loss to ``p.grad`` of each weight.

        Args:
            losses: The two parts, with their graph.
            weights: θ₁.
            primary: ∇ of the primary part by weight, where it has been computed already.
        """


class Sum(Mix):
    """∇L_pri + ∇L_aux, as in the paper."""

    splits = False

    def backward(self, losses: Losses, weights: Sequence[Tensor], primary: Gradients | None) -> Mixed:
        """As ``Mix.backward``, by one backward pass."""
        if primary is None:
            losses.total().backward()  # type: ignore[no-untyped-call]
            return Mixed()
        if losses.auxiliary is not None:
            losses.auxiliary.backward()  # type: ignore[no-untyped-call]
        add_gradients(weights, primary)
        return Mixed()


@dataclass(frozen=True)
class Gated(Mix):
    """∇L_pri + s ∇L_aux with s of a gate on shared weights, and 1 on those of the auxiliary head. Beyond the paper.

    Args:
        gate: (∇L_pri, ∇L_aux) → s, for instance ``cosine_gate``. The meta step takes s as a constant.
    """

    gate: Gate

    splits: ClassVar[bool] = True

    def backward(self, losses: Losses, weights: Sequence[Tensor], primary: Gradients | None) -> Mixed:
        """As ``Mix.backward``, by two backward passes."""
        if losses.auxiliary is None:
            return Sum().backward(losses, weights, primary)
        if primary is None:
            primary = torch.autograd.grad(losses.primary, weights, retain_graph=True, allow_unused=True)
        auxiliary = torch.autograd.grad(losses.auxiliary, weights, allow_unused=True)
        total, factors, s = combine(self.gate, primary, auxiliary)
        add_gradients(weights, total)
        return Mixed(s, factors)


def add_gradients(weights: Sequence[Tensor], gradients: Gradients) -> None:
    """Adds to ``p.grad``; never one tensor for two weights, nor an expanded one, as autograd may hand out."""
    taken: set[int] = set()
    for p, g in zip(weights, gradients, strict=True):
        if g is None:
            continue
        if p.grad is not None:
            p.grad.add_(g)
            continue
        own = g.data_ptr() not in taken and 0 not in g.stride()
        p.grad = g.detach() if own else g.detach().clone(memory_format=torch.contiguous_format)
        taken.add(g.data_ptr())


def added(some: Gradients, others: Gradients) -> list[Tensor | None]:
    """The sums by weight; None stands for zero."""
    return [b if a is None else a if b is None else a + b for a, b in zip(some, others, strict=True)]


def copy_gradients(weights: Sequence[Tensor], gradients: Gradients) -> None:
    """Copies in ``p.grad``, where there is none, for a pass to add to; autograd may have handed out parts of one tensor."""
    for p, g in zip(weights, gradients, strict=True):
        p.grad = None if g is None else torch.empty_like(p, requires_grad=False).copy_(g)


def cosine_gate(primary: Gradients, auxiliary: Gradients) -> Tensor:
    """max(0, cos(∇L_pri, ∇L_aux)) over the weights that both tasks share (Du et al., arXiv 1812.02224).

    Args:
        primary: ∇L_pri, one entry for each weight; None where the task does not use the weight.
        auxiliary: ∇L_aux, likewise.

    Returns:
        A scalar in [0, 1]; 0 where the tasks share no weight or a gradient vanishes.
    """
    pairs = [(a, b) for a, b in zip(primary, auxiliary, strict=True) if a is not None and b is not None]
    if not pairs:
        return torch.zeros(())
    dot = torch.stack([(a * b).sum() for a, b in pairs]).sum()
    norms = [torch.stack([g.norm() for g in side]).norm() for side in zip(*pairs, strict=True)]
    product = norms[0] * norms[1]
    return torch.where(product > 0, dot / product, 0.0).clamp(0.0, 1.0)


def sign_gate(primary: Gradients, auxiliary: Gradients) -> Tensor:
    """1 where ``cosine_gate`` is above 0, else 0: the whole auxiliary gradient or none (ibid., unweighted)."""
    return (cosine_gate(primary, auxiliary) > 0).to(torch.float32)


def combine(
    gate: Gate, primary: Gradients, auxiliary: Gradients
) -> tuple[list[Tensor | None], list[Tensor | None], Tensor]:
    """∇L_pri + s ∇L_aux with s of the gate on shared weights and 1 on those of the auxiliary head.

    Returns:
        The sum by weight; the factor on ∇L_aux by weight (None: 1); and s itself.
    """
    s = gate(primary, auxiliary)
    total: list[Tensor | None] = []
    factors: list[Tensor | None] = []
    for a, b in zip(primary, auxiliary, strict=True):
        shared = a is not None and b is not None
        factors.append(s if shared else None)
        total.append(
            torch.add(a, s.to(a.dtype) * b) if a is not None and b is not None else b if a is None else a
        )
    return total, factors, s
