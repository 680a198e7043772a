"""backward, the caller's own optimizer.step, meta_step: any loop can hold the step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import maxl
from _networks import batch, flatten, relative_error, snapshot
from _verbs import KINDS, LOOKAHEADS, by_verbs, make, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_three_verbs_are_a_step(kind: str, lookahead: str) -> None:
    one, other = (make(kind, lookahead=LOOKAHEADS[lookahead](), schedule=maxl.Every(2)) for _ in range(2))
    for seed in range(5):
        x, y = batch(seed=seed)
        a, b = one.step(x, y), by_verbs(other, x, y)
        assert (a.outer_loss is None) == (b.outer_loss is None)
    assert relative_error(weights(other), weights(one)) < 1e-12


def test_backward_moves_nothing_and_fills_what_loss_backward_fills() -> None:
    learner = make("adam")
    x, y = batch()
    before = snapshot(learner.generator), [p.clone() for p in learner.network.parameters()]
    result = learner.backward(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before[1], learner.network.parameters(), strict=True))
    assert {n: before[0][n] for n, _ in learner.generator.named_parameters()}.keys()
    assert all(
        torch.equal(before[0][n], p) and p.grad is None for n, p in learner.generator.named_parameters()
    )
    network = copy.deepcopy(learner.network)
    for p in network.parameters():
        p.grad = None
    logits = network(x)
    (maxl.focal_loss(logits[0], y) + maxl.focal_loss(logits[1], result.labels)).backward()
    for p, q in zip(learner.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def independent(
    learner: Any, x: Tensor, y: Tensor, clip: Callable[[list[Tensor]], float]
) -> tuple[Tensor, ...]:
    """dL_pri(θ₁⁺)/dθ₂ for one clipped step of plain SGD, the clip factor a constant."""
    network, generator = copy.deepcopy(learner.network), copy.deepcopy(learner.generator)
    theta = dict(network.named_parameters())
    with maxl.hypergradients.untracked(network), maxl.hypergradients.untracked(generator):
        labels = generator(x, y)
        logits = network(x)
        loss = maxl.focal_loss(logits[0], y) + maxl.focal_loss(logits[1], labels)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        c = clip([g.detach() for g in grads])
        ahead = {n: p - 0.05 * c * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        outer = maxl.focal_loss(torch.func.functional_call(network, ahead, (x,))[0], y)
        return torch.autograd.grad(outer, list(generator.parameters()))


@pytest.mark.parametrize("lookahead", ["taken", "next"])
@pytest.mark.usefixtures("float64")
def test_the_hypergradient_goes_through_a_clipped_step(lookahead: str) -> None:
    learner = make(lookahead=LOOKAHEADS[lookahead](), entropy_weight=0.0)
    x, y = batch()
    limit = 0.05

    def clip(grads: list[Tensor]) -> float:
        norm = float(torch.stack([g.norm() for g in grads]).norm())
        assert norm > 2 * limit  # it does clip
        return limit / (norm + 1e-6)

    expected = independent(learner, x, y, clip)
    before = [p.detach().clone() for p in learner.generator.parameters()]
    learner.backward(x, y)
    torch.nn.utils.clip_grad_norm_(learner.network.parameters(), limit)
    learner.optimizer.step()
    learner.meta_step()
    if lookahead == "next":
        learner.backward(x, y)  # the same batch judges
    moved = [(b - p) / 0.5 for b, p in zip(before, learner.generator.parameters(), strict=True)]
    assert relative_error(flatten(moved), flatten(expected)) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lookahead", ["taken", "next", "virtual"])
@pytest.mark.usefixtures("float64")
def test_a_gradient_scaler_changes_nothing(kind: str, lookahead: str) -> None:
    plain, scaled = (make(kind, lookahead=LOOKAHEADS[lookahead]()) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for seed in range(4):
        x, y = batch(seed=seed)
        plain.backward(x, y)
        torch.nn.utils.clip_grad_norm_(plain.network.parameters(), 0.1)
        plain.optimizer.step()
        plain.meta_step()
        scaled.backward(x, y, scaler=scaler)
        scaler.unscale_(scaled.optimizer)
        torch.nn.utils.clip_grad_norm_(scaled.network.parameters(), 0.1)
        scaler.step(scaled.optimizer)
        scaler.update()
        scaled.meta_step()
    assert relative_error(weights(scaled), weights(plain)) < 1e-9


def test_a_step_that_the_scaler_leaves_out_teaches_nothing() -> None:
    learner = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    x, y = batch()
    learner.backward(x, y, scaler=scaler)
    next(learner.network.parameters()).grad.fill_(float("inf"))
    before = weights(learner)
    scaler.step(learner.optimizer)
    scaler.update()
    assert learner.meta_step().outer_loss is None
    assert torch.equal(before, weights(learner))
    assert by_verbs(learner, x, y).outer_loss is not None  # and goes on


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("float64")
def test_a_batch_in_parts_is_the_batch(kind: str) -> None:
    """Networks without BatchNorm on batch statistics, as samples must not interact."""
    learners = [make(kind) for _ in range(2)]
    for learner in learners:
        learner.network.eval()
        learner.generator.eval()
    whole, parts = learners
    for seed in range(3):
        x, y = batch(12, seed=seed)
        by_verbs(whole, x, y)
        for i, j in ((0, 5), (5, 10), (10, 12)):
            parts.backward(x[i:j], y[i:j], share=(j - i) / 12)
        parts.optimizer.step()
        assert parts.meta_step().outer_loss is not None
    assert relative_error(weights(parts), weights(whole)) < 1e-9


@pytest.mark.usefixtures("float64")
def test_an_accumulating_learner_takes_the_verbs_too() -> None:
    learners = [make("adam", build=maxl.AccumulatingLearner, microbatch=5) for _ in range(2)]
    for seed in range(3):
        learners[0].step(*batch(seed=seed))
        by_verbs(learners[1], *batch(seed=seed))
    assert relative_error(weights(learners[1]), weights(learners[0])) < 1e-12


@pytest.mark.usefixtures("float64")
def test_schedulers_work_in_between() -> None:
    one, other = make("momentum"), make("momentum")
    schedulers = [torch.optim.lr_scheduler.StepLR(m.optimizer, 1, gamma=0.5) for m in (one, other)]
    for seed in range(4):
        one.step(*batch(seed=seed))
        by_verbs(other, *batch(seed=seed))
        for scheduler in schedulers:
            scheduler.step()
    assert relative_error(weights(other), weights(one)) < 1e-12


@pytest.mark.usefixtures("float64")
def test_other_losses_may_be_added_before() -> None:
    """θ₁⁺ then contains their gradient, a constant to the generator."""
    learner, plain = make(entropy_weight=0.0), make(entropy_weight=0.0)
    x, y = batch()
    before = [p.detach().clone() for p in learner.generator.parameters()]
    (0.1 * sum(p.square().sum() for p in learner.network.parameters())).backward()
    by_verbs(learner, x, y)
    moved = flatten([b - p for b, p in zip(before, learner.generator.parameters(), strict=True)])
    decayed = torch.optim.SGD(plain.network.parameters(), lr=0.05, weight_decay=0.2)
    expected = maxl.hypergradient(plain.network, plain.generator, x, y, optimizer=decayed)
    assert relative_error(moved, 0.5 * flatten(expected)) < 1e-9


def test_used_gradients_are_dropped_and_others_kept() -> None:
    learner, other = make(), make()
    for seed in range(2):  # no zero_grad anywhere
        by_verbs(learner, *batch(seed=seed))
        other.step(*batch(seed=seed))
    assert relative_error(weights(learner), weights(other)) < 1e-5
    for p in learner.network.parameters():
        p.grad = torch.ones_like(p)
    learner.backward(*batch())
    alone = [p.grad.clone() for p in learner.network.parameters()]
    for p in learner.network.parameters():
        p.grad = None
    learner.optimizer.zero_grad()
    learner._tracker = type(learner._tracker)()
    learner.backward(*batch())
    for p, g in zip(learner.network.parameters(), alone, strict=True):
        torch.testing.assert_close(p.grad + 1, g, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("float64")
def test_a_closure_may_call_backward_or_do_nothing(kind: str, lookahead: str) -> None:
    """Trainers give one to every step."""
    learners = [make(kind, lookahead=LOOKAHEADS[lookahead]()) for _ in range(3)]
    for seed in range(3):
        x, y = batch(seed=seed)
        learners[0].step(x, y)
        learners[1].backward(x, y)
        assert learners[1].optimizer.step(lambda: 3.0) == 3.0
        learners[1].meta_step()
        learners[2].optimizer.step(closure=lambda x=x, y=y: learners[2].backward(x, y).loss)
        learners[2].meta_step()
    for learner in learners[1:]:
        assert torch.equal(weights(learner), weights(learners[0]))


def test_steps_are_watched_by_a_copy_too() -> None:
    learner = copy.deepcopy(make())
    assert by_verbs(learner, *batch()).outer_loss is not None
    assert learner.steps == 1


def test_a_learner_does_not_outlive_its_use_for_its_optimizers_sake() -> None:
    import gc
    import weakref

    learner = make()
    learner.step(*batch())
    optimizer, gone = learner.optimizer, weakref.ref(learner)
    del learner
    gc.collect()
    assert gone() is None
    optimizer.step()


def test_defaults_are_the_exact_preset() -> None:
    plain, exact = make(), make(**maxl.PRESETS["exact"])
    for seed in range(3):
        plain.step(*batch(seed=seed))
        exact.step(*batch(seed=seed))
    assert torch.equal(weights(plain), weights(exact))
    assert isinstance(plain.lookahead, maxl.Taken)


def test_the_plain_rule_goes_with_an_update_that_plain_sgd_took_alone() -> None:
    make("sgd", lookahead="update", lookahead_rule="sgd")
    for kind in ("momentum", "adam"):
        with pytest.raises(ValueError, match="followed as"):
            make(kind, lookahead="update", lookahead_rule="sgd")


def test_a_result_prints_as_one_line() -> None:
    text = repr(make().step(*batch()))
    assert "\n" not in text
    assert "outer_loss=" in text
    assert "labels=(12, 9)" in text


def test_steps_that_others_take_with_the_optimizer_are_not_counted() -> None:
    learner = make(schedule=maxl.Every(2))
    x, y = batch()
    for _ in range(3):
        learner.optimizer.zero_grad()
        maxl.focal_loss(learner.network(x)[0], y).backward()
        learner.optimizer.step()
    assert learner.steps == 0
    assert learner.step(x, y).outer_loss is not None
    assert learner.steps == 1
