"""Gradients for the signals t, and from there on to the generator's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from maxl.hypergradients._problem import Signals


def slopes(penalty: Callable[[Signals], Tensor | None], signals: Signals) -> Signals:
    """Gradients of a penalty on the signals themselves, one of each signal's shape; zeros where it is None."""
    with torch.enable_grad():
        leaves = tuple(s.detach().requires_grad_() for s in signals)
        value = penalty(leaves)
    if value is None or not value.requires_grad:
        return tuple(torch.zeros_like(s) for s in leaves)
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return tuple(torch.zeros_like(s) if g is None else g for s, g in zip(leaves, found, strict=True))


def pull_back(
    signals: Signals, gradients: Signals, parameters: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """dL/dθ₂ from dL/dt: one ordinary backward through the generator.

    Args:
        signals: t, with the generator's graph.
        gradients: dL/dt, shapes as the signals.
        parameters: θ₂; none of them while the generator is frozen.
    """
    if not parameters:
        return ()
    return torch.autograd.grad(signals, list(parameters), gradients, allow_unused=True)


def logit_gradient(signal: Tensor, gradient: Tensor) -> Tensor:
    """dL/dz for labels t = softmax(z), from dL/dt: what is left of it once the rows have to sum to one.

    Args:
        signal: t, shape (N, K); a signal of shape (N,), such as weights, is no distribution.
        gradient: dL/dt, of t's shape.

    Returns:
        Of t's shape; for a signal of shape (N,) the gradient itself.
    """
    if signal.dim() == 1:
        return gradient
    return signal * (gradient - (signal * gradient).sum(-1, keepdim=True))
