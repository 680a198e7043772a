"""The update θ⁺ = U(θ, ∇): one optimizer step as a function, and its derivative.

Every optimizer here updates each weight from that weight's own gradient, so ∂U/∂∇ is elementwise and
the vector u = −(∂U/∂∇)ᵀ v of the double gradient costs a few elementwise passes. The steps are written
with differentiable operations, for reverse mode to go through them; their derivatives in closed form, since
what autograd makes of Adam's first steps cancels in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Factor = float | Tensor | None  # None: the weight got no gradient and does not move
_Settings = dict[str, Any]
_Step = Callable[[Tensor, Tensor, _Settings, _Settings], Tensor]
_Slope = Callable[[Tensor, _Settings, _Settings, Tensor], float | Tensor]


class UpdateRule:
    """One step of an optimizer on given weights, with the optimizer's live state and settings.

    Args:
        step: ``(p, g, state, group) -> p⁺``, differentiable in g and elementwise in it.
        slope: ``(g, state, group, p) -> −∂p⁺/∂g``, a number or of p's shape.
        settings: For each weight its optimizer state and parameter group, in the order of the weights.
    """

    def __init__(
        self, step: _Step, slope: _Slope, settings: Sequence[tuple[dict[str, Any], dict[str, Any]]]
    ) -> None:
        self._step, self._slope = step, slope
        self.settings = settings

    @classmethod
    def sgd(cls, learning_rate: float | Tensor | Sequence[float | Tensor], count: int) -> UpdateRule:
        """The paper's step θ₁ − α∇L, whatever optimizer does the training.

        Args:
            learning_rate: α, one for all or one for each of the ``count`` weights.
            count: Number of weights.
        """
        rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate] * count
        plain = {"maximize": False, "weight_decay": 0, "momentum": 0, "nesterov": False}
        return cls(_sgd, _sgd_slope, [({}, {**plain, "lr": rate}) for rate in rates])

    @classmethod
    def of(cls, optimizer: Optimizer, parameters: Sequence[Tensor], *, plain: bool = False) -> UpdateRule:
        """The next step of ``optimizer``: SGD, Adam or AdamW with all their options.

        Args:
            optimizer: Holds every one of ``parameters``.
            parameters: The weights that move.
            plain: Take only the learning rates and step as plain SGD, as the paper does.

        Raises:
            ValueError: if the optimizer is of another kind, or misses a parameter that the network trains.
        """
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        missing = sum(id(p) not in groups for p in parameters)
        if missing:
            raise ValueError(
                f"the optimizer needs to hold every trainable weight of the network; {missing} of "
                f"{len(parameters)} are missing: add them, or freeze them with requires_grad_(False)"
            )
        if plain:
            return cls.sgd([groups[id(p)]["lr"] for p in parameters], len(parameters))
        rule = _RULES.get(type(optimizer))
        if rule is None:
            known = ", ".join(kind.__name__ for kind in _RULES)
            raise ValueError(
                f"the lookahead can follow {known}; got {type(optimizer).__name__}: train with one of these, "
                'or look ahead by a virtual step of plain SGD: lookahead=maxl.Virtual("sgd")'
            )
        if rule[0] is _adam and any(p.is_complex() for p in parameters):
            raise ValueError(
                f"the lookahead can follow {type(optimizer).__name__} on real weights, as its step takes the two halves of a "
                "complex one apart; got complex weights: train with torch.optim.SGD"
            )
        return cls(*rule, [(optimizer.state.get(p, {}), groups[id(p)]) for p in parameters])

    def step(self, weights: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
        """θ⁺, new tensors; a weight without a gradient stays as it is, as in torch.optim."""
        return [
            p if g is None else self._step(p, g, state, group)
            for p, g, (state, group) in zip(weights, grads, self.settings, strict=True)
        ]

    @torch.no_grad()
    def factor(self, weights: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Factor]:
        """−∂U/∂∇ for each weight: a number for SGD, a tensor of the weight's shape otherwise.

        The double gradient needs u = −(∂U/∂∇)ᵀ v, which is this factor times v; α v for plain SGD.
        """
        return [
            None if g is None else self._slope(g, state, group, p)
            for p, g, (state, group) in zip(weights, grads, self.settings, strict=True)
        ]


def _sgd(p: Tensor, g: Tensor, state: _Settings, group: _Settings) -> Tensor:
    """SGD with momentum, dampening, Nesterov and weight decay, as torch.optim.SGD steps."""
    if group["maximize"]:
        g = -g
    if group["weight_decay"]:
        g = g + group["weight_decay"] * p
    if momentum := group["momentum"]:
        buffer = state.get("momentum_buffer")
        mean = g if buffer is None else momentum * buffer + (1 - group["dampening"]) * g
        g = g + momentum * mean if group["nesterov"] else mean
    moved: Tensor = p - group["lr"] * g
    return moved


def _sgd_slope(g: Tensor, state: _Settings, group: _Settings, p: Tensor) -> float | Tensor:
    share: float = 1.0
    if momentum := group["momentum"]:
        share = 1.0 if state.get("momentum_buffer") is None else 1.0 - group["dampening"]
        share = 1.0 + momentum * share if group["nesterov"] else share
    slope: float | Tensor = group["lr"] * (-share if group["maximize"] else share)
    return slope


def _adam(p: Tensor, g: Tensor, state: _Settings, group: _Settings) -> Tensor:
    """Adam and AdamW, AMSGrad included, as torch.optim steps."""
    if group["maximize"]:
        g = -g
    lr, (beta1, beta2) = group["lr"], group["betas"]
    if group["weight_decay"]:
        if group["decoupled_weight_decay"]:
            p = p * (1 - lr * group["weight_decay"])
        else:
            g = g + group["weight_decay"] * p
    step = float(state["step"]) + 1 if state else 1.0
    first = beta1 * state["exp_avg"] + (1 - beta1) * g if state else (1 - beta1) * g
    second = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g if state else (1 - beta2) * g * g
    if group["amsgrad"] and state:
        second = torch.maximum(state["max_exp_avg_sq"], second)
    corrected = second / (1 - beta2**step)
    # Where the second moment is 0 so is the gradient; the root's derivative there is infinite: hold it at 0.
    zero = corrected == 0
    root = torch.where(zero, 0.0, torch.where(zero, 1.0, corrected).sqrt())
    moved: Tensor = p - lr / (1 - beta1**step) * first / (root + group["eps"])
    return moved


def _adam_slope(g: Tensor, state: _Settings, group: _Settings, p: Tensor) -> float | Tensor:
    """lr [a ε + (a r − b q g) / √v̂] / (√v̂ + ε)², with m̂ = a g + q and v̂ = b g² + r.

    q and r are what the moments were before this step: in the first one both are 0, and the two large terms
    of the quotient rule, which would cancel in float32, are not there to begin with.
    """
    sign = -1.0 if group["maximize"] else 1.0
    lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
    g = sign * g
    if group["weight_decay"] and not group["decoupled_weight_decay"]:
        g = g + group["weight_decay"] * p
    step = float(state["step"]) + 1 if state else 1.0
    a, b = (1 - beta1) / (1 - beta1**step), (1 - beta2) / (1 - beta2**step)
    q: float | Tensor = beta1 / (1 - beta1**step) * state["exp_avg"] if state else 0.0
    r: float | Tensor = beta2 / (1 - beta2**step) * state["exp_avg_sq"] if state else 0.0
    second = b * g * g + r
    held = None
    if group["amsgrad"] and state:
        largest = state["max_exp_avg_sq"] / (1 - beta2**step)
        held = largest > second  # there the second moment is a constant
        second = torch.maximum(largest, second)
    zero = second == 0  # so is the gradient; held at 0 as in the step
    root = torch.where(zero, 1.0, second).sqrt()
    moving = (a * r - b * q * g) / root
    if held is not None:
        moving = torch.where(held, a * root, moving)
    slope = (a * eps + moving) / (root + eps) ** 2
    slope = torch.where(zero, a / eps if eps else 0.0, slope)
    result: Tensor = sign * lr * slope
    return result


# A further optimizer is its step, its slope and a line here.
_RULES: dict[type[Optimizer], tuple[_Step, _Slope]] = {
    torch.optim.SGD: (_sgd, _sgd_slope),
    torch.optim.Adam: (_adam, _adam_slope),
    torch.optim.AdamW: (_adam, _adam_slope),
}
