"""Teaching with samples of a batch: right on average, exact in what is estimated."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import maxl
from _networks import flatten, relative_error
from maxl.supervision import SampleWeights, WeightedLabels, WeightGenerator

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
    with pytest.raises(ValueError, match=r"q of maxl\.Part \(teach_part\) needs to be above 0 and at most 1"):
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


CLASS_WEIGHTS = (5.0, 1.0, 0.2)


def divided(z: Tensor, y: Tensor) -> Tensor:
    """By the sum of the weights of the batch's classes, so no mean over samples."""
    return F.cross_entropy(z, y, weight=torch.tensor(CLASS_WEIGHTS))


def each(generator: type[Any], **options: Any) -> maxl.MetaAuxiliaryLearner:
    """With a generator of another kind."""
    network, _ = networks(False)
    psi = 3 if generator is WeightGenerator else HIERARCHY
    teacher = generator(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), psi, feature_dim=8)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (network, teacher)]
    return maxl.MetaAuxiliaryLearner(network, teacher, *optimizers, **options)


NO_MEANS = {
    "weighted labels, normalised": lambda schedule: each(
        maxl.WeightedLabelGenerator, supervision=WeightedLabels(normalise=True), schedule=schedule
    ),
    "sample weights, normalised": lambda schedule: each(
        WeightGenerator, supervision=SampleWeights(normalise=True), schedule=schedule
    ),
    "a primary loss with class weights": lambda schedule: make(
        primary_loss=divided, auxiliary_loss=maxl.focal_loss, schedule=schedule
    ),
    "an auxiliary loss that is a sum": lambda schedule: make(
        auxiliary_loss=lambda z, t: len(z) * maxl.focal_loss(z, t), schedule=schedule
    ),
}


@pytest.mark.parametrize("count", [4, 12, 64, 1000])
@pytest.mark.parametrize("kind", NO_MEANS)
def test_losses_that_samples_cannot_stand_for_are_refused(kind: str, count: int) -> None:
    """The weights are all alike at first, and among many samples hardly any two parts differ in the mean of theirs."""
    x, _ = batch(count=count)
    y = torch.arange(count) % 3
    learner = NO_MEANS[kind](maxl.Part(0.5))
    before = flatten([*learner.network.parameters(), *learner.generator.parameters()])
    with pytest.raises(ValueError, match=r"maxl\.Part.*means over samples.*maxl\.Every\(k\)"):
        learner.step(x, y)
    assert torch.equal(flatten([*learner.network.parameters(), *learner.generator.parameters()]), before)
    assert all(p.grad is None for p in learner.network.parameters())
    assert NO_MEANS[kind](maxl.Every()).step(x, y).outer_loss is not None  # by whole batches they are right
    assert NO_MEANS[kind](maxl.Part(1.0)).step(x, y).outer_loss is not None


@pytest.mark.parametrize("position", [0, 500, 999])
def test_a_class_that_is_rare_is_seen(position: int) -> None:
    x, y = batch(count=1000)[0], torch.ones(1000, dtype=torch.int64)
    y[position] = 0
    with pytest.raises(ValueError, match="means over samples"):
        NO_MEANS["a primary loss with class weights"](maxl.Part(0.5)).step(x, y)


def test_a_primary_loss_may_be_any_where_whole_batches_judge() -> None:
    """It does not depend on the labels, so samples that teach need not stand for it."""
    pairs = list(itertools.combinations(range(COUNT), 2))
    options = {"primary_loss": divided, "auxiliary_loss": maxl.focal_loss}

    def named(schedule: maxl.Every) -> Tensor:
        learner = make(**options, schedule=schedule)
        before = flatten(list(learner.generator.parameters()))
        learner.step(*batch(), outer_batch=batch(seed=5, count=7))
        return flatten(list(learner.generator.parameters())) - before

    def following(schedule: maxl.Every) -> Tensor:
        return moved(make(**options, lookahead=maxl.Next(), schedule=schedule), steps=2)

    for step in (named, following):
        estimates = [step(Chosen(teach, teach, teach, teach)) for teach in pairs]
        assert relative_error(torch.stack(estimates).mean(0), step(maxl.Every())) < 1e-10


class FirstAlone(Chosen):
    """Samples of the first batch, and all of the second."""

    def rows(self, count: int) -> Tensor | None:
        return super().rows(count) if count == COUNT else None


@pytest.mark.parametrize("schedule", [lambda: maxl.Part(0.5), lambda: FirstAlone((0, 1), (2, 3))])
@pytest.mark.parametrize("lookahead", [maxl.Taken, maxl.Next])
def test_a_step_on_samples_of_two_batches_is_refused(schedule: Any, lookahead: Any) -> None:
    learner = make(schedule=schedule(), lookahead=lookahead())
    learner.backward(*batch())
    before = [p.grad.clone() for p in learner.network.parameters() if p.grad is not None]
    with pytest.raises(ValueError, match="takes samples of one batch a step; backward was called again"):
        learner.backward(*batch(seed=1, count=COUNT + 1))
    after = [p.grad for p in learner.network.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_batch_that_was_left_out_is_no_further_one() -> None:
    learner = make(schedule=maxl.Part(0.5))
    learner.backward(*batch())
    learner.optimizer.zero_grad()
    learner.backward(*batch(seed=1))
    learner.optimizer.step()
    assert learner.meta_step().outer_loss is not None
