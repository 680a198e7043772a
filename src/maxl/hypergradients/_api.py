"""Choosing a method, and the pure function."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients._dual_kernels import Recording
from maxl.hypergradients._finite_difference import finite_difference
from maxl.hypergradients._forward import forward
from maxl.hypergradients._problem import AuxiliaryLoss, PrimaryLoss, Problem, Signals
from maxl.hypergradients._purity import RandomState, pure_call
from maxl.hypergradients._reverse import reverse, reverse_along
from maxl.hypergradients._update_rules import Lookahead
from maxl.losses import focal_loss, negative_entropy

Regulariser = Callable[[Tensor, Tensor], Tensor]  # (labels, y) -> scalar
Directional = Callable[[Problem, Signals, Sequence[Tensor | None]], Signals]

# How to differentiate along u. A further method is one function of this shape and a line here.
METHODS: dict[str, Directional] = {
    "forward": forward,
    "reverse": reverse_along,
    "finite-difference": finite_difference,
}


def label_gradient(
    method: str, problem: Problem, signals: Signals, lookahead: Lookahead, x: Tensor, y: Tensor
) -> tuple[Tensor, Signals]:
    """The outer loss on (x, y) and dL_pri(θ₁⁺)/dt by the named method."""
    if method == "reverse":  # one graph serves the lookahead and its derivative
        return reverse(problem, signals, lookahead, x, y)
    outer, u = problem.direction(signals, lookahead, x, y)
    return outer, METHODS[method](problem, signals, u)


def check_method(method: str) -> str:
    """The method's name, or ValueError with the names there are."""
    if method not in METHODS:
        raise ValueError(f"hypergradient needs to be one of {', '.join(METHODS)}; got {method!r}")
    return method


def missing_forward_formula(error: Exception) -> str | None:
    """The operator that has no forward-mode formula, if that is what the error says."""
    if found := re.search(r"forward AD with (\S+) that", str(error)):
        return found.group(1)
    return "a custom autograd.Function without jvp" if "implement the jvp function" in str(error) else None


def warn_fallback(operator: str) -> None:
    """One warning that names the operator."""
    warnings.warn(
        f"{operator} has no forward-mode formula in PyTorch: the hypergradient falls back to reverse mode, "
        'which is exact too but slower; pass hypergradient="reverse" to choose it without this warning',
        stacklevel=3,
    )


def regulariser_slope(
    labels: Tensor, y: Tensor, entropy_weight: float, regulariser: Regulariser | None = None
) -> tuple[Tensor, Tensor]:
    """d(λH)/dt, shape (N, K), or the slope of another regulariser; and H itself."""
    with torch.enable_grad():
        leaf = labels.detach().requires_grad_()
        term = negative_entropy(leaf)
        penalty = entropy_weight * term if regulariser is None else regulariser(leaf, y)
    return torch.autograd.grad(penalty, leaf)[0], term.detach()


def logit_gradient(labels: Tensor, gradient: Tensor) -> Tensor:
    """dL/dz for labels t = softmax(z), from dL/dt: what is left of it once the rows have to sum to one.

    Args:
        labels: t, shape (N, K).
        gradient: dL/dt, shape (N, K).
    """
    return labels * (gradient - (labels * gradient).sum(1, keepdim=True))


def pull_back(
    signals: Signals, gradients: Signals, parameters: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """dL/dθ₂ from dL/dt: one ordinary backward through the generator.

    Args:
        signals: t, with the generator's graph.
        gradients: dL/dt, shapes as the signals.
        parameters: θ₂.
    """
    return torch.autograd.grad(signals, list(parameters), gradients, allow_unused=True)


def hypergradient(
    network: nn.Module,
    generator: nn.Module,
    x: Tensor,
    y: Tensor,
    learning_rate: float = 0.01,
    method: str = "forward",
    *,
    optimizer: Optimizer | None = None,
    outer_batch: tuple[Tensor, Tensor] | None = None,
    entropy_weight: float = 0.0,
    primary_loss: PrimaryLoss = focal_loss,
    auxiliary_loss: AuxiliaryLoss = focal_loss,
) -> tuple[Tensor, ...]:
    """d[L_pri(θ₁⁺) + λH]/dθ₂ with θ₁⁺ = θ₁ − α∇(L_pri + L_aux) (paper, equation 4); changes nothing.

    Args:
        network: Maps x to (primary, auxiliary) logits.
        generator: Maps (x, y) to labels of shape (N, K), or to (labels, weights).
        x: Training batch, as the networks take it.
        y: Its primary labels.
        learning_rate: α of the lookahead; not used when ``optimizer`` is given.
        method: "forward" (exact, fast), "reverse" (exact, slow) or "finite-difference" (approximate).
        optimizer: Look ahead with this optimizer's next step instead of a plain step of ``learning_rate``.
        outer_batch: (x, y) on which L_pri(θ₁⁺) is taken; the training batch by default.
        entropy_weight: λ; at the default 0 the result is the double gradient alone.
        primary_loss: (logits, y) → scalar.
        auxiliary_loss: (logits, labels) → scalar, twice differentiable in the logits.

    Returns:
        One gradient for each trainable parameter of the generator, in the order of
        ``generator.parameters()``, zeros where there is no influence.

    Raises:
        ValueError: if the method is unknown or the optimizer cannot be followed.
    """
    check_method(method)
    weights: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    theta = list(weights.values())
    lookahead = (
        Lookahead.sgd(learning_rate, len(theta)) if optimizer is None else Lookahead.of(optimizer, theta)
    )
    random = RandomState.capture(x.device)
    with torch.enable_grad():
        signals = as_signals(pure_call(generator, {}, x, y))
    problem = Problem(
        network=network,
        weights=weights,
        x=x,
        y=y,
        primary_loss=primary_loss,
        auxiliary_loss=auxiliary_loss,
        random=random,
        recording=Recording() if method == "forward" else None,
    )
    outer = outer_batch or (x, y)
    try:
        _, gradients = label_gradient(method, problem, signals, lookahead, *outer)
    except NotImplementedError as error:
        operator = missing_forward_formula(error)
        if operator is None or method != "forward":
            raise
        warn_fallback(operator)
        _, gradients = label_gradient("reverse", problem, signals, lookahead, *outer)
    parameters = [p for p in generator.parameters() if p.requires_grad]
    slope, _ = regulariser_slope(signals[0], y, entropy_weight)
    pulled = pull_back(signals, (gradients[0] + slope, *gradients[1:]), parameters)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pulled, strict=True))


def as_signals(output: Tensor | tuple[Tensor, ...]) -> Signals:
    """A generator's output as a tuple: (labels,) or (labels, weights)."""
    return (output,) if isinstance(output, Tensor) else tuple(output)
