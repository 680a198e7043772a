"""When a way is compared with ordinary gradients, and that this changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import maxl
from _hiding import (
    batch,
    generator,
    late_hook,
    network,
)
from _networks import flatten, relative_error
from _truth import AHEAD, RATE, found, truth
from _truth import precise as precise
from maxl.hypergradients import OrReverse


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("when", ["first", 3])
def test_a_comparison_of_nothing_with_nothing_is_made_again(when: Any, ahead: str) -> None:
    """A learning rate that is warmed up from 0 leaves the first step nothing to compare."""
    net, gen, (x, y) = network(late_hook), generator(), batch()
    learner = maxl.MetaAuxiliaryLearner(
        net,
        gen,
        torch.optim.SGD(net.parameters(), lr=0.0),
        torch.optim.SGD(gen.parameters(), lr=1.0),
        entropy_weight=0.0,
        check=when,
        **AHEAD[ahead],
    )
    learner.step(x, y)
    learner.optimizer.param_groups[0]["lr"] = RATE
    expected, before = truth(net, gen, x, y, virtual=ahead == "virtual"), flatten(list(gen.parameters()))
    with pytest.warns(UserWarning, match="Forward gives"):
        learner.step(x, y)
    assert relative_error(before - flatten(list(gen.parameters())), expected) < 1e-10


@pytest.mark.parametrize("check_", ["first", 2, 3])
def test_a_check_counts_meta_steps_whatever_the_number_of_parts(
    check_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, compared = [], OrReverse._compared
    monkeypatch.setattr(OrReverse, "_compared", lambda *a: calls.append(0) or compared(*a))
    net, gen = network(lambda m, h: h), generator()
    optimizers = [torch.optim.SGD(m.parameters(), lr=RATE) for m in (net, gen)]
    learner = maxl.MetaAuxiliaryLearner(net, gen, *optimizers, check=check_)
    seen = []
    for _ in range(4):
        for part in range(3):
            learner.backward(*batch(part), share=1 / 3)
        learner.optimizer.step()
        learner.meta_step()
        seen.append(len(calls))
    assert seen == {"first": [1, 1, 1, 1], 2: [3, 3, 6, 6], 3: [3, 3, 3, 6]}[check_]


@pytest.mark.parametrize("value", ["sometimes", 0, True, 1.5])
def test_a_check_is_a_word_or_a_number_of_steps(value: Any) -> None:
    with pytest.raises(ValueError, match='check needs to be "first", "never" or a number'):
        found(network(lambda m, h: h), generator(), *batch(), check=value)


@pytest.mark.parametrize(("check_", "expected"), [("never", 0), ("first", 1), (2, 3), (1, 5)])
def test_the_comparison_is_made_when_it_was_asked_for(
    check_: Any, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, compared = [], OrReverse._compared
    monkeypatch.setattr(OrReverse, "_compared", lambda *a: calls.append(a) or compared(*a))
    net, gen = network(lambda m, h: h), generator()
    optimizers = [torch.optim.SGD(m.parameters(), lr=RATE) for m in (net, gen)]
    learner = maxl.MetaAuxiliaryLearner(net, gen, *optimizers, check=check_)
    for seed in range(5):
        learner.step(*batch(seed))
    assert len(calls) == expected


def test_the_comparison_changes_no_result() -> None:
    values = [
        found(network(lambda m, h: F.dropout(h, 0.3)), generator(), *batch(), check=when)
        for when in ("never", 1)
        if torch.manual_seed(3)
    ]
    assert torch.equal(*values)
