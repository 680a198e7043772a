"""What every source of signals has to keep. Add yours to ``SOURCES``.

A source that keeps something of its training set gets ``X`` and ``Y``; batches are rows of these, at ``INDEX``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import maxl
from _networks import batch, conv_trunk
from maxl.supervision import Cached, FixedLabels, Generated, NoLabels, Source, UniformLabels

X, Y = batch(24)
INDEX = torch.arange(4, 16)
# Blocks need not be consecutive: class 0 has the auxiliary classes 0, 4 and 7, class 1 has 1 and 5, class 2 the rest.
HIERARCHY = maxl.Hierarchy.from_labels(
    torch.tensor([0, 1, 2, 2, 0, 1, 2, 0, 2]), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8])
)


def generator() -> maxl.LabelGenerator:
    torch.manual_seed(0)
    return maxl.LabelGenerator(conv_trunk(), HIERARCHY).eval()


def table() -> torch.Tensor:
    """A class of its block for each sample of the training set."""
    return HIERARCHY.mask[Y].float().multinomial(1).squeeze(1)


SOURCES: dict[str, Callable[[], Source]] = {
    "none": NoLabels,
    "uniform": lambda: UniformLabels(HIERARCHY),
    "fixed": lambda: FixedLabels(table()),
    "fixed, soft": lambda: FixedLabels(maxl.masked_softmax(torch.randn(24, 9), HIERARCHY.mask[Y])),
    "generated": lambda: Generated(generator()),
    "cached": lambda: Cached(generator(), 24),
}
NEEDS_POSITIONS = ["fixed", "fixed, soft", "cached"]


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_signals_are_a_tuple_that_fits_the_batch_and_carries_no_graph(build: Callable[[], Source]) -> None:
    signals = build().constant(X[INDEX], Y[INDEX], INDEX)
    assert isinstance(signals, tuple)
    for signal in signals:
        assert len(signal) == len(INDEX)
        assert not signal.requires_grad


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_labels_stay_within_the_block_of_their_class(build: Callable[[], Source]) -> None:
    allowed = HIERARCHY.mask[Y[INDEX]]
    for labels in build().constant(X[INDEX], Y[INDEX], INDEX)[:1]:
        if labels.is_floating_point():
            assert labels.shape == allowed.shape
            torch.testing.assert_close(labels.sum(1), torch.ones(len(INDEX)))
            assert (labels[~allowed] == 0).all()
        else:
            assert labels.dtype == torch.int64
            assert allowed[torch.arange(len(INDEX)), labels].all()


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_the_same_batch_gets_the_same_signals(build: Callable[[], Source]) -> None:
    source = build()
    first, second = (source.constant(X[INDEX], Y[INDEX], INDEX) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_a_signal_belongs_to_its_sample_wherever_and_with_whomever_that_stands(
    build: Callable[[], Source],
) -> None:
    source = build()
    straight = source.constant(X[INDEX], Y[INDEX], INDEX)
    for order in (torch.randperm(len(INDEX)), torch.tensor([7, 2, 5])):
        some = INDEX[order]
        for a, b in zip(straight, source.constant(X[some], Y[some], some), strict=True):
            torch.testing.assert_close(a[order], b)


@pytest.mark.parametrize("build", SOURCES.values(), ids=SOURCES)
def test_a_learner_trains_with_it(build: Callable[[], Source]) -> None:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(conv_trunk(), HIERARCHY)
    learner = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1), source=build())
    result, moved = (learner.step(X[INDEX], Y[INDEX], INDEX) for _ in range(2))
    assert moved.primary_loss is not None
    assert result.primary_loss is not None
    assert float(moved.primary_loss) < float(result.primary_loss)
    assert (result.labels is None) == (result.auxiliary_loss is None)


@pytest.mark.parametrize("name", NEEDS_POSITIONS)
def test_a_source_that_needs_positions_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="index="):
        SOURCES[name]().constant(X[INDEX], Y[INDEX], None)
