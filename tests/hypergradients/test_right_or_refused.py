"""Networks that hide something from a derivative: each gives the right hypergradient, or one clear sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import maxl
from _hiding import (
    Annealed,
    FunctionalNorm,
    MovingNorm,
    OwnBatchNorm,
    SharedBuffer,
    as_number,
    batch,
    block,
    by_data,
    checkpointed,
    counted,
    detached,
    energy,
    energy_of_relu,
    extra_in_grad_mode,
    extra_product,
    generator,
    inference_part,
    network,
    no_grad_in_place,
    no_grad_layer,
    no_grad_part,
    numpy_random,
    own_forward,
    own_generator,
    python_random,
    straight_through,
    vmapped_gradient,
)
from _networks import flatten, relative_error
from _truth import AHEAD, RATE, WAYS, check, found
from _truth import precise as precise

# What a derivative has to see


SEEN_BY_ALL = {
    f.__name__: f
    for f in (
        *(no_grad_part, no_grad_layer, no_grad_in_place, detached, straight_through, by_data, as_number),
        *(extra_product, extra_in_grad_mode, python_random, numpy_random),
        *(energy, energy_of_relu, inference_part, vmapped_gradient),
    )
}


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("between", SEEN_BY_ALL.values(), ids=SEEN_BY_ALL)
def test_what_is_hidden_from_gradients_is_hidden_from_the_hypergradient(
    between: Callable[[nn.Module, Tensor], Tensor], way: str, ahead: str
) -> None:
    check(network(between), way, ahead)


def checkpoints_have_tangents() -> bool:
    """Not in every PyTorch; where they have none, reverse mode takes over and says so."""
    with warnings.catch_warnings(action="ignore"), torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(torch.zeros(2), torch.ones(2))
        try:
            return forward_ad.unpack_dual(checkpoint(torch.sin, x, use_reentrant=False)).tangent is not None
        except NotImplementedError:
            return False


def falling_back(way: str) -> AbstractContextManager[object]:
    if way != "forward" or checkpoints_have_tangents():
        return nullcontext()
    return pytest.warns(UserWarning, match="falls back to reverse mode")


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_computed_again_in_the_backward_pass_has_the_weights_of_that_pass(
    way: str, ahead: str
) -> None:
    with falling_back(way):
        check(network(checkpointed), way, ahead, reference=network(block))


class CheckpointedNorm(nn.Module):
    """BatchNorm and dropout within a checkpoint."""

    def __init__(self, use: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.block = nn.Sequential(
            nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh()
        )
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return checkpoint(self.block, h, use_reentrant=False) if self.use else self.block(h)


MOVING: dict[str, Callable[[], nn.Module]] = {
    "shared buffer": SharedBuffer,
    "batch norm by function": FunctionalNorm,
    "batch norm by its own forward": own_forward,
    "annealed": Annealed,
    "moving norm": MovingNorm,
    "own batch norm": lambda: nn.Sequential(nn.Linear(6, 8), OwnBatchNorm(8), nn.Tanh()),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()
    ),
}


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", MOVING.values(), ids=MOVING)
def test_buffers_are_where_they_were_in_the_training_pass(
    build: Callable[[], nn.Module], way: str, ahead: str
) -> None:
    torch.manual_seed(0)
    check(network(trunk=build()), way, ahead)


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", MOVING.values(), ids=MOVING)
def test_a_meta_step_moves_no_buffer(build: Callable[[], nn.Module], way: str, ahead: str) -> None:
    torch.manual_seed(0)
    net, gen = network(trunk=build()), generator()
    optimizers = [torch.optim.SGD(m.parameters(), lr=RATE) for m in (net, gen)]
    learner = maxl.MetaAuxiliaryLearner(net, gen, *optimizers, way=WAYS[way], **AHEAD[ahead])
    learner.train_step(*batch())
    before = [b.clone() for b in net.buffers()]
    learner.meta_step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(
    "lookahead", [maxl.Taken(), maxl.Next(), maxl.Virtual(), maxl.Virtual(recompute=True)]
)
@pytest.mark.parametrize("way", WAYS)
def test_checkpointed_activations_change_nothing(way: str, lookahead: Any, dropout: float) -> None:
    results = []
    for use in (False, True):
        torch.manual_seed(0)
        net, gen = network(trunk=CheckpointedNorm(use, dropout)), generator()
        optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (net, gen)]
        learner = maxl.MetaAuxiliaryLearner(net, gen, *optimizers, way=WAYS[way], lookahead=lookahead)
        with falling_back(way) if use else nullcontext():
            for seed in range(3):
                torch.manual_seed(seed)
                learner.step(*batch(seed))
        # A checkpoint's BatchNorm sees each training pass twice, with or without maxl.
        results.append(flatten([*net.parameters(), *gen.parameters()]))
    assert relative_error(results[1], results[0]) < 1e-9


def test_reentrant_checkpoints_are_refused_with_the_other_kind_named() -> None:
    net = network(lambda m, h: checkpoint(lambda z: torch.tanh(m.last(z)), h, use_reentrant=True))
    for way in WAYS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forward mode says that it falls back
            with pytest.raises(ValueError, match="use_reentrant=False"):
                found(net, generator(), *batch(), way=WAYS[way])


# What cannot be followed is refused


def test_a_network_that_moves_frozen_weights_in_its_own_pass_is_refused() -> None:
    class Momentum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online, self.slow = nn.Linear(6, 8), nn.Linear(6, 8).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.slow.weight.lerp_(self.online.weight, 0.1)
            return torch.tanh(self.online(x)) + self.slow(x)

    for ahead in AHEAD.values():
        with pytest.raises(
            ValueError, match=r"moves the weight trunk\.slow\.weight: register it with register_buffer"
        ):
            found(network(trunk=Momentum()), generator(), *batch(), **ahead)


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("between", [counted, own_generator])
def test_a_network_that_does_not_repeat_its_pass_is_refused(
    between: Callable[[nn.Module, Tensor], Tensor], way: str, ahead: str
) -> None:
    with pytest.raises(ValueError, match="repeats the training pass, which needs to give the same outputs"):
        found(network(between), generator(), *batch(), way=WAYS[way], **AHEAD[ahead])


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_the_gradient_of_a_weight_is_refused(kind: str) -> None:
    net, gen = network(lambda m, h: h), generator()
    getattr(net.trunk.first.weight, kind)(lambda g: None)
    optimizers = [torch.optim.SGD(m.parameters(), lr=RATE) for m in (net, gen)]
    with pytest.raises(ValueError, match=r"trunk\.first\.weight has a gradient hook"):
        maxl.MetaAuxiliaryLearner(net, gen, *optimizers).step(*batch())


def branching(module: nn.Module, h: Tensor) -> Tensor:
    return torch.cond(h.sum() > 0, lambda z: torch.tanh(z) ** 2, lambda z: z.sin(), (h,))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("way", WAYS)
def test_control_flow_whose_second_derivative_is_lost_is_refused(way: str) -> None:
    with pytest.raises(ValueError, match="agree with ordinary gradients"):
        found(network(branching), generator(), *batch(), way=WAYS[way])


def test_differences_that_are_wrong_where_nothing_else_works_are_refused() -> None:
    class Once(torch.autograd.Function):
        """A wrong derivative on purpose, and no second one."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return -3 * gradient

    net = network(lambda m, h: Once.apply(h) * h)
    with pytest.raises(ValueError, match=r"reverse mode cannot follow this network \(no double backward"):
        found(net, generator(), *batch(), way=maxl.FiniteDifference())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_sample_without_a_class_trains_nothing(compiled: bool) -> None:
    """Where targets are not read, on an accelerator and in compiled passes, its loss is nan instead."""
    hierarchy = maxl.Hierarchy([2, 3, 1])
    rows = torch.compile(maxl.hierarchy.rows_of, backend="eager") if compiled else maxl.hierarchy.rows_of
    rows_ = rows(hierarchy.mask, torch.tensor([0, -1, 2]))
    assert rows_.sum(1).tolist() == [2, 0, 1]
    assert maxl.masked_softmax(torch.zeros(3, 6), rows_)[1].isnan().all()


