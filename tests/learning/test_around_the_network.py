"""What reaches around the network, its losses or its optimizers: right, or refused in one sentence."""

from __future__ import annotations

import copy
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import maxl
from _networks import batch, flatten, pair, relative_error
from maxl.learning import cosine_gate
from maxl.supervision import AuxiliaryLabels, Losses, Supervision

LOOKAHEADS = [maxl.Taken(), maxl.Taken(recompute=True), maxl.Next(), maxl.Virtual()]


def make(network: nn.Module, generator: nn.Module, **options: Any) -> maxl.MetaAuxiliaryLearner:
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (network, generator)]
    return maxl.MetaAuxiliaryLearner(network, generator, *optimizers, **options)


def train(learner: maxl.MetaAuxiliaryLearner, steps: int = 2) -> None:
    for seed in range(steps):
        learner.step(*batch(seed=seed))


class Around(nn.Module):
    """Uses a weight of a layer by a list that it keeps, not by the layer."""

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 8)
        self.kept = [self.last.weight]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(torch.tanh(self.first(x)), self.kept[0], self.last.bias))


def small(trunk: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy([2, 3, 1])
    network = maxl.MultiTaskNetwork(trunk or nn.Linear(6, 8), hierarchy, feature_dim=8)
    return network, maxl.LabelGenerator(nn.Linear(6, 8), hierarchy, feature_dim=8)


def rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(9, 6, generator=draw), torch.randint(0, 3, (9,), generator=draw)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("way", [maxl.Forward(), maxl.Reverse()])
def test_weights_that_a_pass_takes_from_a_list_are_refused(lookahead: Any, way: Any) -> None:
    learner = make(*small(Around()), lookahead=lookahead, way=way)
    if lookahead.waits:
        learner.step(*rows(1))
    # The next batch judges where the weights are; it is the repeated training pass that is another one then.
    said = r"trunk\.last\.weight from elsewhere" + "|give the same outputs" * lookahead.waits
    with pytest.raises(ValueError, match=said):
        learner.step(*rows())


@pytest.mark.parametrize("method", ["forward", "reverse", "finite-difference"])
@pytest.mark.parametrize("check", ["first", "never"])
def test_the_pure_function_refuses_them_too(method: str, check: Any) -> None:
    with pytest.raises(ValueError, match=r"trunk\.last\.weight from elsewhere"):
        maxl.hypergradient(*small(Around()), *rows(), method=method, check=check)


@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Virtual()])
def test_a_penalty_on_weights_within_the_primary_loss_is_refused(lookahead: Any) -> None:
    network, generator = small()
    kept = list(network.parameters())

    def penalised(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) + 0.1 * sum(p.square().sum() for p in kept)

    learner = make(
        network, generator, primary_loss=penalised, auxiliary_loss=maxl.focal_loss, lookahead=lookahead
    )
    with pytest.raises(ValueError, match="a penalty within a loss"):
        learner.step(*rows())


# Trained tensors that are not the network's


@pytest.mark.parametrize("which", ["primary", "auxiliary"])
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_a_temperature_that_is_trained_outside_the_network_is_refused(which: str, lookahead: Any) -> None:
    network, generator = small()
    temperature = torch.zeros((), requires_grad=True)

    def scaled(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits * temperature.exp(), target)

    losses = {"primary_loss": F.cross_entropy, "auxiliary_loss": F.cross_entropy, f"{which}_loss": scaled}
    optimizer = torch.optim.SGD([*network.parameters(), temperature], lr=0.1)
    meta = torch.optim.SGD(generator.parameters(), lr=0.1)
    learner = maxl.MetaAuxiliaryLearner(network, generator, optimizer, meta, lookahead=lookahead, **losses)
    with pytest.raises(ValueError, match="hold all that its losses train"):
        learner.step(*rows())
    temperature.requires_grad_(False)
    learner.step(*rows())  # a constant


def test_a_network_before_the_network_is_refused_and_inputs_with_gradients_are_not() -> None:
    learner, encoder = make(*small()), nn.Linear(6, 6)
    x, y = rows()
    with pytest.raises(ValueError, match="hold all that its losses train"):
        learner.step(encoder(x), y)
    learner.step(x.requires_grad_(), y)


# A gate


class Both(Supervision):
    """The primary loss takes the labels, too."""

    signals = ("labels",)
    trains_on_outer_loss = False

    def losses(self, task: Any, outputs: Any, y: Tensor, signals: Any) -> Losses:
        weight = 1 + signals[0].square().sum(1)
        primary = (weight * F.cross_entropy(outputs[0], y, reduction="none")).mean()
        return Losses(primary, F.cross_entropy(outputs[1], signals[0]))


def test_a_gate_is_refused_where_the_primary_loss_takes_the_signals() -> None:
    gate = maxl.Gated(cosine_gate)
    with pytest.raises(ValueError, match="whose primary loss takes them too"):
        make(*small(), supervision=Both(), mix=gate).step(*rows())
    make(*small(), supervision=Both()).step(*rows())
    make(*small(), supervision=AuxiliaryLabels(), mix=gate).step(*rows())


