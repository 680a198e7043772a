"""What every lookahead has to keep, the library's and those written outside it. Add yours to ``LOOKAHEADS``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import batch, conv_trunk, flatten, pair, relative_error, same, snapshot
from maxl.learning import Lookahead

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

from averaged import Averaged
from several_steps import SeveralSteps

LOOKAHEADS: dict[str, Callable[[], Lookahead]] = {
    "taken": maxl.Taken,
    "taken, recomputed": lambda: maxl.Taken(recompute=True),
    "next": maxl.Next,
    "next, recomputed": lambda: maxl.Next(recompute=True),
    "virtual": maxl.Virtual,
    "virtual, recomputed": lambda: maxl.Virtual(recompute=True),
    "virtual sgd": lambda: maxl.Virtual("sgd"),
    "averaged": Averaged,
    "several steps": lambda: SeveralSteps(3),
}


def make(lookahead: Lookahead) -> maxl.MetaAuxiliaryLearner:
    network, generator = pair()
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.05),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        lookahead=lookahead,
    )


def weights(learner: maxl.MetaAuxiliaryLearner) -> Tensor:
    return flatten([*learner.network.state_dict().values(), *learner.generator.state_dict().values()])


@pytest.mark.parametrize("build", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_teaching_moves_the_generator_alone(build: Callable[[], Lookahead]) -> None:
    learner = make(build())
    learner.step(*batch(seed=1))
    learner.backward(*batch(seed=2))
    learner.optimizer.step()
    network, optimizer = snapshot(learner.network), copy.deepcopy(learner.optimizer.state_dict())
    learner.meta_step()
    assert same(network, snapshot(learner.network))
    assert str(optimizer) == str(learner.optimizer.state_dict())
    assert all(p.grad is None for p in learner.generator.parameters())


@pytest.mark.parametrize("build", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_the_generator_is_taught_and_the_result_says_so(build: Callable[[], Lookahead]) -> None:
    learner = make(build())
    start = snapshot(learner.generator)
    results = [learner.step(*batch(seed=seed)) for seed in range(3)]
    assert not same(start, snapshot(learner.generator))
    assert results[-1].outer_loss is not None
    assert results[-1].hypergradient_norm is not None
    assert results[-1].hypergradient_norm > 0
    assert results[-1].primary_loss is not None


@pytest.mark.parametrize("build", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_training_goes_with_the_labels_of_the_moment(build: Callable[[], Lookahead]) -> None:
    """θ₁ moves as by plain training on the labels that the result shows."""
    learner = make(build())
    plain = copy.deepcopy(learner.network)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for seed in range(3):
        x, y = batch(seed=seed)
        labels = learner.step(x, y).labels
        assert labels is not None
        logits = plain(x)
        optimizer.zero_grad()
        (maxl.focal_loss(logits[0], y) + maxl.focal_loss(logits[1], labels)).backward()
        optimizer.step()
    assert (
        relative_error(flatten(list(learner.network.parameters())), flatten(list(plain.parameters()))) < 1e-10
    )


@pytest.mark.parametrize("build", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_one_object_serves_two_learners(build: Callable[[], Lookahead]) -> None:
    shared = build()
    pairs = [make(shared), make(shared)]
    alone = make(build())
    for seed in range(3):
        for learner in (*pairs, alone):
            learner.step(*batch(seed=seed))
    assert all(torch.equal(weights(learner), weights(alone)) for learner in pairs)


@pytest.mark.parametrize(
    "name", [n for n in LOOKAHEADS if n != "several steps"]
)  # keeps batches, not for resuming
@pytest.mark.usefixtures("float64")
def test_a_restored_learner_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    one, other = make(LOOKAHEADS[name]()), make(LOOKAHEADS[name]())
    for seed in range(3):
        one.step(*batch(seed=seed))
    other.network.load_state_dict(one.network.state_dict())
    other.generator.load_state_dict(one.generator.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        for seed in range(3, 6):
            learner.step(*batch(seed=seed))
    assert relative_error(weights(other), weights(one)) < 1e-12


class SharedMemory(nn.Module):
    """Weights whose gradients autograd hands out as parts of one tensor."""

    feature_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.position = conv_trunk(), nn.Parameter(torch.randn(16))
        self.first, self.second = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.trunk(x).flatten(1) + (torch.cat([self.first, self.second]) + self.position))


@pytest.mark.parametrize("build", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_the_training_gradient_is_that_of_a_training_step(build: Callable[[], Lookahead]) -> None:
    """Whatever a lookahead takes of the pass for itself."""
    torch.manual_seed(0)
    _, generator = pair()
    network = maxl.MultiTaskNetwork(SharedMemory(), generator.hierarchy)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.05),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        lookahead=build(),
    )
    learner.step(*batch(seed=1))
    alone = copy.deepcopy(network)
    learner.optimizer.zero_grad()
    given = learner.backward(*batch(seed=2)).labels
    plain = maxl.MultiTaskLearner(alone, torch.optim.SGD(alone.parameters(), lr=0.05))
    plain.optimizer.zero_grad()
    plain.backward(*batch(seed=2), labels=given)
    for (name, p), q in zip(network.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-12, atol=1e-14, msg=lambda m, name=name: f"{name}: {m}"
        )
