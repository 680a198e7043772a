"""Beyond the paper: the auxiliary gradient counts only as far as it points the primary gradient's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Gradients = Sequence[Tensor | None]
Gate = Callable[[Gradients, Gradients], Tensor]  # (∇L_pri, ∇L_aux) by weight -> factor on ∇L_aux, a scalar


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
