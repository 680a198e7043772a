"""The steps against the paper's equations, against each other, and what they must leave alone."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import maxl
from _networks import PSI, batch, flatten, pair, relative_error, same, snapshot
from maxl.hypergradients import WAYS, untracked
from maxl.learning import Lookahead, Update

LAMBDA = 0.2


def make(
    dropout: float = 0.0, kind: type[torch.optim.Optimizer] = torch.optim.SGD, **options: Any
) -> maxl.MetaAuxiliaryLearner:
    network, generator = pair(dropout)
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        kind(network.parameters(), lr=0.05),  # type: ignore[call-arg]
        torch.optim.SGD(generator.parameters(), lr=0.5, weight_decay=5e-4),
        **options,
    )


def state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [v.clone() for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]


@pytest.mark.parametrize("method", ["reverse", "forward"])
@pytest.mark.usefixtures("float64")
def test_twenty_alternating_iterations_follow_the_papers_equations(method: str) -> None:
    """An epoch of training steps, then an epoch of meta steps, twice, written out independently."""
    learner = make(hypergradient=method, entropy_weight=LAMBDA, lookahead="virtual")
    f, g = copy.deepcopy(learner.network), copy.deepcopy(learner.generator)
    batches = [batch(seed=s) for s in range(5)]
    alpha, beta, decay = 0.05, 0.5, 5e-4

    def focal(logits: Tensor, target: Tensor) -> Tensor:
        p = logits.softmax(1)
        return -(target * (1 - p) ** 2 * p.log()).sum(1).mean()

    def training_loss(weights: dict[str, Tensor], x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        primary, auxiliary = functional_call(f, weights, (x,))
        return focal(primary, torch.eye(3)[y]) + focal(auxiliary, labels)

    for _ in range(2):
        for x, y in batches:
            theta = dict(f.named_parameters())
            loss = training_loss(theta, x, y, g(x, y).detach())
            grads = torch.autograd.grad(loss, list(theta.values()))
            with torch.no_grad():
                for p, d in zip(theta.values(), grads, strict=True):
                    p -= alpha * d
            learner.train_step(x, y)
        for x, y in batches:
            with untracked(f), untracked(g):
                theta = dict(f.named_parameters())
                labels = g(x, y)
                loss = training_loss(theta, x, y, labels)
                grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
                ahead = {n: p - alpha * d for (n, p), d in zip(theta.items(), grads, strict=True)}
                mean = labels.mean(0)
                entropy_term = (mean * mean.log()).sum()
                outer = focal(functional_call(f, ahead, (x,))[0], torch.eye(3)[y]) + LAMBDA * entropy_term
                meta = torch.autograd.grad(outer, list(g.parameters()))
            with torch.no_grad():
                for p, d in zip(g.parameters(), meta, strict=True):
                    p -= beta * (d + decay * p)
            learner.meta_step(x, y)
    for ours, papers in ((learner.network, f), (learner.generator, g)):
        error = relative_error(flatten(list(ours.parameters())), flatten(list(papers.parameters())))
        assert error < 1e-10


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("lookahead", ["virtual", "update"])
def test_a_meta_step_leaves_the_network_bitwise_alone(method: str, lookahead: str) -> None:
    learner = make(0.5, torch.optim.Adam, hypergradient=method, lookahead=lookahead)
    x, y = batch()
    learner.train_step(x, y)
    before = snapshot(learner.network), state(learner.optimizer), snapshot(learner.generator)
    learner.meta_step(x, y)
    assert same(before[0], snapshot(learner.network))
    assert all(torch.equal(a, b) for a, b in zip(before[1], state(learner.optimizer), strict=True))
    after = snapshot(learner.generator)
    weights = {name for name, _ in learner.generator.named_parameters()}
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(before[2][name], after[name]) for name in after.keys() - weights)
    assert not same(before[2], after)  # θ₂ did move


def test_a_training_step_leaves_the_generators_weights_alone() -> None:
    learner = make(lookahead="update")
    before = [p.clone() for p in learner.generator.parameters()]
    network = snapshot(learner.network)
    learner.train_step(*batch())
    assert all(torch.equal(a, b) for a, b in zip(before, learner.generator.parameters(), strict=True))
    assert all(p.grad is None for p in learner.generator.parameters())
    assert not same(network, snapshot(learner.network))


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("lookahead", ["virtual", "update"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.usefixtures("float64")
def test_step_equals_train_step_then_meta_step(
    method: str, lookahead: str, kind: type[torch.optim.Optimizer]
) -> None:
    # Differences are far off in Adam's first steps, which the comparison with gradients would notice.
    check = "never" if method == "finite-difference" else "first"
    fused, plain = (make(kind=kind, hypergradient=method, lookahead=lookahead, check=check) for _ in range(2))
    for seed in range(4):
        x, y = batch(seed=seed)
        fused.step(x, y)
        plain.train_step(x, y)
        plain.meta_step(x, y)
    for a, b in ((fused.network, plain.network), (fused.generator, plain.generator)):
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.usefixtures("float64")
def test_the_update_as_lookahead_gives_the_hypergradient_at_the_old_weights(
    kind: type[torch.optim.Optimizer],
) -> None:
    learner = make(kind=kind, lookahead="update", entropy_weight=LAMBDA)
    learner.step(*batch(seed=3))  # so that the optimizer has a state
    x, y = batch()
    expected = maxl.hypergradient(
        learner.network, learner.generator, x, y, optimizer=learner.optimizer, entropy_weight=LAMBDA
    )
    before = [p.clone() for p in learner.generator.parameters()]
    learner.step(x, y)
    for p, old, g in zip(learner.generator.parameters(), before, expected, strict=True):
        torch.testing.assert_close(p, old - 0.5 * (g + 5e-4 * old), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.usefixtures("float64")
def test_next_batch_evaluation_judges_the_last_update_by_the_next_batch(
    kind: type[torch.optim.Optimizer],
) -> None:
    learner = make(kind=kind, lookahead="update", evaluate="next", entropy_weight=LAMBDA)
    first, second = batch(seed=1), batch(seed=2)
    reference = copy.deepcopy(learner)
    expected = maxl.hypergradient(
        learner.network,
        learner.generator,
        *first,
        optimizer=learner.optimizer,
        outer_batch=second,
        entropy_weight=LAMBDA,
    )
    before = [p.clone() for p in learner.generator.parameters()]
    assert learner.step(*first).outer_loss is None  # nothing to judge yet
    assert all(torch.equal(a, b) for a, b in zip(before, learner.generator.parameters(), strict=True))
    result = learner.step(*second)
    for p, old, g in zip(learner.generator.parameters(), before, expected, strict=True):
        torch.testing.assert_close(p, old - 0.5 * (g + 5e-4 * old), rtol=1e-9, atol=1e-12)
    # θ₁ moves as by training steps with the labels of the moment
    reference.lookahead = maxl.Taken()
    reference.train_step(*first)
    reference.meta_step(*first, outer_batch=second)
    reference.train_step(*second)
    for p, q in zip(learner.network.parameters(), reference.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert result.outer_loss == result.primary_loss


def test_meta_steps_come_every_kth_iteration() -> None:
    learner = make(meta_every=3)
    taken = [learner.step(*batch(seed=s)).outer_loss is not None for s in range(6)]
    assert taken == [True, False, False, True, False, False]


def test_cached_labels_are_those_of_the_last_meta_step() -> None:
    learner = make(meta_every=2, cache_labels=24)
    x, y = batch(24)
    first, second = torch.arange(12), torch.arange(12, 24)
    learner.step(x[:12], y[:12], first)  # meta step: labels made and kept
    kept = learner.labels.cache.read(first)
    assert kept is not None
    calls: list[int] = []
    handle = learner.generator.register_forward_hook(lambda *_: calls.append(1))
    result = learner.step(x[:12], y[:12], first)
    assert not calls  # no pass of the generator
    assert result.labels is not None
    assert torch.equal(result.labels, kept[0])
    learner.steps += 1
    learner.step(x[12:], y[12:], second)  # not known yet: made now
    assert calls
    handle.remove()
    with pytest.raises(ValueError, match="pass index="):
        learner.step(x[:12], y[:12])


def test_a_generator_may_weight_the_samples() -> None:
    class Weighted(nn.Module):
        def __init__(self, labels: maxl.LabelGenerator) -> None:
            super().__init__()
            self.labels = labels
            self.weight = nn.Linear(3 * 64, 1)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.labels(x, y), torch.sigmoid(self.weight(x.flatten(1))).squeeze(1)

    def auxiliary(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        return maxl.focal_loss(logits, labels, sample_weight=weight)

    torch.set_default_dtype(torch.float64)
    network, generator = pair()
    weighted = Weighted(generator)
    x, y = batch()
    grads = [
        flatten(maxl.hypergradient(network, weighted, x, y, 0.1, m, auxiliary_loss=auxiliary))
        for m in ("forward", "reverse")
    ]
    torch.set_default_dtype(torch.float32)
    assert relative_error(grads[0], grads[1]) < 1e-8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_update(bad: float) -> None:
    learner = make()
    x, y = batch()
    x[0, 0, 0, 0] = bad
    before = [p.clone() for p in learner.network.parameters()]
    with pytest.raises(FloatingPointError, match="training loss needs to be finite"):
        learner.step(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hypergradient": "exact"}, r"\(hypergradient\) needs to be one of"),
        ({"lookahead": "real"}, "lookahead needs to be one of virtual, update; got 'real'"),
        ({"evaluate": "next", "lookahead": "virtual"}, 'pass lookahead="update"'),
        ({"meta_every": 0}, r"\(meta_every\) needs to be at least 1"),
    ],
)
def test_choices_that_do_not_exist_or_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bf16_autocast_stays_close_to_float32() -> None:
    full, low = make(), make(autocast=torch.bfloat16)
    x, y = batch(48)
    a, b = full.step(x, y), low.step(x, y)
    assert float(b.loss) == pytest.approx(float(a.loss), rel=0.02)
    assert a.hypergradient_norm is not None
    assert b.hypergradient_norm is not None
    assert float(b.hypergradient_norm) == pytest.approx(float(a.hypergradient_norm), rel=0.2)
    assert all(p.dtype == torch.float32 for p in low.network.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"lookahead": "update"}, {"lookahead": "update", "evaluate": "next"}]
)
@pytest.mark.parametrize("method", WAYS)
@pytest.mark.usefixtures("float64")
def test_favouring_memory_changes_no_result(method: str, options: dict[str, Any]) -> None:
    quick, small = (make(0.3, hypergradient=method, favour=f, **options) for f in ("time", "memory"))
    quick.generator.eval()
    small.generator.eval()
    for learner in (quick, small):
        torch.manual_seed(3)
        for seed in range(4):
            learner.step(*batch(seed=seed))
    for a, b in ((quick.network, small.network), (quick.generator, small.generator)):
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_a_saved_learner_continues_as_if_it_had_not_stopped() -> None:
    options = {"lookahead": "update", "evaluate": "next", "meta_every": 2, "cache_size": 24}
    one, other = make(0.3, **options), make(0.3, **options)
    index = torch.arange(12)
    torch.manual_seed(3)
    for seed in range(3):
        one.step(*batch(seed=seed), index)
    saved = [
        copy.deepcopy(m.state_dict()) for m in (one.network, one.generator, one.optimizer, one.meta_optimizer)
    ]
    learner_state, random = copy.deepcopy(one.state_dict()), torch.get_rng_state()
    one.step(*batch(seed=9), index)
    for module, state_dict in zip(
        (other.network, other.generator, other.optimizer, other.meta_optimizer), saved, strict=True
    ):
        module.load_state_dict(state_dict)
    other.load_state_dict(learner_state)
    torch.set_rng_state(random)
    other.step(*batch(seed=9), index)
    assert same(snapshot(one.network), snapshot(other.network))
    assert same(snapshot(one.generator), snapshot(other.generator))


@pytest.mark.parametrize("recompute", [False, True])
def test_where_memory_is_favoured_gradients_are_let_go_before_the_step_is_judged(recompute: bool) -> None:
    held: list[bool] = []

    class Judging(maxl.Taken):
        def teach(self, learner: maxl.MetaAuxiliaryLearner, update: Update) -> maxl.StepResult:
            held.append(any(p.grad is not None for p in learner.network.parameters()))
            return super().teach(learner, update)

    make(lookahead=Judging(recompute=recompute)).step(*batch())
    assert held == [not recompute]


class Look(nn.Module):
    """Calls ``look`` with what passes."""

    def __init__(self, look: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: Tensor) -> Tensor:
        self.look(x)
        return x


@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Next()])
def test_kept_layer_outputs_are_let_go_as_the_tangent_pass_uses_them(lookahead: Lookahead) -> None:
    kept: list[weakref.ref[object]] = []
    alive: list[list[bool]] = []
    trunk = nn.Sequential(
        *(nn.Flatten(), nn.Linear(192, 8), Look(lambda x: kept.append(weakref.ref(x.untyped_storage())))),
        *(nn.Tanh(), nn.Linear(8, 16), Look(lambda _: alive.append([ref() is not None for ref in kept]))),
    )
    hierarchy = maxl.Hierarchy(PSI)
    network = maxl.MultiTaskNetwork(trunk, hierarchy, feature_dim=16)
    generator = maxl.LabelGenerator(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 16)), hierarchy, feature_dim=16
    )
    optimizers = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator))
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, lookahead=lookahead, check="never")
    learner.step(*batch())
    if lookahead.waits:
        learner.step(*batch(1))  # whose training pass judges
    # Its own layer's output may live for as long as what it gives; that of training is gone, or of the batch that judges.
    training, *_ = alive[-1]
    assert len(alive) == 3
    assert not training
