"""The double gradient against central differences of the lookahead loss, and the methods against each other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

import maxl
from _networks import PSI, batch, flatten, pair, relative_error, same, snapshot
from maxl.hypergradients import WAYS, DualKernels, Recording, logit_gradient, untracked

RATE = 0.1


def lookahead_loss(
    network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor, outer: tuple[Tensor, Tensor]
) -> Tensor:
    """L_pri(θ₁ − α∇(L_pri + L_aux)) written out from the paper, on copies."""
    network, generator = copy.deepcopy(network), copy.deepcopy(generator)
    with untracked(network), untracked(generator):
        logits = network(x)
        loss = maxl.focal_loss(logits.primary, y) + maxl.focal_loss(
            logits.auxiliary, generator(x, y).detach()
        )
        grads = torch.autograd.grad(loss, list(network.parameters()))
        ahead = {n: p - RATE * g for (n, p), g in zip(network.named_parameters(), grads, strict=True)}
        return maxl.focal_loss(functional_call(network, ahead, (outer[0],)).primary, outer[1]).detach()


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("other_batch", [False, True])
@pytest.mark.usefixtures("float64")
def test_every_method_agrees_with_central_differences(method: str, other_batch: bool) -> None:
    network, generator = pair()
    x, y = batch()
    outer = batch(seed=7) if other_batch else (x, y)
    grads = maxl.hypergradient(network, generator, x, y, RATE, method, outer_batch=outer)
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        direction = [torch.randn(p.shape, generator=random) for p in generator.parameters()]
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(generator)
            with torch.no_grad():
                for p, d in zip(moved.parameters(), direction, strict=True):
                    p += sign * 1e-6 * d
            values.append(lookahead_loss(network, moved, x, y, outer))
        numeric = float((values[0] - values[1]) / 2e-6)
        exact = float(sum((g * d).sum() for g, d in zip(grads, direction, strict=True)))
        tolerance = 1e-5 if method != "finite-difference" else 1e-4
        assert exact == pytest.approx(numeric, rel=tolerance, abs=1e-9)


@pytest.mark.usefixtures("float64")
def test_forward_and_reverse_agree_to_rounding() -> None:
    network, generator = pair()
    x, y = batch()
    forward = flatten(maxl.hypergradient(network, generator, x, y, RATE))
    reverse = flatten(maxl.hypergradient(network, generator, x, y, RATE, "reverse"))
    assert reverse.norm() > 0
    assert relative_error(forward, reverse) < 1e-8


OPTIMIZERS: list[tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    (torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-2}),
    (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
@pytest.mark.usefixtures("float64")
def test_forward_follows_the_optimizer_as_reverse_mode_through_its_step_does(
    kind: Callable[..., torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    network, generator = pair()
    optimizer = kind(network.parameters(), **options)
    learner = maxl.MultiTaskLearner(network, optimizer)
    for seed in range(3):
        learner.train_step(*batch(seed=seed))
    x, y = batch(seed=9)
    forward = flatten(maxl.hypergradient(network, generator, x, y, optimizer=optimizer))
    reverse = flatten(maxl.hypergradient(network, generator, x, y, optimizer=optimizer, method="reverse"))
    assert relative_error(forward, reverse) < 1e-8


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("training", [True, False])
def test_the_pure_function_changes_nothing(method: str, training: bool) -> None:
    network, generator = pair(dropout=0.5)
    network.train(training)
    generator.train(training)
    x, y = batch()
    before = snapshot(network), snapshot(generator)
    maxl.hypergradient(network, generator, x, y, RATE, method)
    assert same(before[0], snapshot(network))
    assert same(before[1], snapshot(generator))
    assert all(p.grad is None for p in [*network.parameters(), *generator.parameters()])
    assert all(m.training is training for m in [*network.modules(), *generator.modules()])
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.usefixtures("float64")
def test_dropout_draws_the_same_mask_in_the_passes_that_must_agree() -> None:
    network, generator = pair(dropout=0.5)
    x, y = batch()
    grads = []
    for method in WAYS:
        torch.manual_seed(5)
        grads.append(flatten(maxl.hypergradient(network, generator, x, y, RATE, method)))
    assert relative_error(grads[0], grads[1]) < 1e-8
    assert relative_error(grads[2], grads[1]) < 1e-4


@pytest.mark.usefixtures("float64")
def test_a_zero_learning_rate_leaves_the_regulariser_alone() -> None:
    network, generator = pair()
    x, y = batch()
    for method in WAYS:
        grads = maxl.hypergradient(network, generator, x, y, 0.0, method)
        assert flatten(grads).abs().max() == 0
    regularised = maxl.hypergradient(network, generator, x, y, 0.0, entropy_weight=0.2)
    loss = 0.2 * maxl.negative_entropy(generator(x, y))
    expected = torch.autograd.grad(loss, list(generator.parameters()))
    torch.testing.assert_close(flatten(regularised), flatten(expected))


@pytest.mark.usefixtures("float64")
def test_one_linear_layer_has_a_closed_form() -> None:
    """For z = Wx with cross-entropy on one sample, the label gradient is −α⟨v, ∂(p − t)xᵀ/∂t⟩ = α v x."""
    hierarchy = maxl.Hierarchy.flat(3)

    class Shared(nn.Module):  # both tasks read the same weights
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.linear(x), self.linear(x)

    class Table(nn.Module):  # its parameter is the label itself
        def __init__(self) -> None:
            super().__init__()
            self.labels = nn.Parameter(torch.tensor([[0.2, 0.5, 0.3]]))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.labels * 1.0

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return maxl.focal_loss(logits, target, gamma=0.0)

    network, generator, x, y = Shared(), Table(), torch.randn(1, 4), torch.tensor([1])
    weight = network.linear.weight.detach()
    p = (weight @ x[0]).softmax(0)
    one_hot = torch.eye(3)[1]
    gradient = torch.outer((p - one_hot) + (p - generator.labels.detach()[0]), x[0])
    ahead = weight - RATE * gradient
    v = torch.outer((ahead @ x[0]).softmax(0) - one_hot, x[0])
    # ∇_W L_aux = (p Σt − t) xᵀ, so ∂/∂t_k of ⟨u, ·⟩ is ⟨u, p xᵀ⟩ − (u x)_k, with u = αv
    expected = -RATE * ((v @ x[0]) @ p - v @ x[0])
    (actual,) = maxl.hypergradient(network, generator, x, y, RATE, primary_loss=loss, auxiliary_loss=loss)
    torch.testing.assert_close(actual[0], expected)
    assert hierarchy.num_auxiliary == 3


@pytest.mark.usefixtures("float64")
def test_frozen_shared_and_unused_parameters() -> None:
    network, generator = pair()
    network.trunk[0].weight.requires_grad_(False)
    network.auxiliary_head[0].weight = network.primary_head[0].weight  # shared between the heads
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    generator.trunk[0].weight.requires_grad_(False)
    x, y = batch()
    forward = maxl.hypergradient(network, generator, x, y, RATE)
    reverse = maxl.hypergradient(network, generator, x, y, RATE, "reverse")
    assert len(forward) == sum(p.requires_grad for p in generator.parameters())
    assert relative_error(flatten(forward), flatten(reverse)) < 1e-8


@pytest.mark.usefixtures("float64")
def test_attention_uses_kernels_that_can_be_differentiated() -> None:
    torch.manual_seed(0)

    class Attention(nn.Module):
        feature_dim = 12

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(12)
            self.qkv = nn.Linear(12, 36)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(x)).reshape(len(x), -1, 3, 2, 6).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return mixed.transpose(1, 2).flatten(2).mean(1)

    hierarchy = maxl.Hierarchy(PSI)
    network = maxl.MultiTaskNetwork(Attention(), hierarchy)
    generator = maxl.LabelGenerator(Attention(), hierarchy)
    x, y = torch.randn(8, 5, 12), torch.randint(0, 3, (8,))
    forward = flatten(maxl.hypergradient(network, generator, x, y, RATE))
    reverse = flatten(maxl.hypergradient(network, generator, x, y, RATE, "reverse"))
    assert relative_error(forward, reverse) < 1e-8


class _NoForwardFormula(torch.autograd.Function):
    """Doubles its input; differentiable twice in reverse, not in forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * grad


