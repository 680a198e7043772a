"""What every source of signals has to keep. Add yours to ``SOURCES``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import maxl
from _networks import PSI, batch, pair
from maxl.supervision import Cached, FixedLabels, Generated, NoLabels, Source, UniformLabels

HIERARCHY = maxl.Hierarchy(PSI)
SOURCES: dict[str, Callable[[], Source]] = {
    "none": NoLabels,
    "uniform": lambda: UniformLabels(HIERARCHY),
    "fixed": lambda: FixedLabels(torch.tensor([0, 3, 5]).repeat(8)),
    "fixed, soft": lambda: FixedLabels(torch.rand(24, 9).softmax(1)),
    "generated": lambda: Generated(pair()[1].eval()),
    "cached": lambda: Cached(pair()[1].eval(), 24),
}
INDEX = torch.arange(4, 16)


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_signals_fit_the_batch_and_carry_no_graph(build: Callable[[], Source]) -> None:
    x, y = batch()
    for signal in build().constant(x, y, INDEX):
        assert len(signal) == len(x)
        assert not signal.requires_grad


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_the_same_batch_gets_the_same_signals(build: Callable[[], Source]) -> None:
    x, y = batch()
    source = build()
    first, second = source.constant(x, y, INDEX), source.constant(x, y, INDEX)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_a_signal_belongs_to_its_sample_wherever_that_stands_in_the_batch(
    build: Callable[[], Source],
) -> None:
    x, y = batch()
    order = torch.randperm(len(x))
    source = build()
    straight, mixed = source.constant(x, y, INDEX), source.constant(x[order], y[order], INDEX[order])
    for a, b in zip(straight, mixed, strict=True):
        torch.testing.assert_close(a[order], b)


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_a_learner_trains_with_it(build: Callable[[], Source]) -> None:
    network, _ = pair()
    learner = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1), source=build())
    x, y = batch()
    result = learner.step(x, y, INDEX)
    moved = learner.step(x, y, INDEX)
    assert moved.primary_loss is not None
    assert result.primary_loss is not None
    assert float(moved.primary_loss) < float(result.primary_loss)
    assert (result.labels is None) == (result.auxiliary_loss is None)


def test_soft_labels_stay_within_the_block_of_the_class() -> None:
    x, y = batch()
    (labels,) = UniformLabels(HIERARCHY).constant(x, y, None)
    torch.testing.assert_close(labels.sum(1), torch.ones(len(y)))
    assert (labels[~HIERARCHY.mask[y]] == 0).all()


@pytest.mark.parametrize("name", ["fixed", "cached"])
def test_a_source_that_needs_positions_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="index="):
        SOURCES[name]().constant(*batch(), None)
