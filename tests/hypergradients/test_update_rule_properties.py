"""The step as a function is the optimizer's own, and its derivative autograd's, over all options and steps."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients import UpdateRule

rates = st.floats(1e-5, 1.0)
decays = st.one_of(st.just(0.0), st.floats(1e-4, 0.5))


@st.composite
def optimizers(draw: st.DrawFn) -> tuple[type[Optimizer], dict[str, Any]]:
    """An optimizer that the lookahead follows, and options of it that PyTorch takes."""
    kind = draw(st.sampled_from([torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]))
    options: dict[str, Any] = {"maximize": draw(st.booleans()), "weight_decay": draw(decays)}
    if kind is torch.optim.SGD:
        options["momentum"] = draw(st.one_of(st.just(0.0), st.floats(0.01, 0.99)))
        options["nesterov"] = options["momentum"] > 0 and draw(st.booleans())
        options["dampening"] = 0.0 if options["nesterov"] else draw(st.floats(0, 1))
    else:
        options["betas"] = (draw(st.floats(0, 0.99)), draw(st.floats(0, 0.9999)))
        options["eps"] = draw(st.sampled_from([1e-10, 1e-8, 1e-3]))
        options["amsgrad"] = draw(st.booleans())
    options["foreach"] = draw(st.booleans())
    return kind, options


@settings(max_examples=120)
@given(
    optimizers(),
    st.tuples(rates, rates),
    st.integers(1, 4),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.integers(0, 2**31),
)
def test_every_step_and_its_derivative_are_those_of_the_optimizer(
    made: tuple[type[Optimizer], dict[str, Any]],
    rate: tuple[float, float],
    steps: int,
    scale: float,
    seed: int,
) -> None:
    kind, options = made
    noise = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64)

    weights = [nn.Parameter(random(3, 2)), nn.Parameter(random(4)), nn.Parameter(random(2))]
    groups = [{"params": weights[:1], "lr": rate[0]}, {"params": weights[1:], "lr": rate[1]}]
    optimizer = kind(groups, **options)
    for step in range(steps):
        grads: list[Tensor | None] = [scale * random(*p.shape) for p in weights]
        if step % 2:
            grads[2] = None  # a weight that this step does not reach
        rule = UpdateRule.of(optimizer, weights)
        inputs = [None if g is None else g.clone().requires_grad_() for g in grads]
        before = [p.detach().clone() for p in weights]
        ahead = rule.step(before, inputs)
        factors = rule.factor(before, grads)
        for p, g, moved, factor in zip(before, inputs, ahead, factors, strict=True):
            if g is None:
                assert moved is p
                assert factor is None
                continue
            (slope,) = torch.autograd.grad(moved.sum(), g)
            # Autograd's two terms of Adam's first steps cancel; each is as large as rate over gradient.
            gradient = torch.minimum(g.abs(), (g.abs() - options["weight_decay"] * p.abs()).abs())
            rounding = 1e-13 * max(rate) / gradient.detach()
            assert ((slope + factor).abs() <= 1e-8 * slope.abs() + rounding).all()
        for p, g in zip(weights, grads, strict=True):
            p.grad = g
        optimizer.step()
        for predicted, p in zip(ahead, weights, strict=True):
            torch.testing.assert_close(predicted.detach(), p.detach(), rtol=1e-11, atol=1e-12)
