"""Teaching with samples of a batch: right on average, exact in what is estimated."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import flatten, relative_error

pytestmark = pytest.mark.usefixtures("float64")
HIERARCHY = maxl.Hierarchy([2, 3, 1])
COUNT = 4


class Chosen(maxl.Part):
    """Samples that a test names, in turn."""

    def __init__(self, *rows: tuple[int, ...]) -> None:
        super().__init__(0.5)
        object.__setattr__(self, "named", iter(rows))

    def rows(self, count: int) -> Tensor | None:
        named: Iterator[tuple[int, ...]] = self.named  # type: ignore[attr-defined]
        return torch.tensor(next(named))


def networks(sharing: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), HIERARCHY, feature_dim=8)
    if sharing:
        return network, maxl.LabelGenerator.sharing(network)
    return network, maxl.LabelGenerator(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), HIERARCHY, feature_dim=8)


def batch(seed: int = 0, count: int = COUNT) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=random), torch.randint(0, 3, (count,), generator=random)


def make(sharing: bool = False, **options: Any) -> maxl.MetaAuxiliaryLearner:
    network, generator = networks(sharing)
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.3),
        torch.optim.SGD(generator.parameters(), lr=1.0),
        **{"entropy_weight": 0.0, **options},
    )


def moved(learner: maxl.MetaAuxiliaryLearner, steps: int = 1) -> Tensor:
    """By how much θ₂ moves."""
    before = flatten(list(learner.generator.parameters()))
    for seed in range(steps):
        learner.step(*batch(seed))
    return flatten(list(learner.generator.parameters())) - before


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("way", [maxl.Forward(), maxl.Reverse()])
def test_the_mean_over_all_samples_is_the_whole_batchs(way: Any, sharing: bool) -> None:
    pairs = list(itertools.combinations(range(COUNT), 2))
    estimates = [
        moved(make(sharing, way=way, schedule=Chosen(teach, judge))) for teach in pairs for judge in pairs
    ]
    exact = moved(make(sharing, way=way))
    assert relative_error(torch.stack(estimates).mean(0), exact) < 1e-10
    assert min(relative_error(e, exact) for e in estimates) > 1e-3  # so each of them is an estimate


@pytest.mark.parametrize("sharing", [False, True])
def test_the_next_batch_judges_whole(sharing: bool) -> None:
    pairs = list(itertools.combinations(range(COUNT), 2))
    estimates = [
        moved(make(sharing, lookahead=maxl.Next(), schedule=Chosen(teach, teach, teach, teach)), steps=2)
        for teach in pairs
    ]
    exact = moved(make(sharing, lookahead=maxl.Next()), steps=2)
    assert relative_error(torch.stack(estimates).mean(0), exact) < 1e-10


def test_a_named_outer_batch_judges_whole() -> None:
    pairs = list(itertools.combinations(range(COUNT), 2))

    def step(schedule: maxl.Every) -> Tensor:
        learner = make(schedule=schedule)
        before = flatten(list(learner.generator.parameters()))
        learner.step(*batch(), outer_batch=batch(seed=5, count=7))
        return flatten(list(learner.generator.parameters())) - before

    estimates = [step(Chosen(teach, teach)) for teach in pairs]
    assert relative_error(torch.stack(estimates).mean(0), step(maxl.Every())) < 1e-10


def test_the_training_step_is_the_whole_batchs() -> None:
    learners = make(), make(schedule=maxl.Part(0.5))
    for learner in learners:
        learner.step(*batch())
    ours, theirs = (flatten(list(learner.network.parameters())) for learner in learners)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("q", "expected"), [(1.0, 100), (0.5, 50), (0.125, 12), (0.001, 2)])
def test_a_part_is_that_many_samples_and_at_least_two(q: float, expected: int) -> None:
    rows = maxl.Part(q).rows(100)
    count = 100 if rows is None else len(rows.unique())
    assert count == expected


def test_of_a_small_batch_a_part_is_all_samples() -> None:
    """Drawn all the same: other processes may have more."""
    rows = maxl.Part(0.9).rows(4)
    assert rows is not None
    assert rows.tolist() == [0, 1, 2, 3]


def test_the_whole_as_a_part_is_the_whole() -> None:
    assert torch.equal(moved(make(schedule=maxl.Part(1.0))), moved(make()))
    assert torch.equal(moved(make(teach_part=1.0)), moved(make()))
    assert make(teach_part=0.25, meta_every=2).schedule == maxl.Part(0.25, 2)


def test_every_kth_step_teaches() -> None:
    learner = make(schedule=maxl.Part(0.5, 3))
    assert [learner.step(*batch(seed)).outer_loss is None for seed in range(4)] == [False, True, True, False]


@pytest.mark.parametrize("q", [0.0, -1.0, 1.5, float("nan")])
def test_a_part_needs_to_be_one(q: float) -> None:
    with pytest.raises(ValueError, match="teach_part needs to be above 0 and at most 1"):
        maxl.Part(q)


def test_a_step_that_a_part_cannot_stand_for_is_refused() -> None:
    learner = make(schedule=maxl.Part(0.5), lookahead=maxl.Virtual())
    with pytest.raises(ValueError, match=r"use maxl\.Part with maxl\.Taken\(\)"):
        learner.step(*batch())
    learner = make(schedule=maxl.Part(0.5))
    with pytest.raises(ValueError, match="takes samples of whole batches"):
        learner.backward(*batch(), share=0.5)


def test_a_resumed_training_goes_on_with_the_samples_that_were_drawn() -> None:
    results = []
    for resumed in (False, True):
        learner = make(True, schedule=maxl.Part(0.5), lookahead=maxl.Next())
        torch.manual_seed(1)
        learner.step(*batch())
        if resumed:
            states = copy.deepcopy(
                (learner.network.state_dict(), learner.generator.state_dict(), learner.state_dict())
            )
            learner = make(True, schedule=maxl.Part(0.5), lookahead=maxl.Next())
            learner.network.load_state_dict(states[0])
            learner.generator.load_state_dict(states[1])
            learner.load_state_dict(states[2])
        learner.step(*batch(seed=1))
        results.append(flatten([*learner.network.parameters(), *learner.generator.parameters()]))
    assert relative_error(results[1], results[0]) < 1e-12


def test_a_batch_may_be_named_to_the_meta_step() -> None:
    learner = make(schedule=maxl.Part(0.5))
    x, y = batch()
    learner.train_step(x, y)
    assert learner.meta_step(x, y).outer_loss is not None
