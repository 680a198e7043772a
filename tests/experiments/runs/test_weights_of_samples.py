"""How much each sample's auxiliary loss counts: what ``--weight-range`` and ``--normalise-weights`` do to a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from _run_helpers import digits, tiny
from _run_helpers import one_thread as one_thread
from maxl import WeightedLabelGenerator
from maxl.experiments.data import normalise
from maxl.experiments.runs.build import Setup, build
from maxl.hypergradients import as_tuple

CPU = torch.device("cpu")


def setup(**changes: object) -> Setup:
    return build(tiny(**changes), digits(), CPU)


def auxiliary_loss(made: Setup, weights: Tensor) -> float:
    """Of uniform labels on ten samples, with these weights."""
    batch = digits().train.select(torch.arange(10))
    with torch.no_grad():
        outputs = made.network(normalise(batch.x, digits().mean, digits().std))
        labels = torch.zeros_like(outputs[1]).view(10, 10, 3)
        labels[torch.arange(10), batch.primary] = 1 / 3
        losses = made.learner.supervision.losses(
            made.learner.task, outputs, batch.primary, (labels.view(10, 30), weights)
        )
    assert losses.auxiliary is not None
    return float(losses.auxiliary)


@pytest.mark.parametrize("method", ["weighted", "wamal"])
def test_normalised_weights_say_which_sample_and_not_how_much(method: str) -> None:
    weights = torch.linspace(0.5, 3.5, 10)  # of mean 2
    as_they_are = auxiliary_loss(setup(method=method), weights)
    normalised = setup(method=method, normalise_weights=True)
    assert auxiliary_loss(normalised, weights) == pytest.approx(as_they_are / 2)
    assert auxiliary_loss(normalised, 4 * weights) == pytest.approx(as_they_are / 2)


@pytest.mark.parametrize("trunk", ["shared", "own"])
@pytest.mark.parametrize(("changes", "most"), [({}, 32.0), ({"weight_range": 1.0}, 2.0)])
def test_weights_of_wamal_span_the_range_that_is_asked_for(
    changes: dict[str, object], most: float, trunk: str
) -> None:
    generator = setup(method="wamal", generator_trunk=trunk, **changes).generator
    assert isinstance(generator, WeightedLabelGenerator)
    batch = digits().train.select(torch.arange(10))
    for bias, extreme in ((100.0, most), (-100.0, 1 / most)):
        nn.init.constant_(generator.weight_head.bias, bias)
        with torch.no_grad():
            weights = as_tuple(generator(normalise(batch.x, digits().mean, digits().std), batch.primary))[1]
        assert weights.tolist() == pytest.approx([extreme] * 10)