def test_finite_differences_in_half_precision_are_refused() -> None:
    with pytest.raises(ValueError, match="finite differences drown in the rounding of bfloat16"):
        found(network(detached), generator(), *batch(), way=maxl.FiniteDifference(), autocast=torch.bfloat16)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("region", ["the network's own", "the caller's", "weights"])
def test_half_precision_that_the_learner_was_not_told_of_is_no_false_alarm(way: str, region: str) -> None:
    def between(module: nn.Module, h: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if region == "the network's own" else nullcontext():
            return torch.tanh(module.spare(torch.cat([h, h], 1)[:, :6])).float()

    net, gen, (x, y) = network(between).float(), generator().float(), batch()
    if region == "weights":
        net.trunk.last.bfloat16()
        net.trunk.between = lambda m, h: between(m, h).bfloat16()
        net.primary_head.bfloat16()
        net.auxiliary_head.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=region == "the caller's"):
        found(net, gen, x.float(), y, way=WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_losses_that_work_in_place_on_the_outputs_change_nothing(way: str) -> None:
    def in_place(logits: Tensor, y: Tensor) -> Tensor:
        return maxl.focal_loss(logits.mul_(2.0), y)

    def plain(logits: Tensor, y: Tensor) -> Tensor:
        return maxl.focal_loss(logits * 2.0, y)

    net, gen, (x, y) = network(lambda m, h: h), generator(), batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forward mode cannot, and says that it falls back
        values = [
            found(net, gen, x, y, way=WAYS[way], primary_loss=loss, auxiliary_loss=maxl.focal_loss)
            for loss in (in_place, plain)
        ]
    assert relative_error(*values) < 1e-10
