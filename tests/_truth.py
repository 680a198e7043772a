"""The hypergradient of one step by a plain double backward, and by a learner."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import maxl
from _hiding import (
    batch,
    generator,
)
from _networks import flatten, relative_error

RATE = 0.3


@pytest.fixture(autouse=True)
def precise(float64: None) -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def truth(net: nn.Module, gen: nn.Module, x: Tensor, y: Tensor, *, virtual: bool = False) -> Tensor:
    """The derivative of the outer loss by a plain double backward, with passes in the order of training.

    Buffers move and random numbers are drawn from pass to pass. A ``virtual`` step comes after one taken for good, and
    it and its judge start from the network and the random numbers as that one left them.
    """
    net, gen = copy.deepcopy((net, gen))
    weights = {n: p for n, p in net.named_parameters() if p.requires_grad}
    buffers = {n: b.clone() for n, b in net.named_buffers()}

    def outputs(w: dict[str, Tensor]) -> tuple[Tensor, ...]:
        moved = {n: b.clone() for n, b in buffers.items()}
        result = functional_call(net, {**w, **moved}, (x,))
        buffers.update(moved)
        return result

    def step(w: dict[str, Tensor]) -> dict[str, Tensor]:
        primary, auxiliary = outputs(w)
        loss = maxl.focal_loss(primary, y) + maxl.focal_loss(auxiliary, gen(x, y))
        grads = torch.autograd.grad(loss, list(w.values()), create_graph=True, allow_unused=True)
        return {n: p if g is None else p - RATE * g for (n, p), g in zip(w.items(), grads, strict=True)}

    if virtual:
        weights = {n: p.detach().requires_grad_() for n, p in step(weights).items()}
    kept, drawn = dict(buffers), random_state()
    ahead = step(weights)
    if virtual:
        buffers.update(kept)
        set_random_state(drawn)
    outer = maxl.focal_loss(outputs(ahead)[0], y)
    return flatten(torch.autograd.grad(outer, list(gen.parameters())))


def random_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])


def found(net: nn.Module, gen: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """The same from one step of a learner: θ₂ moves by exactly minus the hypergradient."""
    net, gen = copy.deepcopy((net, gen))
    before = flatten(list(gen.parameters()))
    learner = maxl.MetaAuxiliaryLearner(
        net,
        gen,
        torch.optim.SGD(net.parameters(), lr=RATE),
        torch.optim.SGD(gen.parameters(), lr=1.0),
        entropy_weight=0.0,
        **options,
    )
    learner.step(x, y)
    return before - flatten(list(gen.parameters()))


WAYS = {"forward": maxl.Forward(), "reverse": maxl.Reverse()}


AHEAD = {
    "taken": {},
    "low memory": {"lookahead": maxl.Taken(recompute=True)},
    "virtual": {"lookahead": maxl.Virtual()},
}


def check(net: nn.Module, way: str, ahead: str, reference: nn.Module | None = None) -> None:
    """The learner's hypergradient is the true one, from the same state of every generator of random numbers."""
    gen, (x, y) = generator(), batch()
    state = random_state()
    expected = truth(reference or net, gen, x, y, virtual=ahead == "virtual")
    set_random_state(state)
    assert relative_error(found(net, gen, x, y, way=WAYS[way], **AHEAD[ahead]), expected) < 1e-10
