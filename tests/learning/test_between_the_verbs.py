"""What happens to weights, gradients and copies between ``backward``, the optimizer's step and the meta step."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import batch, flatten, pair, relative_error

pytestmark = pytest.mark.usefixtures("float64")


def make(lookahead: Any = None, **options: Any) -> maxl.MetaAuxiliaryLearner:
    network, generator = pair()
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        lookahead=lookahead,
        **options,
    )


def step_again(learner: Any) -> None:
    learner.optimizer.step()


@torch.no_grad()
def clamp(learner: Any) -> None:
    for p in learner.network.parameters():
        p.clamp_(-0.1, 0.1)


def load(learner: Any) -> None:
    learner.network.load_state_dict(copy.deepcopy(learner.network.state_dict()))


def set_data(learner: Any) -> None:
    p = next(learner.network.parameters())
    p.data = p.data.clone()


MOVES = {f.__name__: f for f in (step_again, clamp, load, set_data)}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Taken(recompute=True), maxl.Next()])
def test_weights_moved_after_the_step_that_is_followed_are_refused(
    lookahead: Any, move: Callable[[Any], None]
) -> None:
    learner = make(lookahead)
    learner.train_step(*batch())
    move(learner)
    with pytest.raises(
        ValueError, match=r"need to stay as they are between the optimizer's step and what judges"
    ):
        (learner.meta_step if not lookahead.waits else lambda: learner.step(*batch(seed=1)))()


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_virtual_step_starts_from_wherever_the_weights_are(move: Callable[[Any], None]) -> None:
    learner = make(maxl.Virtual())
    learner.train_step(*batch())
    move(learner)
    assert learner.meta_step().outer_loss is not None


@pytest.mark.parametrize("move", [clamp, load, set_data])
def test_weights_moved_between_backward_and_the_step_are_refused(move: Callable[[Any], None]) -> None:
    learner = make()
    learner.backward(*batch())
    move(learner)
    with pytest.raises(ValueError, match=r"between learner\.backward and the optimizer's step"):
        learner.optimizer.step()


@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Next()])
def test_what_is_trained_may_not_be_frozen_before_the_step_is_judged(lookahead: Any) -> None:
    learner = make(lookahead)
    learner.train_step(*batch())
    next(learner.network.parameters()).requires_grad_(False)
    with pytest.raises(ValueError, match=r"was frozen.*learner\.take_update\(\)"):
        (learner.meta_step if not lookahead.waits else lambda: learner.step(*batch(seed=1)))()


@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Next()])
def test_weights_unfrozen_before_the_step_is_judged_were_not_stepped(lookahead: Any) -> None:
    results = []
    for unfrozen in (False, True):
        learner = make(lookahead)
        first = next(learner.network.parameters())
        first.requires_grad_(False)
        learner.train_step(*batch())
        first.requires_grad_(unfrozen)
        if lookahead.waits:
            learner.backward(*batch(seed=1))
        else:
            learner.meta_step()
        results.append(flatten(list(learner.generator.parameters())))
    assert relative_error(*results) < 1e-12


# Steps that are another one than the rule says


def project(learner: Any) -> None:
    learner.optimizer.register_step_post_hook(lambda *_: clamp(learner))


def shrink(learner: Any) -> None:
    def hook(*_: Any) -> None:
        for p in learner.network.parameters():
            p.grad = None if p.grad is None else p.grad.sign()

    learner.optimizer.register_step_pre_hook(hook)


def clamp_data(learner: Any) -> None:
    for p in learner.network.parameters():
        p.data.clamp_(-0.1, 0.1)


@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Taken(recompute=True), maxl.Next()])
@pytest.mark.parametrize("change", [project, shrink, clamp_data])
def test_a_step_that_is_not_the_optimizers_is_refused(change: Callable[[Any], None], lookahead: Any) -> None:
    learner = make(lookahead)
    learner.backward(*batch())
    if change is not clamp_data:
        change(learner)
    learner.optimizer.step()
    if change is clamp_data:
        change(learner)
    with pytest.raises(
        ValueError, match=r"the step that its gradients and settings say|need to stay as they are"
    ):
        (learner.meta_step if not lookahead.waits else lambda: learner.step(*batch(seed=1)))()


@pytest.mark.parametrize("fused", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fused_optimizer_needs_its_gradients_unscaled_first(fused: Any) -> None:
    for unscaled in (True, False):
        network, generator = pair()
        network, generator = network.float(), generator.float()
        optimizer = fused(network.parameters(), lr=0.1, fused=True)
        learner = maxl.MetaAuxiliaryLearner(
            network, generator, optimizer, torch.optim.SGD(generator.parameters(), lr=0.1)
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        x, y = batch()
        learner.backward(x.float(), y, scaler=scaler)
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        if unscaled:
            learner.meta_step()
        elif fused is torch.optim.SGD:  # Adam's first step hardly depends on a scale
            with pytest.raises(ValueError, match=r"call scaler\.unscale_\(optimizer\)"):
                learner.meta_step()


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Next(), maxl.Virtual()])
def test_a_batch_that_is_left_out_is_forgotten(lookahead: Any, to_none: bool) -> None:
    learners = [make(copy.deepcopy(lookahead)) for _ in range(2)]
    learners[0].backward(*batch(seed=7))
    learners[0].optimizer.zero_grad(set_to_none=to_none)
    for learner in learners:
        for seed in range(2):
            learner.backward(*batch(seed=seed))
            learner.optimizer.step()
            learner.meta_step()
    ours, theirs = (flatten([*each.network.parameters(), *each.generator.parameters()]) for each in learners)
    # BatchNorm's running statistics have seen the batch; weights have not.
    assert relative_error(ours, theirs) < 1e-12


def test_gradients_changed_between_parts_are_refused() -> None:
    learner = make()
    learner.backward(*batch(), share=0.5)
    nn.utils.clip_grad_norm_(learner.network.parameters(), 0.01)
    with pytest.raises(ValueError, match="between parts of a batch"):
        learner.backward(*batch(seed=1), share=0.5)


@pytest.mark.parametrize("named", [False, True])
def test_an_outer_batch_named_to_backward_judges(named: bool) -> None:
    x, y = batch()
    results = []
    for way in (False, True):
        learner = make()
        learner.backward(x, y, outer_batch=batch(seed=3))
        learner.optimizer.step()
        learner.meta_step(*((x, y) if way and named else ()))
        results.append(flatten(list(learner.generator.parameters())))
    assert torch.equal(*results)


def test_a_hypergradient_that_is_not_finite_is_refused() -> None:
    class Root(nn.Module):
        feature_dim = 8

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8, bias=False), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return torch.tanh(self.last(h + h.pow(2).sum(1, keepdim=True).clamp_min(0).sqrt()))

    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network, generator = maxl.MultiTaskNetwork(Root(), hierarchy), maxl.LabelGenerator(Root(), hierarchy)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    x = torch.randn(5, 6)
    x[2] = 0
    with pytest.raises(FloatingPointError):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers).step(x, torch.randint(0, 3, (5,)))


@pytest.mark.parametrize("verbs", [False, True])
@pytest.mark.parametrize("lookahead", [None, maxl.Taken(), maxl.Taken(recompute=True), maxl.Virtual()])
def test_a_weight_frozen_between_steps_stays_as_it_is(lookahead: Any, verbs: bool) -> None:
    """Its last gradient may not be stepped again."""
    learner: Any = make(lookahead)
    if lookahead is None:
        learner = maxl.MultiTaskLearner(learner.network, learner.optimizer)
    first = next(learner.network.parameters())
    for seed in range(4):
        if seed == 2:
            first.requires_grad_(False)
            frozen = first.detach().clone()
        if verbs:
            learner.backward(*batch(seed=seed))
            learner.optimizer.step()
            if lookahead is not None:
                learner.meta_step()
        else:
            learner.step(*batch(seed=seed))
    assert torch.equal(first, frozen)
    first.requires_grad_(True)
    learner.step(*batch(seed=4))
    assert not torch.equal(first, frozen)


def test_a_step_that_is_let_go_stays_unjudged() -> None:
    learner = make(maxl.Next())
    learner.step(*batch())
    clamp(learner)
    learner.take_update()
    assert learner.step(*batch(seed=1)).outer_loss is None
    assert learner.step(*batch(seed=2)).outer_loss is not None


def test_weights_that_an_embedding_renormalises_in_its_own_pass_are_followed() -> None:
    class Trunk(nn.Module):
        feature_dim = 8

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.last = nn.Embedding(7, 4, max_norm=1.0), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.last(self.embedding(x).mean(1)))

    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network, generator = maxl.MultiTaskNetwork(Trunk(), hierarchy), maxl.LabelGenerator(Trunk(), hierarchy)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    for _ in range(3):
        learner.step(torch.randint(0, 7, (5, 3)), torch.randint(0, 3, (5,)))


# Gradients


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "reversed": lambda g: g.flip(0),
    "shuffled": lambda g: g.flatten()[torch.randperm(g.numel())].view_as(g),
    "sign": torch.sign,
    "noise": lambda g: g + 1e-3 * torch.randn_like(g),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_gradients_that_were_not_multiplied_by_a_number_are_refused(
    change: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    learner = make()
    learner.backward(*batch())
    for p in learner.network.parameters():
        if p.grad is not None:
            p.grad = change(p.grad)
    with pytest.raises(ValueError, match="may be multiplied by a factor"):
        learner.optimizer.step()


@pytest.mark.parametrize("precise", ["first", "last"])
def test_clipping_is_followed_where_precisions_are_mixed(precise: str) -> None:
    class Mixed(nn.Module):
        feature_dim = 8

        def __init__(self) -> None:
            super().__init__()
            kinds = (torch.float64, torch.float32)
            self.first, self.last = (
                nn.Linear(6, 8, dtype=kind) for kind in (kinds if precise == "first" else kinds[::-1])
            )
            self.last = nn.Linear(8, 8, dtype=self.last.weight.dtype)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.first(x.to(self.first.weight.dtype)))
            return torch.tanh(self.last(h.to(self.last.weight.dtype))).double()

    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(Mixed(), hierarchy)
    generator = maxl.LabelGenerator(Mixed(), hierarchy)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    for seed in range(5):
        torch.manual_seed(seed)
        learner.backward(torch.randn(6, 6), torch.randint(0, 3, (6,)))
        nn.utils.clip_grad_norm_(network.parameters(), 0.01)
        learner.optimizer.step()
        learner.meta_step()


# Who holds what


def test_a_meta_optimizer_needs_all_of_the_generator_and_nothing_of_the_network() -> None:
    network, generator = pair()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    some = list(generator.parameters())[1:]
    with pytest.raises(
        ValueError, match=r"hold every trainable weight of the generator; 1 of \d+ are missing"
    ):
        maxl.MetaAuxiliaryLearner(network, generator, optimizer, torch.optim.SGD(some, lr=0.1))
    both = torch.optim.SGD([*generator.parameters(), *network.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="hold the generator's weights alone"):
        maxl.MetaAuxiliaryLearner(network, generator, optimizer, both)
    meta_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
    generator.requires_grad_(False)
    with pytest.raises(ValueError, match=r"needs trainable weights.*maxl\.MultiTaskLearner"):
        maxl.MetaAuxiliaryLearner(network, generator, optimizer, meta_optimizer)


def test_a_generator_that_is_frozen_for_a_while_stays_as_it_is() -> None:
    learner = make()
    learner.generator.requires_grad_(False)
    before = flatten(list(learner.generator.parameters()))
    learner.step(*batch())
    assert torch.equal(before, flatten(list(learner.generator.parameters())))
    learner.generator.requires_grad_(True)
    learner.step(*batch())
    assert not torch.equal(before, flatten(list(learner.generator.parameters())))


# Copies


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda learner: pickle.loads(pickle.dumps(learner)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Next(), maxl.Virtual()])
def test_a_copy_goes_on_as_the_learner_does(lookahead: Any, copied: Callable[[Any], Any]) -> None:
    learner = make(lookahead)
    learner.step(*batch())
    learner.train_step(*batch(seed=1))
    other = copied(learner)
    for each in (learner, other):
        each.meta_step()
        each.step(*batch(seed=2))
    ours, theirs = (
        flatten([*each.network.parameters(), *each.generator.parameters()]) for each in (learner, other)
    )
    assert relative_error(theirs, ours) < 1e-12
