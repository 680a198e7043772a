"""``check_hypergradient`` names what in a network may hide a derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import maxl
from _hiding import (
    Annealed,
    MovingNorm,
    OwnBatchNorm,
    batch,
    checkpointed,
    counted,
    detached,
    generator,
    hooked_module,
    hooked_tensor,
    mytanh,
    network,
    no_grad_part,
    numpy_random,
    python_random,
    reversed_gradient,
)


def hooked_weight() -> nn.Module:
    net = network(lambda m, h: h)
    net.trunk.first.weight.register_hook(lambda g: g)
    return net


NAMED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight hook": (hooked_weight, "trunk.first.weight has a hook on its gradient: a learner refuses it"),
    "module hook": (hooked_module, "trunk.last has a backward hook: only reverse mode sees it"),
    "tensor hook": (lambda: network(hooked_tensor), "a tensor inside the network gets a hook"),
    "custom operator": (lambda: network(lambda m, h: mytanh(h)), "maxl_tests.mytanh"),
    "detach": (lambda: network(detached), "detach hides values from gradients"),
    "no_grad": (lambda: network(no_grad_part), "torch.no_grad hides values from gradients"),
    "function": (lambda: network(reversed_gradient), "Scaled has no jvp: reverse mode takes over"),
    "python": (lambda: network(python_random), "draws from Python's random"),
    "numpy": (lambda: network(numpy_random), "draws from numpy.random"),
    "counter": (
        lambda: network(counted),
        "a pass with the same random numbers and buffers gives other outputs",
    ),
    "annealed": (lambda: network(trunk=Annealed()), "moves the buffers trunk.passes"),
    "moving norm": (lambda: network(trunk=MovingNorm()), "moves the buffers trunk.mean, trunk.scale"),
    "own batch norm": (
        lambda: network(trunk=nn.Sequential(nn.Linear(6, 8), OwnBatchNorm(8))),
        "trunk.1 is BatchNorm with code of its own",
    ),
    "reentrant": (
        lambda: network(lambda m, h: checkpoint(m.last, h, use_reentrant=True)),
        "a reentrant activation checkpoint: refused",
    ),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's, on hooks and checkpoints
@pytest.mark.parametrize(("build", "words"), NAMED.values(), ids=NAMED)
def test_a_suspect_is_named(build: Callable[[], nn.Module], words: str) -> None:
    report = maxl.check_hypergradient(build(), generator(), *batch(), repeats=1, directions=0)
    assert any(words in suspect for suspect in report.suspects), report.suspects
    assert f"suspect: {report.suspects[0]}" in str(report)


@pytest.mark.parametrize(
    "build",
    [
        lambda: network(lambda m, h: h),
        lambda: network(checkpointed),
        lambda: network(lambda m, h: nn.functional.dropout(h, 0.3)),
        lambda: network(trunk=nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())),
    ],
    ids=["plain", "checkpoint", "dropout", "batch norm"],
)
def test_plain_layers_are_not_suspected(build: Callable[[], nn.Module]) -> None:
    report = maxl.check_hypergradient(build(), generator(), *batch(), repeats=1, directions=0)
    assert report.suspects == ()


def test_losses_that_are_no_means_are_named() -> None:
    def summed(logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, y, reduction="sum")

    report = maxl.check_hypergradient(
        *(network(lambda m, h: h), generator(), *batch()), primary_loss=summed, repeats=1, directions=0
    )
    assert report.suspects == (
        "the losses are no means over samples: refused for a batch in parts and in several processes",
    )