class _Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _NoForwardFormula.apply(x)
        return result


@pytest.mark.usefixtures("float64")
def test_an_operator_without_forward_formula_falls_back_to_reverse_with_one_warning() -> None:
    network, generator = pair()
    network.trunk.append(_Doubling())
    x, y = batch()
    reverse = flatten(maxl.hypergradient(network, generator, x, y, RATE, "reverse"))
    with pytest.warns(
        UserWarning, match="a custom autograd.Function without jvp has no forward-mode formula"
    ):
        forward = flatten(maxl.hypergradient(network, generator, x, y, RATE))
    torch.testing.assert_close(forward, reverse)


def test_vgg16_in_float32() -> None:
    from maxl.experiments.runs import trunks

    hierarchy = maxl.Hierarchy.uniform(20, 5)
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(trunks.build("vgg16", (3, 32, 32)), hierarchy)
    generator = maxl.LabelGenerator(trunks.build("vgg16", (3, 32, 32)), hierarchy)
    x, y = torch.randn(16, 3, 32, 32), torch.randint(0, 20, (16,))
    forward = flatten(maxl.hypergradient(network, generator, x, y))
    reverse = flatten(maxl.hypergradient(network, generator, x, y, method="reverse"))
    assert relative_error(forward, reverse) < 1e-4


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="forward, reverse, finite-difference; got 'magic'"):
        maxl.hypergradient(*pair(), *batch(), method="magic")


