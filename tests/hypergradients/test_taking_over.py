"""What only a backward pass sees: reverse mode takes over and says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _hiding import (
    batch,
    detached,
    energy,
    generator,
    hooked_module,
    hooked_tensor,
    inner_descent,
    jvp_within,
    late_hook,
    mytanh,
    network,
    no_grad_part,
    reversed_gradient,
    straight_through,
)
from _networks import flatten, relative_error
from _truth import AHEAD, RATE, WAYS, check, found, truth
from _truth import precise as precise

FALLING_BACK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "custom operator": (lambda: network(lambda m, h: mytanh(h)), "maxl_tests"),
    "tensor hook": (lambda: network(hooked_tensor), "hook|Forward gives"),
    "module hook": (hooked_module, r"a backward hook of trunk\.last"),
    "gradient reversal": (lambda: network(reversed_gradient), "without jvp"),
}


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize(("build", "words"), FALLING_BACK.values(), ids=FALLING_BACK)
def test_reverse_mode_takes_over_where_only_a_backward_pass_knows(
    build: Callable[[], nn.Module], words: str, ahead: str
) -> None:
    net = build()
    check(net, "reverse", ahead)
    with pytest.warns(UserWarning, match=words):
        check(net, "forward", ahead)


HIDDEN_FROM_DIFFERENCES: dict[str, Callable[[], nn.Module]] = {
    "detached": lambda: network(detached),
    "straight-through": lambda: network(straight_through),
    "no_grad": lambda: network(no_grad_part),
    "tensor hook": lambda: network(hooked_tensor),
    "gradient reversal": lambda: network(reversed_gradient),
    "module hook": hooked_module,
}


@pytest.mark.parametrize("build", HIDDEN_FROM_DIFFERENCES.values(), ids=HIDDEN_FROM_DIFFERENCES)
def test_finite_differences_that_see_another_function_give_way_to_reverse_mode(
    build: Callable[[], nn.Module],
) -> None:
    net, gen, (x, y) = build(), generator(), batch()
    with pytest.warns(UserWarning, match="falls back to reverse mode"):
        value = found(net, gen, x, y, way=maxl.FiniteDifference())
    assert relative_error(value, truth(net, gen, x, y)) < 1e-10


def test_where_no_way_is_right_training_stops_with_a_sentence() -> None:
    class Vanishing(torch.autograd.Function):
        """A derivative whose own derivative is missing, without an error."""

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x**3

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return (3 * x * x * gradient).detach()

        @staticmethod
        def jvp(ctx: Any, tangent: Tensor) -> Tensor:
            return 0 * tangent

    net = network(lambda m, h: Vanishing.apply(h))
    net.trunk.last.requires_grad_(False)
    net.primary_head.requires_grad_(False)
    net.auxiliary_head.requires_grad_(False)
    with pytest.raises(ValueError, match="agree with ordinary gradients"):
        found(net, generator(), *batch())
    found(net, generator(), *batch(), check="never")


GLOBAL = "register_module_full_backward_hook", "register_module_full_backward_pre_hook"


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", GLOBAL)
@pytest.mark.parametrize("ahead", AHEAD)
def test_hooks_on_all_modules_are_seen(ahead: str, kind: str) -> None:
    def scaled(module: nn.Module, *gradients: Any) -> Any:
        inputs = gradients[0]
        return (
            tuple(0.5 * g if g is not None else g for g in inputs) if isinstance(module, nn.Linear) else None
        )

    handle = getattr(torch.nn.modules.module, kind)(scaled)
    try:
        with pytest.warns(UserWarning, match="a backward hook of all modules"):
            check(network(lambda m, h: h), "forward", ahead)
    finally:
        handle.remove()


@pytest.mark.parametrize("ahead", AHEAD)
def test_hooks_that_start_later_are_seen(ahead: str) -> None:
    on: list[bool] = []

    def between(module: nn.Module, h: Tensor) -> Tensor:
        return hooked_tensor(module, h) if on else h * 1.0

    net, gen, (x, y) = network(between), generator(), batch()
    optimizers = [torch.optim.SGD(m.parameters(), lr=r) for m, r in ((net, RATE), (gen, 1.0))]
    learner = maxl.MetaAuxiliaryLearner(net, gen, *optimizers, entropy_weight=0.0, **AHEAD[ahead])
    learner.step(x, y)
    on.append(True)
    expected, before = truth(net, gen, x, y, virtual=ahead == "virtual"), flatten(list(gen.parameters()))
    with pytest.warns(UserWarning, match="a hook on the gradient of a tensor"):
        learner.step(x, y)
    assert relative_error(before - flatten(list(gen.parameters())), expected) < 1e-10


FOLLOWED_BY_REVERSE = {f.__name__: f for f in (inner_descent, jvp_within)}


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("between", FOLLOWED_BY_REVERSE.values(), ids=FOLLOWED_BY_REVERSE)
def test_reverse_mode_takes_over_where_a_pass_of_dual_numbers_fails(between: Any, ahead: str) -> None:
    check(network(between), "reverse", ahead)
    with pytest.warns(UserWarning, match="cannot be followed without a double backward"):
        check(network(between), "forward", ahead)


@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("between", [late_hook, energy, detached, straight_through])
def test_the_pure_function_compares_too(between: Any, method: str) -> None:
    net, gen, (x, y) = network(between), generator(), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forward mode says that it falls back
        value = flatten(list(maxl.hypergradient(net, gen, x, y, RATE, method)))
    assert relative_error(value, truth(net, gen, x, y)) < 1e-10


@pytest.mark.parametrize("way", WAYS)
def test_what_no_exact_way_follows_names_the_one_that_does(way: str) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.last = nn.EmbeddingBag(7, 8, mode="mean"), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.last(self.bag((x.abs() * 3).long().clamp(max=6))))

    words = "finite-difference" if way == "forward" else "embedding_bag_backward"
    with pytest.raises(NotImplementedError, match=words):
        found(network(trunk=Bag()), generator(), *batch(), way=WAYS[way])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found(network(trunk=Bag()), generator(), *batch(), way=maxl.FiniteDifference())


def test_out_of_memory_is_not_taken_for_something_that_cannot_be_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def along(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(maxl.Forward, "along", along)
    with pytest.raises(torch.OutOfMemoryError):
        found(network(lambda m, h: h), generator(), *batch())


def test_mistakes_of_a_way_from_elsewhere_are_its_own() -> None:
    class Wrong(maxl.hypergradients.Way):
        def along(self, problem: Any, signals: Any, u: Any) -> Any:
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        found(network(lambda m, h: h), generator(), *batch(), way=Wrong())
