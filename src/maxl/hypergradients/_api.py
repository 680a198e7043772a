"""The double gradient as a pure function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients._dual_kernels import Recording
from maxl.hypergradients._fallback import OrReverse
from maxl.hypergradients._finite_difference import FiniteDifference
from maxl.hypergradients._forward import Forward
from maxl.hypergradients._inputs import Inputs, as_inputs, device_of
from maxl.hypergradients._problem import OuterLoss, Outputs, Problem, Signals, TrainingLoss, as_tuple
from maxl.hypergradients._purity import pure_call
from maxl.hypergradients._random_state import RandomState
from maxl.hypergradients._reverse import Reverse
from maxl.hypergradients._signals import pull_back, slopes
from maxl.hypergradients._update_rule import UpdateRule
from maxl.hypergradients._way import Way
from maxl.losses import AuxiliaryLoss, focal_loss, negative_entropy
from maxl.presets import check_choice

WAYS: dict[str, Way] = {
    "forward": Forward(),
    "reverse": Reverse(),
    "finite-difference": FiniteDifference(),
}


def as_way(way: Way | str) -> Way:
    """A way by its word, or itself; ValueError with the words there are."""
    if isinstance(way, Way):
        return way
    check_choice("the way to differentiate (hypergradient)", way, WAYS)
    return WAYS[way]


def hypergradient(
    network: nn.Module,
    generator: nn.Module,
    x: Inputs,
    y: Tensor,
    learning_rate: float = 0.01,
    method: str | Way = "forward",
    *,
    optimizer: Optimizer | None = None,
    outer_batch: tuple[Inputs, Tensor] | None = None,
    entropy_weight: float = 0.0,
    primary_loss: OuterLoss = focal_loss,
    auxiliary_loss: AuxiliaryLoss = focal_loss,
    training_loss: TrainingLoss | None = None,
    check: Literal["first", "never"] = "first",
) -> tuple[Tensor, ...]:
    """d[L_pri(θ₁⁺) + λH]/dθ₂ with θ₁⁺ = θ₁ − α∇(L_pri + L_aux) (paper, equation 4).

    Changes nothing: neither weights nor buffers, nor the generators of random numbers.

    Args:
        network: Maps x to (primary, auxiliary) logits; with a ``training_loss`` to whatever that takes.
        generator: Maps (x, y) to labels of shape (N, K), or to (labels, weights).
        x: Training batch, as the networks take it: a tensor, or tensors by name in a mapping.
        y: Its primary labels.
        learning_rate: α of the lookahead; not used when ``optimizer`` is given.
        method: "forward" (exact, fast), "reverse" (exact, slow) or "finite-difference" (approximate), or an
            object of one's own.
        optimizer: Look ahead with this optimizer's next step instead of a plain step of ``learning_rate``.
        outer_batch: (x, y) on which L_pri(θ₁⁺) is taken; the training batch by default.
        entropy_weight: λ; at the default 0 the result is the double gradient alone.
        primary_loss: (logits, y) → scalar.
        auxiliary_loss: (logits, labels) → scalar, twice differentiable in the logits.
        training_loss: (outputs, y, signals) → scalar, instead of L_pri + L_aux: ``bind`` of a supervision gives one.
        check: "first" compares the result with ordinary gradients at neighbouring signals, which detects whatever in the
            network hides its derivative and costs two gradients of L_in; "never" does not.

    Returns:
        One gradient for each trainable parameter of the generator, in the order of
        ``generator.parameters()``, zeros where there is no influence.

    Raises:
        ValueError: if the method is unknown, the optimizer cannot be followed, or the comparison shows that no method is
            right on this network.
    """
    way = as_way(method)
    weights: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    theta = list(weights.values())
    rule = UpdateRule.sgd(learning_rate, len(theta)) if optimizer is None else UpdateRule.of(optimizer, theta)

    def both(outputs: Outputs, y: Tensor, signals: Signals) -> Tensor:
        return primary_loss(outputs[0], y) + auxiliary_loss(outputs[1], *signals)

    x = as_inputs(x)
    random = RandomState.capture(device_of(x))
    problem = Problem(
        network=network,
        weights=weights,
        x=x,
        y=y,
        training_loss=training_loss or both,
        outer_loss=primary_loss,
        random=random,
        recording=Recording(outputs=way.reuses_outputs),
    )
    with random.replay(), torch.enable_grad():
        signals = as_tuple(pure_call(generator, {}, x, y))
        _, gradients = OrReverse(way, check).through(problem, signals, rule, *(outer_batch or (x, y)))
    if entropy_weight:
        penalty = slopes(lambda t: entropy_weight * negative_entropy(t[0]), signals)
        gradients = tuple(g + s for g, s in zip(gradients, penalty, strict=True))
    parameters = [p for p in generator.parameters() if p.requires_grad]
    pulled = pull_back(signals, gradients, parameters)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pulled, strict=True))