class _Residual(nn.Module):
    """A convolution whose output is changed in place: by ReLU, and by a sum."""

    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        a = nn.functional.relu(self.first(x), inplace=True)
        b = self.second(a)
        b += a
        b.mul_(0.5)
        return self.norm(b).amax((2, 3))


@pytest.mark.usefixtures("float64")
def test_outputs_changed_in_place_are_not_reused() -> None:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy(PSI)
    network = maxl.MultiTaskNetwork(_Residual(), hierarchy)
    generator = maxl.LabelGenerator(_Residual(), hierarchy)
    x, y = batch()
    forward = flatten(maxl.hypergradient(network, generator, x, y, RATE))
    reverse = flatten(maxl.hypergradient(network, generator, x, y, RATE, "reverse"))
    assert relative_error(forward, reverse) < 1e-8


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 4, 3), nn.Linear(8, 4), nn.ConvTranspose2d(3, 4, 2, stride=2)]
)
@pytest.mark.parametrize("trained", ["both", "weight", "bias", "neither"])
@pytest.mark.usefixtures("float64")
def test_reused_products_have_the_tangent_of_torchs_own_formula(layer: nn.Module, trained: str) -> None:
    layer = copy.deepcopy(layer).double()
    network = nn.Sequential(layer, nn.BatchNorm2d(3 if isinstance(layer, nn.Linear) else 4), nn.ReLU())
    x = torch.randn(5, 3, 8, 8)
    kept = {n for n, _ in network.named_parameters() if trained == "both" or trained in n}
    kept |= {"1.weight"}
    tangents = {n: torch.randn_like(p) for n, p in network.named_parameters() if n in kept}
    recording = Recording()
    with torch.no_grad(), untracked(network), recording:
        network(x)

    def tangent(mode: AbstractContextManager[Any]) -> Tensor:
        with untracked(network), forward_ad.dual_level(), mode:
            duals = {
                n: forward_ad.make_dual(p.detach(), tangents[n]) if n in tangents else p.detach()
                for n, p in network.named_parameters()
            }
            return forward_ad.unpack_dual(functional_call(network, duals, (x,))).tangent

    torch.testing.assert_close(tangent(DualKernels(recording)), tangent(nullcontext()))


@pytest.mark.usefixtures("float64")
def test_the_gradient_for_the_logits_of_labels() -> None:
    z = torch.randn(4, 5).requires_grad_()
    slope = torch.randn(4, 5)
    t = z.softmax(1)
    (expected,) = torch.autograd.grad((t * slope).sum(), z)
    assert relative_error(logit_gradient(t.detach(), slope), expected) < 1e-14
    assert (
        logit_gradient(t.detach(), torch.ones(4, 5)).abs().max() < 1e-15
    )  # the rows sum to one whatever happens


def test_threads_that_train_at_once_take_turns_at_dual_numbers() -> None:
    """PyTorch has one level of them in a process; a fall-back to reverse mode would warn."""
    together = threading.Barrier(3)
    pairs, batches = [pair() for _ in range(3)], [batch(seed=seed) for seed in range(10)]

    def train(number: int) -> Tensor:
        network, generator = pairs[number]
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (network, generator)]
        learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
        for x, y in batches:
            together.wait(60)
            learner.step(x, y)
        return flatten([*network.parameters(), *generator.parameters()])

    with ThreadPoolExecutor(3) as pool:
        trained = list(pool.map(train, range(3)))
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[0], trained[2])
