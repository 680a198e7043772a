"""Networks that hide something from a derivative."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import maxl

HIERARCHY = maxl.Hierarchy([2, 3, 1])


class Hidden(nn.Module):
    """Two layers, and between them whatever a case does to h."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 8)
        self.spare = nn.Linear(6, 8)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(self.between(self, torch.tanh(self.first(x)))))


def network(
    between: Callable[[nn.Module, Tensor], Tensor] | None = None, trunk: nn.Module | None = None
) -> nn.Module:
    torch.manual_seed(0)
    built = Hidden(between) if between is not None else trunk
    assert built is not None
    return maxl.MultiTaskNetwork(built, HIERARCHY, feature_dim=8)


def generator() -> nn.Module:
    torch.manual_seed(1)
    return maxl.LabelGenerator(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), HIERARCHY, feature_dim=8)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(9, 6, generator=draw), torch.randint(0, 3, (9,), generator=draw)


def no_grad_part(module: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        scale = h.abs().mean(0, keepdim=True)
    return h / scale


def no_grad_layer(module: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        shift = torch.tanh(module.last(h))
    return h + shift


def no_grad_in_place(module: nn.Module, h: Tensor) -> Tensor:
    h = h * 1.0
    with torch.no_grad():
        h.add_(0.5 * module.first.weight.sum(1)).clamp_(min=-0.9)
    return h * h.detach()


def detached(module: nn.Module, h: Tensor) -> Tensor:
    return h / h.detach().abs().mean(0, keepdim=True)


def straight_through(module: nn.Module, h: Tensor) -> Tensor:
    return h + (h.sign() * 0.5 - h).detach()


def by_data(module: nn.Module, h: Tensor) -> Tensor:
    return h / h.data.abs().mean(0, keepdim=True)


def as_number(module: nn.Module, h: Tensor) -> Tensor:
    return h / h.abs().mean().item()


def extra_product(module: nn.Module, h: Tensor) -> Tensor:
    """A product of the shape of the next one, only where there is a graph."""
    if h.requires_grad:
        module.seen = module.last(2 * h).detach().mean()
    return h


def extra_in_grad_mode(module: nn.Module, h: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        module.seen = module.last(2 * h).detach().mean()
    return h


def python_random(module: nn.Module, h: Tensor) -> Tensor:
    return h * random.uniform(0.5, 2.0)


def numpy_random(module: nn.Module, h: Tensor) -> Tensor:
    return h * float(np.random.uniform(0.5, 2.0))  # noqa: NPY002


class Scaled(torch.autograd.Function):
    """A gradient reversal layer."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -0.3 * gradient


def reversed_gradient(module: nn.Module, h: Tensor) -> Tensor:
    return Scaled.apply(h)


def block(module: nn.Module, h: Tensor) -> Tensor:
    return torch.tanh(module.last(h)) ** 2


def checkpointed(module: nn.Module, h: Tensor) -> Tensor:
    return checkpoint(block, module, h, use_reentrant=False)


class Annealed(nn.Module):
    """A temperature in a buffer that every training pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return torch.tanh(self.layer(x) / (1 + 1 / self.passes))


class MovingNorm(nn.Module):
    """Normalises by averages that every training pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.mean(0), 0.5)
                self.scale.lerp_(h.std(0), 0.5)
        return torch.tanh((h - self.mean) / self.scale)


class OwnBatchNorm(nn.BatchNorm1d):
    """Updates its statistics by code of its own, whatever it is told."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = x.mean(0), x.var(0, unbiased=False)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(var, 0.1)
        return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias


@torch.library.custom_op("maxl_tests::mytanh", mutates_args=())
def mytanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(output)


def _slope(ctx: Any, gradient: Tensor) -> Tensor:
    (output,) = ctx.saved_tensors
    return gradient * (1 - output * output)


mytanh.register_autograd(_slope, setup_context=_keep)


def hooked_tensor(module: nn.Module, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda g: 0.1 * g)
    return h


def hooked_module() -> nn.Module:
    net = network(lambda m, h: h)
    net.trunk.last.register_full_backward_hook(
        lambda m, gi, go: tuple(None if g is None else 0.2 * g for g in gi)
    )
    return net


def counted(module: nn.Module, h: Tensor) -> Tensor:
    module.calls = getattr(module, "calls", 0) + 1
    return h / (1 + 1 / module.calls)


def own_generator(module: nn.Module, h: Tensor) -> Tensor:
    module.numbers = getattr(module, "numbers", None) or np.random.default_rng(0)
    return h * float(module.numbers.uniform(0.5, 2.0))


def late_hook(module: nn.Module, h: Tensor) -> Tensor:
    """A hook on a node of the graph, which nothing but a comparison sees."""
    h = torch.tanh(h * 1.0)
    if h.requires_grad and h.grad_fn is not None:
        h.grad_fn.register_prehook(lambda gradients: tuple(0.1 * g for g in gradients))
    return h


def energy(module: nn.Module, h: Tensor) -> Tensor:
    """h less the slope of an energy: a gradient within the pass, which the outer ones go through."""
    point = torch.zeros_like(h, requires_grad=True)
    with torch.enable_grad():
        value = torch.tanh(module.last(h + point)).pow(2).sum()
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
    return h - 0.5 * slope


def energy_of_relu(module: nn.Module, h: Tensor) -> Tensor:
    """The same with a kink, by factors."""
    point = torch.ones_like(h, requires_grad=True)
    with torch.enable_grad():
        value = torch.relu(module.last(h * point)).pow(2).sum()
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
    return h - 0.1 * slope


def inference_part(module: nn.Module, h: Tensor) -> Tensor:
    with torch.inference_mode():
        shift = module.last(h).mean()
    return h + float(shift)


def inner_descent(module: nn.Module, h: Tensor) -> Tensor:
    """A step of descent on a weight, within the pass."""
    with torch.enable_grad():
        weight = module.last.weight
        (slope,) = torch.autograd.grad((h @ weight.T).pow(2).sum(), weight, create_graph=True)
    return h @ (weight - 0.1 * slope).T


def vmapped_gradient(module: nn.Module, h: Tensor) -> Tensor:
    def value(z: Tensor) -> Tensor:
        return torch.tanh(module.last(z)).pow(2).sum()

    slopes: Tensor = torch.func.vmap(torch.func.grad(value))(h)
    return h - 0.3 * slopes


def jvp_within(module: nn.Module, h: Tensor) -> Tensor:
    along: Tensor = torch.func.jvp(lambda z: torch.tanh(module.last(z)), (h,), (torch.ones_like(h),))[1]
    return h + along


class SharedBuffer(nn.Module):
    """Two layers that count in one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Annealed(), Annealed()])
        self.layers[1].passes = self.layers[0].passes

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x) + 0.5 * self.layers[1](x)


class FunctionalNorm(nn.Module):
    """A BatchNorm layer that is used by its numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        return torch.tanh(
            nn.functional.batch_norm(
                self.first(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True
            )
        )


def own_forward() -> nn.Module:
    """A BatchNorm layer whose forward is replaced in the instance."""
    layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())

    def forward(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        norm.running_mean.lerp_(x.detach().mean(0), 0.5)
        return x - norm.running_mean

    layers[1].forward = MethodType(forward, layers[1])  # which copies take along
    return layers
