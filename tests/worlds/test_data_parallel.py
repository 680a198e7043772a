"""Several real processes against one: whole trainings in float64."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from _started import needs_gloo, started
from torch import nn

import maxl
from _networks import batch, pair
from maxl.learning import Lookahead, Sum, Update
from maxl.worlds import Alone, SyncBatchNorm, World

RANKS = Path(__file__).with_name("_ranks.py")


@cache
def errors(size: int) -> dict[str, float]:
    """The largest relative difference of weights to one process's, over the processes, case by case."""
    results = started(RANKS, size)
    return {name: max(result[name] for result in results) for name in results[0]}


@needs_gloo
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_with_uneven_parts_train_as_one_does_on_the_whole(size: int) -> None:
    found = errors(size)
    assert len(found) >= 25
    approximate = {name: error for name, error in found.items() if "finite" in name}
    assert {name: error for name, error in approximate.items() if error > 1e-6} == {}
    exact = {name: error for name, error in found.items() if "finite" not in name}
    assert {name: error for name, error in exact.items() if not error < 1e-10} == {}


@needs_gloo
@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="threads are read from /proc, which Linux has"
)
def test_destroyed_groups_leave_no_thread_behind() -> None:
    """One that wants Python's lock while the process ends would abort it, now and then."""
    assert started(RANKS.with_name("_leaving.py"), 2) == [{"loops": 0}, {"loops": 0}]


def test_without_a_process_group_the_rule_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        maxl.DataParallel()


class Several(Alone):
    """A world that says it is not alone."""

    alone = False


class Unsure(Lookahead):
    """A lookahead that does not say whether it averages."""

    follows = True

    def teach(self, learner: maxl.MetaAuxiliaryLearner, update: Update) -> maxl.StepResult:
        return maxl.StepResult()


def make(**options: object) -> maxl.MetaAuxiliaryLearner:
    network, generator = pair()
    optimizers = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator))
    return maxl.MetaAuxiliaryLearner(network, generator, *optimizers, world=Several(), **options)


def test_what_would_be_another_thing_on_parts_is_refused() -> None:
    make(mix=Sum())
    with pytest.raises(ValueError, match="a gate compares gradients of the whole batch"):
        make(mix=maxl.Gated(lambda a, b: torch.ones(())))
    with pytest.raises(ValueError, match="Unsure does not say that it averages"):
        make(lookahead=Unsure())
    with pytest.raises(ValueError, match="drop compile=True"):
        make(compile=True)
    network, generator = pair()
    with pytest.raises(ValueError, match="the same number of parts"):
        maxl.AccumulatingLearner(
            network,
            generator,
            torch.optim.SGD(network.parameters(), lr=0.1),
            torch.optim.SGD(generator.parameters(), lr=0.1),
            microbatch=4,
            world=Several(),
        )


def test_tables_that_each_process_would_cut_otherwise_are_refused() -> None:
    network, generator = pair()
    network.trunk.table = nn.Embedding(7, 4, max_norm=1.0)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(ValueError, match=r"max_norm cuts the rows .* got trunk\.table: drop max_norm"):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers, world=Several())
    maxl.MetaAuxiliaryLearner(network, generator, *optimizers)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(ignore_index=1),
    ],
    ids=["class weights", "sum", "ignored"],
)
def test_a_loss_that_is_no_mean_over_samples_is_refused_on_parts(loss: nn.Module) -> None:
    class Half(Several):
        def share(self, count: int, alike: Mapping[str, int] | None = None) -> float:
            return 0.5

    network, generator = pair()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    built = maxl.MetaAuxiliaryLearner(
        network, generator, *optimizers, world=Half(), primary_loss=loss, auxiliary_loss=maxl.focal_loss
    )
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(ValueError, match="losses that are means over samples"):
        built.step(*batch(11))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_alone_a_synchronised_layer_is_batch_norm(momentum: float | None) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum))
    other = SyncBatchNorm.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum)))
    other.load_state_dict(plain.state_dict())
    x, _ = batch(7)
    for _ in range(2):
        torch.testing.assert_close(plain(x), other(x))
    torch.testing.assert_close(plain.state_dict(), other.state_dict())
    torch.testing.assert_close(plain.eval()(x), other.eval()(x))


def test_a_layer_in_two_places_stays_one() -> None:
    norm = nn.BatchNorm1d(4)
    module = SyncBatchNorm.convert(nn.ModuleDict({"a": norm, "b": nn.Sequential(norm), "c": norm}))
    assert isinstance(module, nn.ModuleDict)
    assert isinstance(module["a"], SyncBatchNorm)
    assert module["a"] is module["c"] is module["b"][0]
    assert module["a"].weight is norm.weight


def test_a_world_is_all_a_learner_needs() -> None:
    assert issubclass(maxl.DataParallel, World)
    assert Alone().share(3) == 1.0
    assert Alone().every(False) is False
