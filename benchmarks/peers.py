"""The same hypergradient by other libraries, and by the paper's equations written plainly.

Each function takes the two networks, a batch and α, and returns d[L_pri(θ₁⁺) + λH]/dθ₂ with
θ₁⁺ = θ₁ − α∇(L_pri + L_aux), one gradient per parameter of the generator. They serve as oracles and as
rivals in time and memory. None changes a weight; running statistics of batch norm move where the library
lets them.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from maxl import focal_loss, negative_entropy

Hypergradient = Callable[[nn.Module, nn.Module, Tensor, Tensor, float], Sequence[Tensor]]
ENTROPY_WEIGHT = 0.2


def paper(network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor, rate: float) -> Sequence[Tensor]:
    """The paper's equations: a gradient that keeps its graph, a step along it, a gradient through both."""
    weights = dict(network.named_parameters())
    labels = generator(x, y)
    grads = torch.autograd.grad(_inner(network(x), y, labels), list(weights.values()), create_graph=True)
    ahead = {name: w - rate * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    outer = _outer(functional_call(network, ahead, (x,)), y, labels)
    return torch.autograd.grad(outer, list(generator.parameters()))


def higher(network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor, rate: float) -> Sequence[Tensor]:
    """``higher``: a patched copy of the network and a differentiable SGD."""
    library = _load("higher")
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    with library.innerloop_ctx(network, optimizer) as (fast, differentiable):
        labels = generator(x, y)
        differentiable.step(_inner(fast(x), y, labels))
        return torch.autograd.grad(_outer(fast(x), y, labels), list(generator.parameters()))


def torchopt(network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor, rate: float) -> Sequence[Tensor]:
    """``torchopt``: a differentiable SGD that swaps the network's own weights, put back afterwards."""
    library = _load("torchopt")
    optimizer = library.MetaSGD(network, lr=rate)
    before = library.extract_state_dict(network, by="reference")
    labels = generator(x, y)
    optimizer.step(_inner(network(x), y, labels))
    grads = torch.autograd.grad(_outer(network(x), y, labels), list(generator.parameters()))
    library.recover_state_dict(network, before)
    return grads


def betty(network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor, rate: float) -> Sequence[Tensor]:
    """``betty-ml``: its Neumann series cut after the first term, which is one unrolled step of SGD, exactly.

    Its engine takes the vector at the weights after a real step; here, as for all others, at θ₁⁺.
    """
    neumann = _load("betty.hypergradient").neumann
    theta, parameters = list(network.parameters()), list(generator.parameters())
    labels = generator(x, y)
    grads = torch.autograd.grad(_inner(network(x), y, labels.detach()), theta)
    ahead = {n: (p - rate * g).detach().requires_grad_() for (n, p), g in _named(network, grads)}
    outer = _outer(functional_call(network, ahead, (x,)), y, labels)
    reached = torch.autograd.grad(
        outer, list(ahead.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    direct = torch.autograd.grad(outer, parameters)
    level = SimpleNamespace(
        paths=[],
        config=SimpleNamespace(neumann_iterations=0, neumann_alpha=rate),
        cur_batch=(x, y),
        training_step_exec=lambda batch: _inner(network(batch[0]), batch[1], generator(*batch)),
        trainable_parameters=lambda: theta,
    )
    above = SimpleNamespace(trainable_parameters=lambda: parameters)
    return [a + b for a, b in zip(neumann(reached, level, above, sync=False), direct, strict=True)]


def _double(function: Hypergradient) -> Hypergradient:
    """Within: attention's math kernel, since the fused ones have no double backward."""

    @functools.wraps(function)
    def run(*args: Any) -> Sequence[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            return function(*args)

    return run


PEERS: dict[str, Hypergradient] = {
    "paper's equations, plainly": _double(paper),
    "higher": _double(higher),
    "torchopt": _double(torchopt),
    "betty-ml": _double(betty),
}


def reason_missing(name: str) -> str | None:
    """Why a peer cannot run here, or None."""
    modules = {"higher": "higher", "torchopt": "torchopt", "betty-ml": "betty.hypergradient"}
    try:
        if name in modules:
            _load(modules[name])
    except ImportError as error:
        return f"{error}; it is in the dependency group 'bench'"
    return None


def _load(module: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own age
        return importlib.import_module(module)


def _inner(logits: tuple[Tensor, Tensor], y: Tensor, labels: Tensor) -> Tensor:
    return focal_loss(logits[0], y) + focal_loss(logits[1], labels)


def _outer(logits: tuple[Tensor, Tensor], y: Tensor, labels: Tensor) -> Tensor:
    return focal_loss(logits[0], y) + ENTROPY_WEIGHT * negative_entropy(labels)


def _named(network: nn.Module, grads: Sequence[Tensor]) -> zip[tuple[tuple[str, nn.Parameter], Tensor]]:
    return zip(network.named_parameters(), grads, strict=True)
