"""What the verbs refuse: calls out of order, changes that no hypergradient follows, options that contradict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import maxl
from _networks import PSI, batch, pair, relative_error, same, snapshot
from _verbs import by_verbs, make, weights
from maxl.learning import cosine_gate

CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "value clipping": lambda m: torch.nn.utils.clip_grad_value_(m.parameters(), 1e-4),
    "noise": lambda m: [p.grad.add_(torch.randn_like(p)) for p in m.parameters()],
    "another loss": lambda m: sum(p.square().sum() for p in m.parameters()).backward(),
    "a gradient gone": lambda m: setattr(next(m.parameters()), "grad", None),
    "a sign": lambda m: [p.grad.neg_() for p in m.parameters()],
    "behind autograd's back": lambda m: [p.grad.data.add_(1.0) for p in m.parameters()],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_that_the_hypergradient_cannot_follow_are_refused_before_the_step(
    change: Callable[[nn.Module], object],
) -> None:
    learner = make()
    learner.backward(*batch())
    before = snapshot(learner.network)
    change(learner.network)
    with pytest.raises(ValueError, match="gradients"):
        learner.optimizer.step()
    assert same(before, snapshot(learner.network))


def test_a_hook_that_changes_gradients_is_noticed_or_followed() -> None:
    def halve(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for p in optimizer.param_groups[0]["params"]:
            p.grad.mul_(0.5)

    fused, verbs, plain = make(entropy_weight=0.0), make(entropy_weight=0.0), make(entropy_weight=0.0)
    fused.step(*batch(seed=1))
    verbs.step(*batch(seed=1))
    plain.step(*batch(seed=1))
    for learner in (fused, verbs):
        learner.optimizer.register_step_pre_hook(halve)
    with pytest.raises(ValueError, match="a hook of the optimizer changes the gradients"):
        fused.step(*batch())
    for group in plain.optimizer.param_groups:
        group["lr"] *= 0.5
    by_verbs(verbs, *batch())
    plain.step(*batch())
    assert relative_error(weights(verbs), weights(plain)) < 1e-5


def test_calls_out_of_order_are_refused() -> None:
    learner = make()
    with pytest.raises(ValueError, match=r"call backward and optimizer\.step"):
        learner.meta_step()
    learner.backward(*batch())
    with pytest.raises(ValueError, match=r"no optimizer\.step"):
        learner.meta_step()
    learner.optimizer.step()
    learner.meta_step()
    with pytest.raises(ValueError, match=r"call backward and optimizer\.step"):
        learner.meta_step()
    learner.backward(*batch())
    with pytest.raises(ValueError, match="pass x and y, or neither"):
        learner.meta_step(batch()[0])


def test_a_closure_with_other_gradients_is_refused() -> None:
    learner = make()
    x, y = batch()

    def other() -> None:
        maxl.focal_loss(learner.network(x)[0], y).backward()

    learner.backward(x, y)
    with pytest.raises(ValueError, match="may be multiplied by a factor"):
        learner.optimizer.step(other)


def test_an_optimizer_that_calls_its_closure_again_is_refused() -> None:
    network, _ = pair()
    learner = maxl.MultiTaskLearner(network, torch.optim.LBFGS(network.parameters()))
    learner.backward(*batch())
    with pytest.raises(ValueError, match="got LBFGS, which calls its closure several times"):
        learner.optimizer.step(lambda: 0.0)


def _judge(learner: Any) -> None:
    learner.meta_step()
    learner.backward(*batch(seed=2))


def test_a_batch_written_to_in_place_is_refused() -> None:
    for lookahead in (maxl.Taken(recompute=True), maxl.Next()):
        learner = make(lookahead=lookahead)
        x, y = batch()
        learner.backward(x, y)
        learner.optimizer.step()
        x.add_(1.0)
        with pytest.raises(ValueError, match="written to in place"):
            _judge(learner)


def test_a_meta_step_on_another_batch_is_a_virtual_one_or_refused() -> None:
    x, y = batch()
    learner = make()
    learner.train_step(x, y)
    for other in ((x.clone(), y), (x, (y + 1) % len(PSI))):
        with pytest.raises(ValueError, match="the very x of the training step"):
            learner.meta_step(*other)
    assert learner.meta_step(x, y).outer_loss is not None
    virtual = make(lookahead=maxl.Virtual())
    assert virtual.meta_step(x, y).outer_loss is not None


def test_parts_of_a_batch_need_a_lookahead_that_takes_them() -> None:
    x, y = batch()
    with pytest.raises(ValueError, match="judges by whole batches"):
        make(lookahead=maxl.Next()).backward(x, y, share=0.5)
    virtual = make(lookahead=maxl.Virtual())
    for _ in range(2):
        virtual.backward(x, y, share=0.5)
    virtual.optimizer.step()
    with pytest.raises(ValueError, match="gradients accumulated over several"):
        virtual.meta_step()


def test_a_shared_trunk_is_refused() -> None:
    network, _ = pair()
    generator = maxl.LabelGenerator(network.trunk, maxl.Hierarchy(PSI))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(ValueError, match="would move the network's"):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    for p in network.trunk.parameters():
        p.requires_grad_(False)
    maxl.MetaAuxiliaryLearner(network, generator, *optimizers)  # nothing that moves is shared


def test_a_primary_loss_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="say auxiliary_loss= as well"):
        make(primary_loss=torch.nn.functional.cross_entropy)
    network, _ = pair()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="say auxiliary_loss= as well"):
        maxl.MultiTaskLearner(network, optimizer, primary_loss=torch.nn.functional.cross_entropy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": maxl.Every(2), "meta_every": 2}, "schedule= and meta_every= set the same thing"),
        ({"way": maxl.Reverse(), "hypergradient": "forward"}, "way= and hypergradient= set the same thing"),
        ({"mix": maxl.Gated(cosine_gate), "gate": cosine_gate}, "mix= and gate= set the same thing"),
        (
            {"task": maxl.Classification(), "primary_loss": maxl.focal_loss},
            "task= and primary_loss= set the same thing",
        ),
        ({"lookahead": maxl.Taken(), "favour": "memory"}, "an object that holds its own settings"),
        ({"lookahead": "update", "favour": "speed"}, "favour needs to be one of time, memory"),
    ],
)
def test_an_object_and_a_word_for_one_thing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="no option 'meta_evry'"):
        make(meta_evry=2)


def test_given_labels_are_refused_where_a_generator_gives_them() -> None:
    x, y = batch()
    with pytest.raises(ValueError, match="the generator gives this learner its labels"):
        make().train_step(x, y, torch.zeros(12, dtype=torch.int64))


def test_features_of_another_shape_are_named() -> None:
    hierarchy = maxl.Hierarchy([2, 2])
    network = maxl.MultiTaskNetwork(nn.Conv2d(3, 4, 3), hierarchy, feature_dim=4)
    with pytest.raises(ValueError, match=r"features of shape \(N, 4\); Conv2d gave \(2, 4, 6, 6\)"):
        network(torch.randn(2, 3, 8, 8))
    generator = maxl.LabelGenerator(nn.Linear(3, 5), hierarchy, feature_dim=4)
    with pytest.raises(ValueError, match=r"features of shape \(N, 4\); Linear gave \(2, 5\)"):
        generator(torch.randn(2, 3), torch.tensor([0, 1]))
