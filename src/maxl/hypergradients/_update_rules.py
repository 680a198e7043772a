"""The lookahead θ₁⁺ = U(θ₁, ∇L): one optimizer step as a function, and its derivative.

Every optimizer here updates each weight from that weight's own gradient, so ∂U/∂∇ is elementwise and
the vector u = −(∂U/∂∇)ᵀ v of the double gradient costs a few elementwise passes. The rules are written
with differentiable operations; reverse mode goes through them, and forward mode takes the elementwise
derivative from them, so both differentiate the same formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Rule = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], Tensor]
Factor = float | Tensor | None  # None: the weight got no gradient and does not move


def _sgd(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
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


def _adam(p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
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


_RULES: dict[type[Optimizer], Rule] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
}


class Lookahead:
    """One step of an optimizer on given weights, with the optimizer's live state and settings.

    Args:
        rule: ``(p, g, state, group) -> p⁺``, differentiable in g and elementwise in it.
        settings: For each weight its optimizer state and parameter group, in the order of the weights.
    """

    def __init__(self, rule: Rule, settings: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        self.rule = rule
        self.settings = settings

    @classmethod
    def sgd(cls, learning_rate: float | Tensor | Sequence[float | Tensor], count: int) -> Lookahead:
        """The paper's lookahead θ₁ − α∇L, whatever optimizer does the training.

        Args:
            learning_rate: α, one for all or one for each of the ``count`` weights.
            count: Number of weights.
        """
        rates = learning_rate if isinstance(learning_rate, Sequence) else [learning_rate] * count
        plain = {"maximize": False, "weight_decay": 0, "momentum": 0, "nesterov": False}
        return cls(_sgd, [({}, {**plain, "lr": rate}) for rate in rates])

    @classmethod
    def of(cls, optimizer: Optimizer, parameters: Sequence[Tensor], *, plain: bool = False) -> Lookahead:
        """The next step of ``optimizer``: SGD, Adam or AdamW with all their options.

        Args:
            optimizer: Holds every one of ``parameters``.
            parameters: The weights to look ahead for.
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
                f"the lookahead can follow {known}; got {type(optimizer).__name__}: "
                'pass lookahead_rule="sgd" to look ahead with the paper\'s plain step'
            )
        return cls(rule, [(optimizer.state.get(p, {}), groups[id(p)]) for p in parameters])

    def step(self, weights: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
        """θ₁⁺, new tensors; a weight without a gradient stays as it is, as in torch.optim."""
        return [
            p if g is None else self.rule(p, g, state, group)
            for p, g, (state, group) in zip(weights, grads, self.settings, strict=True)
        ]

    def factor(self, weights: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Factor]:
        """−∂U/∂∇ for each weight: a number for SGD, a tensor of the weight's shape otherwise.

        The double gradient needs u = −(∂U/∂∇)ᵀ v, which is this factor times v; α v for plain SGD.
        """
        factors: list[Factor] = []
        for p, g, (state, group) in zip(weights, grads, self.settings, strict=True):
            if g is None:
                factors.append(None)
            elif self.rule is _sgd:  # linear in the gradient
                factors.append(_sgd_factor(state, group))
            else:
                with torch.enable_grad():
                    g = g.detach().requires_grad_()
                    moved = self.rule(p.detach(), g, state, group)
                factors.append(-torch.autograd.grad(moved, g, torch.ones_like(moved))[0])
        return factors


def _sgd_factor(state: dict[str, Any], group: dict[str, Any]) -> float | Tensor:
    share: float = 1.0
    if momentum := group["momentum"]:
        share = 1.0 if state.get("momentum_buffer") is None else 1.0 - group["dampening"]
        share = 1.0 + momentum * share if group["nesterov"] else share
    factor: float | Tensor = group["lr"] * (-share if group["maximize"] else share)
    return factor