def test_a_gate_is_refused_on_a_further_part_of_a_batch() -> None:
    learner = make(*small(), mix=maxl.Gated(cosine_gate))
    learner.backward(*rows())
    with pytest.raises(ValueError, match="whole batches; got a further part"):
        learner.backward(*rows(1))
    learner.optimizer.zero_grad()  # the first was left out
    learner.backward(*rows(1))
    learner.optimizer.step()
    assert learner.meta_step().outer_loss is not None


# Weights that come and go


def test_weights_of_the_generator_that_are_unfrozen_later_have_to_be_in_the_meta_optimizer() -> None:
    network, generator = small()
    generator.trunk.requires_grad_(False)
    optimizers = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.3) for m in (network, generator)
    ]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    learner.step(*rows())
    generator.trunk.requires_grad_(True)
    with pytest.raises(ValueError, match="hold every trainable weight of the generator"):
        learner.step(*rows())
    learner.meta_optimizer.add_param_group({"params": list(generator.trunk.parameters())})
    before = generator.trunk.weight.detach().clone()
    learner.step(*rows())
    assert not torch.equal(before, generator.trunk.weight)


def test_weights_that_both_have_are_refused_once_they_are_trained() -> None:
    network, generator = small()
    generator.trunk = network.trunk
    network.trunk.requires_grad_(False)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    learner.step(*rows())
    network.trunk.requires_grad_(True)
    before = copy.deepcopy(generator.state_dict())
    learner.train_step(*rows())
    with pytest.raises(ValueError, match="trainable weights of their own"):
        learner.meta_step()
    heads = [name for name in before if not name.startswith("trunk")]
    assert heads
    assert all(torch.equal(before[name], generator.state_dict()[name]) for name in heads)


def test_an_optimizer_that_asks_for_several_gradients_is_refused_for_the_generator() -> None:
    network, generator = small()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    with pytest.raises(ValueError, match="one gradient a step; got LBFGS"):
        maxl.MetaAuxiliaryLearner(network, generator, optimizer, torch.optim.LBFGS(generator.parameters()))


# The mode and the caller's context


def test_a_virtual_step_is_refused_in_another_mode_than_the_training_step() -> None:
    learner = make(*small(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5))), lookahead=maxl.Virtual())
    learner.train_step(*rows())
    learner.network.eval()
    with pytest.raises(ValueError, match="in evaluation mode after one in the other"):
        learner.meta_step()
    learner.network.train()
    learner.train_step(*rows())
    assert learner.meta_step().outer_loss is not None


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Virtual()])
@pytest.mark.filterwarnings("error")
def test_a_meta_step_where_gradients_are_off_is_the_same(lookahead: Any) -> None:
    generators = []
    for on in (True, False):
        network, generator = pair()
        learner = make(network, generator, lookahead=lookahead)
        for seed in range(2):
            learner.train_step(*batch(seed=seed))
            with torch.set_grad_enabled(on):
                learner.meta_step()
        generators.append(flatten(list(generator.parameters())))
    torch.testing.assert_close(generators[0], generators[1], rtol=0, atol=0)


def test_the_whole_batch_may_be_named_where_it_was_trained_on_in_parts() -> None:
    results = []
    for name in (False, True):
        network, generator = small()
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (network, generator)]
        learner = maxl.AccumulatingLearner(network, generator, *optimizers, microbatch=4)
        x, y = rows()
        learner.train_step(x, y)
        learner.meta_step(*((x, y) if name else ()))
        results.append(flatten(list(generator.parameters())))
        learner.train_step(x, y)
        with pytest.raises(ValueError, match="got others"):
            learner.meta_step(x.clone(), y)
    assert torch.equal(*results)


# Embeddings that renormalise themselves


class Looked(nn.Module):
    feature_dim = 8

    def __init__(self, *, frozen: bool = False) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(7, 4, max_norm=0.7), nn.Linear(4, 8)
        self.embedding.weight.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(self.embedding(x).mean(1)))


def words(seed: int, largest: int = 7) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, largest, (5, 3), generator=draw), torch.randint(0, 3, (5,), generator=draw)


