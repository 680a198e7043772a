"""Networks, weights and generators of less usual kinds: what they give, hold and move."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import maxl
from _networks import batch, flatten, pair, relative_error
from maxl.hypergradients import UpdateRule

pytestmark = pytest.mark.usefixtures("float64")


# What networks give


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda out: {"primary": out[0], "auxiliary": out[1]}, "a tensor or a tuple of them; got dict"),
        (lambda out: (out[0], None), "of floating point; got NoneType"),
        (lambda out: (out[0], out[1].long()), r"of floating point; got torch\.int64"),
    ],
)
def test_outputs_of_another_kind_are_named(wrap: Callable[[Any], Any], words: str) -> None:
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Any:
            return wrap(self.module(x))

    network, generator = pair()
    network = Wrapped(network)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(ValueError, match=words):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers).step(*batch())


# Weights of other kinds


class Complex(nn.Module):
    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(0.5 * torch.randn(4, 4, dtype=torch.complex128))
        self.last = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(torch.fft.irfft(torch.fft.rfft(x) @ self.mix, n=6)))


class Sparse(nn.Module):
    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(7, 4, sparse=True), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = (x.abs() * 3).long().clamp(max=6)
        return torch.tanh(self.last(self.embedding(rows).mean(1)))


@pytest.mark.filterwarnings("ignore:.*falls back to reverse mode")
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("way", [maxl.Forward(), maxl.Reverse()])
@pytest.mark.parametrize("kind", [Complex, Sparse])
def test_complex_weights_and_sparse_gradients_are_followed(
    kind: type[nn.Module], way: Any, clipped: bool
) -> None:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(kind(), hierarchy)
    generator = maxl.LabelGenerator(nn.Linear(6, 8), hierarchy, feature_dim=8)
    x, y = torch.randn(9, 6), torch.randint(0, 3, (9,))
    twins = copy.deepcopy((network, generator))
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.3 + 0.7 * (m is generator)) for m in (network, generator)
    ]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, way=way, entropy_weight=0.0)
    before = flatten(list(generator.parameters()))
    learner.backward(x, y)
    factor = 0.5 if clipped else 1.0
    for p in network.parameters():
        p.grad = None if p.grad is None else factor * p.grad
    learner.optimizer.step()
    learner.meta_step()
    expected = by_double_backward(*twins, x, y, 0.3 * factor)
    assert relative_error(before - flatten(list(generator.parameters())), expected) < 1e-10


@pytest.mark.filterwarnings("ignore:.*falls back to reverse mode")
@pytest.mark.parametrize("lookahead", [maxl.Taken, maxl.Next, maxl.Virtual])
@pytest.mark.parametrize("kind", [Complex, Sparse])
def test_they_are_trained_as_without_a_generator(kind: type[nn.Module], lookahead: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(kind(), hierarchy)
    generator = maxl.LabelGenerator(nn.Linear(6, 8), hierarchy, feature_dim=8)
    alone = copy.deepcopy(network)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, lookahead=lookahead())
    plain = maxl.MultiTaskLearner(alone, torch.optim.SGD(alone.parameters(), lr=0.3))
    for _ in range(3):
        x, y = torch.randn(9, 6), torch.randint(0, 3, (9,))
        plain.train_step(x, y, learner.step(x, y).labels)
    assert relative_error(flatten(list(network.parameters())), flatten(list(alone.parameters()))) < 1e-6


def by_double_backward(network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor, rate: float) -> Tensor:
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = False
    weights = dict(network.named_parameters())
    primary, auxiliary = functional_call(network, weights, (x,))
    loss = maxl.focal_loss(primary, y) + maxl.focal_loss(auxiliary, generator(x, y))
    grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    ahead = {n: p - rate * g for (n, p), g in zip(weights.items(), grads, strict=True)}
    outer = maxl.focal_loss(functional_call(network, ahead, (x,))[0], y)
    return flatten(list(torch.autograd.grad(outer, list(generator.parameters()))))


def test_adam_on_complex_weights_is_refused() -> None:
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network, generator = (
        maxl.MultiTaskNetwork(Complex(), hierarchy),
        maxl.LabelGenerator(Complex(), hierarchy),
    )
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(ValueError, match=r"complex weights: train with torch\.optim\.SGD"):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers)


def test_adam_without_epsilon_has_a_finite_derivative() -> None:
    weights = [torch.zeros(3)]
    rule = UpdateRule.of(torch.optim.Adam(weights, lr=0.01, eps=0.0), weights)
    (factor,) = rule.factor(weights, [torch.tensor([0.0, 1.0, -2.0])])
    assert torch.equal(factor, torch.zeros(3))  # its first step is a sign, which no gradient moves


# Generators whose passes move something


class Centred(nn.Module):
    """Features less their moving average, which training passes move and use."""

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(x))
        if self.training:
            self.mean.mul_(0.5).add_(0.5 * h.detach().mean(0))
        return h - self.mean.clone()


def moving(lookahead: Any, kind: Any = maxl.MetaAuxiliaryLearner, **options: Any) -> Any:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(nn.Linear(6, 8), hierarchy, feature_dim=8)
    generator = maxl.LabelGenerator(Centred(), hierarchy)
    chosen = {} if lookahead is None else {"lookahead": lookahead}
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (network, generator)]
    return kind(network, generator, *optimizers, **chosen, **options)


def trained(learner: Any, copied: bool = False) -> Tensor:
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        learner.step(torch.randn(9, 6, generator=random), torch.randint(0, 3, (9,), generator=random))
        learner = copy.deepcopy(learner) if copied else learner
    return flatten([*learner.network.parameters(), *learner.generator.parameters()])


def test_a_generators_pass_is_repeated_from_where_its_buffers_were() -> None:
    taken, following = trained(moving(maxl.Taken())), trained(moving(maxl.Next()))
    assert relative_error(trained(moving(maxl.Taken(recompute=True))), taken) < 1e-12
    assert relative_error(trained(moving(None, maxl.AccumulatingLearner, microbatch=9)), taken) < 1e-12
    assert relative_error(trained(moving(maxl.Next(recompute=True))), following) < 1e-12
    assert relative_error(trained(moving(maxl.Next()), copied=True), following) < 1e-12


def test_a_generator_that_does_not_repeat_its_pass_is_refused() -> None:
    learner = moving(maxl.Taken(recompute=True))
    layer = learner.generator.trunk.layer
    calls = iter(range(100))
    layer.register_forward_hook(lambda _, __, out: out * (1 + 0.1 * next(calls)))
    with pytest.raises(ValueError, match="needs to give the same signals"):
        trained(learner)
