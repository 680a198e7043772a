from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from maxl.hypergradients import UpdateRule

SETTINGS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.5, "maximize": True}),
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.Adam, {"maximize": True, "betas": (0.5, 0.9)}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.AdamW, {"amsgrad": True}),
]


@pytest.mark.parametrize(("kind", "options"), SETTINGS)
@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.usefixtures("float64")
def test_step_and_factor_are_those_of_the_real_optimizer(
    kind: Callable[..., Optimizer], options: dict[str, Any], taken: int
) -> None:
    weights = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))]
    optimizer = kind([{"params": weights[:1]}, {"params": weights[1:], "lr": 0.02}], lr=0.1, **options)
    for _ in range(taken):
        for p in weights:
            p.grad = torch.randn_like(p)
        optimizer.step()
    grads = [torch.randn_like(p) for p in weights]
    lookahead = UpdateRule.of(optimizer, weights)
    predicted = lookahead.step(weights, grads)
    factor = lookahead.factor(weights, grads)

    def really(shift: float) -> list[torch.Tensor]:
        moved = copy.deepcopy((weights, optimizer))
        for p, g in zip(moved[0], grads, strict=True):
            p.grad = g + shift
        moved[1].step()
        return [p.detach() for p in moved[0]]

    for ahead, real in zip(predicted, really(0.0), strict=True):
        torch.testing.assert_close(ahead, real, rtol=1e-13, atol=1e-14)
    plus, minus = really(1e-6), really(-1e-6)
    for f, p, up, down in zip(factor, weights, plus, minus, strict=True):
        numeric = -(up - down) / 2e-6
        torch.testing.assert_close(torch.as_tensor(f).expand_as(p), numeric, rtol=1e-6, atol=1e-9)


def test_the_plain_rule_takes_each_groups_learning_rate() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([{"params": [a], "lr": 0.5}, {"params": [b], "lr": 0.25}])
    ahead = UpdateRule.of(optimizer, [b, a], plain=True).step([b, a], [torch.ones(2), torch.ones(2)])
    assert [t.tolist() for t in ahead] == [[0.75, 0.75], [0.5, 0.5]]


def test_a_weight_without_gradient_stays() -> None:
    p = nn.Parameter(torch.ones(2))
    lookahead = UpdateRule.of(torch.optim.SGD([p], lr=1.0, weight_decay=0.5), [p])
    assert lookahead.step([p], [None])[0] is p
    assert lookahead.factor([p], [None]) == [None]


def test_adam_has_a_finite_factor_where_the_gradient_is_zero() -> None:
    p = nn.Parameter(torch.ones(2))
    lookahead = UpdateRule.of(torch.optim.Adam([p]), [p])
    (factor,) = lookahead.factor([p], [torch.tensor([0.0, 1.0])])
    assert torch.isfinite(torch.as_tensor(factor)).all()


def test_unknown_optimizers_and_missing_weights_are_refused() -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"SGD, Adam, AdamW; got Rprop"):
        UpdateRule.of(torch.optim.Rprop([p]), [p])
    with pytest.raises(ValueError, match="1 of 2 are missing"):
        UpdateRule.of(torch.optim.SGD([p], lr=0.1), [p, q])