def reading(frozen: bool = False) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    return (
        maxl.MultiTaskNetwork(Looked(frozen=frozen), hierarchy),
        maxl.LabelGenerator(Looked(), hierarchy),
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:FiniteDifference gives")
@pytest.mark.parametrize("method", ["forward", "reverse", "finite-difference"])
def test_a_hypergradient_moves_no_embedding_that_renormalises_itself(method: str) -> None:
    network, generator = reading()
    before = copy.deepcopy((network.state_dict(), generator.state_dict()))
    found = maxl.hypergradient(network, generator, *words(0), learning_rate=0.3, method=method)
    for state, module in zip(before, (network, generator), strict=True):
        assert all(torch.equal(state[name], p) for name, p in module.state_dict().items())

    # The truth: rows scaled before the pass, by a factor that no gradient sees, in each of the three passes.
    x, y = words(0)

    def scaled(table: Tensor) -> Tensor:
        norms = table.detach().norm(dim=1, keepdim=True)
        seen = torch.zeros(7, 1, dtype=torch.bool).index_fill(0, x.unique(), True)
        factor = torch.where(seen & (norms > 0.7), 0.7 / (norms + 1e-7), 1.0)
        return table + (table * factor - table).detach()

    def outputs(module: nn.Module, weights: dict[str, Tensor], *inputs: Tensor) -> Any:
        module = copy.deepcopy(module)
        module.trunk.embedding.max_norm = None
        table = "trunk.embedding.weight"
        return functional_call(module, {**weights, table: scaled(weights[table])}, inputs)

    weights, theta2 = dict(network.named_parameters()), dict(generator.named_parameters())
    primary, auxiliary = outputs(network, weights, x)
    loss = maxl.focal_loss(primary, y) + maxl.focal_loss(auxiliary, outputs(generator, theta2, x, y))
    grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    ahead = {n: p - 0.3 * g for (n, p), g in zip(weights.items(), grads, strict=True)}
    outer = maxl.focal_loss(outputs(network, ahead, x)[0], y)
    truth = torch.autograd.grad(outer, list(theta2.values()))
    assert relative_error(flatten(found), flatten(truth)) < 1e-7


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_a_meta_step_judged_by_other_rows_does_not_scale_those(lookahead: Any, frozen: bool) -> None:
    network, generator = reading(frozen)
    learner = make(network, generator, lookahead=lookahead)
    table = network.trunk.embedding.weight
    x, y = words(0, largest=3)
    learner.backward(x, y, outer_batch=None if lookahead.waits else words(1))
    learner.optimizer.step()
    stepped = table.detach().clone()
    learner.meta_step()
    assert torch.equal(stepped, table)
    assert bool((table[3:].norm(dim=1) > 0.7).any())  # what other rows would have been cut to


# Random numbers


@pytest.mark.parametrize("method", ["forward", "reverse", "finite-difference"])
def test_a_hypergradient_draws_no_random_numbers_of_the_callers(method: str) -> None:
    network, generator = small(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)))

    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    maxl.hypergradient(network, generator, *rows(), method=method)
    assert states() == before


# Gradients between backward and the step


def filled(dtype: torch.dtype, size: int) -> tuple[maxl.MetaAuxiliaryLearner, nn.Parameter]:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(
        nn.Sequential(nn.Linear(6, size), nn.Tanh(), nn.Linear(size, 8)), hierarchy, feature_dim=8
    ).to(dtype)
    generator = maxl.LabelGenerator(nn.Linear(6, 8), hierarchy, feature_dim=8).to(dtype)
    learner = make(network, generator, check="never")
    x, y = rows()
    learner.backward(x.to(dtype), y)
    return learner, network.trunk[0].weight


@pytest.mark.parametrize("changed", [30, 2000])
def test_a_few_signs_among_a_million_are_seen(changed: int) -> None:
    learner, weight = filled(torch.float32, 170_000)
    assert weight.grad is not None
    assert weight.grad.numel() > 10**6
    flipped = weight.grad.flatten()
    at = flipped.abs().topk(changed * 20).indices[::20]
    flipped[at] *= -1
    weight.grad = flipped.view_as(weight)
    with pytest.raises(ValueError, match="may be multiplied by a factor"):
        learner.optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [4, 300, 15_000])
def test_gradients_of_any_precision_may_be_multiplied_and_not_changed(dtype: torch.dtype, size: int) -> None:
    for factor in (0.3, 0.9999, 1.7):
        learner, _ = filled(dtype, size)
        for p in learner.network.parameters():
            assert p.grad is not None
            p.grad *= factor
        learner.optimizer.step()
    learner, weight = filled(dtype, size)
    assert weight.grad is not None
    weight.grad = weight.grad + 0.1 * weight.grad.abs().max() * torch.randn_like(weight.grad)
    with pytest.raises(ValueError, match="may be multiplied by a factor"):
        learner.optimizer.step()


# Compiled by its user


def two_steps(learner: maxl.MetaAuxiliaryLearner) -> None:
    for seed in range(2):
        learner.step(*rows(seed))


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of its own code
def test_a_network_that_its_user_compiled_is_followed_or_refused() -> None:
    network, generator = small()
    options = {"fullgraph": False, "backend": "aot_eager"}
    learner = make(torch.compile(network, **options), generator, lookahead=maxl.Next())  # type: ignore[call-overload]
    follows = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15)  # its graphs in forward mode
    refusal = pytest.raises(ValueError, match="reverse mode needs a network that is not compiled")
    with nullcontext() if follows else refusal:
        two_steps(learner)
    learner = make(torch.compile(network, **options), generator, way=maxl.Reverse())  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="reverse mode needs a network that is not compiled"):
        learner.step(*rows())
