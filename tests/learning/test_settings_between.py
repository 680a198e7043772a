"""Settings of losses, results, judging batches and hooks that change between a step and what judges it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import PSI, batch, conv_trunk, flatten, pair, same, snapshot
from maxl.supervision import AuxiliaryLabels, WeightedLabels

pytestmark = pytest.mark.usefixtures("float64")


def make(lookahead: Any = None, **options: Any) -> maxl.MetaAuxiliaryLearner:
    network, generator = pair()
    return maxl.MetaAuxiliaryLearner(
        network,
        options.pop("generator", generator),
        torch.optim.SGD(network.parameters(), lr=0.1),
        torch.optim.SGD(options.pop("of", generator).parameters(), lr=0.5),
        lookahead=lookahead,
        **{"supervision": AuxiliaryLabels(entropy_weight=0.0), **options},
    )


@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Taken(recompute=True), maxl.Next()])
def test_a_step_is_differentiated_with_the_weight_that_it_was_taken_with(lookahead: Any) -> None:
    taught = []
    for annealed in (False, True):
        learner = make(lookahead)
        learner.backward(*batch())
        learner.optimizer.step()
        if annealed:
            learner.supervision.weight = 0.25  # type: ignore[attr-defined]
        learner.meta_step()
        if lookahead.waits:
            learner.backward(*batch(seed=2))
        taught.append(flatten(list(learner.generator.parameters())))
    assert not torch.equal(taught[0], flatten(list(pair()[1].parameters())))
    torch.testing.assert_close(taught[1], taught[0], rtol=1e-12, atol=1e-15)


def weighing() -> Any:
    torch.manual_seed(0)
    generator = maxl.WeightedLabelGenerator(conv_trunk(), maxl.Hierarchy(PSI))
    return make(generator=generator, of=generator, supervision=WeightedLabels(entropy_weight=0.0))


@pytest.mark.parametrize("name", ["labels", "weights"])
def test_results_that_are_written_to_before_the_meta_step_are_refused(name: str) -> None:
    learner = weighing()
    result = learner.backward(*batch())
    learner.optimizer.step()
    getattr(result, name).div_(2)
    before = snapshot(learner.generator)
    with pytest.raises(ValueError, match="the labels and weights in its result need to stay as they are"):
        learner.meta_step()
    assert same(before, snapshot(learner.generator))


@pytest.mark.parametrize("part", [0, 1])
def test_a_judging_batch_that_is_written_to_before_the_meta_step_is_refused(part: int) -> None:
    learner, judge = make(), batch(seed=2)
    learner.backward(*batch(), outer_batch=judge)
    learner.optimizer.step()
    judge[part].add_(1).clamp_(max=len(PSI) - 1)
    with pytest.raises(ValueError, match="the one that judges it"):
        learner.meta_step()


def test_a_judging_batch_may_be_another_one_in_the_end() -> None:
    learner, buffer = make(), batch(seed=2)
    learner.backward(*batch(), outer_batch=buffer)
    learner.optimizer.step()
    buffer[0].zero_()
    learner.meta_step(outer_batch=buffer)  # as it is now


def test_a_gradient_scaler_that_is_switched_off_hides_no_error() -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    learner = make()
    learner.backward(*batch(), scaler=scaler)
    with pytest.raises(ValueError, match=r"got no optimizer.step\(\) since backward"):
        learner.meta_step()
    learner = make()
    learner.backward(*batch(), scaler=scaler)
    scaler.step(learner.optimizer)
    scaler.update()
    assert learner.meta_step().outer_loss is not None


@pytest.mark.parametrize("change", [lambda g: g.clamp_(-1e-3, 1e-3), lambda g: g.mul_(0.5)])
def test_a_hook_of_the_optimizer_that_writes_past_autograd_is_refused(change: Any) -> None:
    learner = make()

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                change(p.grad.data)

    learner.optimizer.register_step_pre_hook(hook)
    with pytest.raises(ValueError, match="a hook of the optimizer changes the gradients within"):
        learner.step(*batch())


class Bounded(nn.Module):
    """Features through which no gradient entry above 1e-3 comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_trunk(), nn.Linear(16, 16)
        self.first.register_full_backward_hook(lambda *_: None)
        self.first[-1].register_full_backward_pre_hook(
            lambda _, out: tuple(g.clamp(-1e-3, 1e-3) for g in out)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x))))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("lookahead", [maxl.Taken(), maxl.Next()])
def test_the_gradient_of_a_network_with_gradient_hooks_is_that_of_its_loss(lookahead: Any) -> None:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(Bounded(), maxl.Hierarchy(PSI), feature_dim=16)
    generator = pair()[1]
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.1),
        torch.optim.SGD(generator.parameters(), lr=1e-12),
        lookahead=lookahead,
    )
    learner.step(*batch())
    alone = copy.deepcopy(network)
    alone.zero_grad()
    x, y = batch(seed=2)
    learner.backward(x, y)
    primary, auxiliary = alone(x)
    (maxl.focal_loss(primary, y) + maxl.focal_loss(auxiliary, generator(x, y).detach())).backward()
    found, expected = ([p.grad for p in of.parameters()] for of in (network, alone))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode])
def test_a_training_step_without_gradients_is_refused(region: Any) -> None:
    learner = make()
    before = snapshot(learner.network)
    with region(), pytest.raises(ValueError, match="a step needs gradients"):
        learner.step(*batch())
    assert same(before, snapshot(learner.network))


def test_a_meta_step_takes_place_without_gradients_around_it_but_not_in_inference_mode() -> None:
    learner = make()
    learner.train_step(*batch())
    with torch.inference_mode(), pytest.raises(ValueError, match=r"within torch.inference_mode\(\)"):
        learner.meta_step()
    learner.train_step(*batch())
    with torch.no_grad():
        assert learner.meta_step().outer_loss is not None


class Clamped(nn.Linear):
    """Keeps its own weights small in its pass."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


def test_layers_that_move_their_own_weights_are_refused_by_a_meta_step() -> None:
    network = maxl.MultiTaskNetwork(
        nn.Sequential(nn.Flatten(), Clamped(192, 16)), maxl.Hierarchy(PSI), feature_dim=16
    )
    with pytest.raises(ValueError, match=r"moves the weight trunk\.1\.weight"):
        maxl.hypergradient(network, pair()[1], *batch(), learning_rate=0.1)


def test_parts_that_name_different_judges_are_refused() -> None:
    learner, (x, y), judge = make(), batch(), batch(seed=2)
    learner.backward(x[:6], y[:6], share=0.5, outer_batch=judge)
    learner.backward(x[6:], y[6:], share=0.5, outer_batch=judge)
    learner.optimizer.step()
    assert learner.meta_step().outer_loss is not None
    learner.backward(x[:6], y[:6], share=0.5, outer_batch=judge)
    with pytest.raises(ValueError, match="one batch judges a step"):
        learner.backward(x[6:], y[6:], share=0.5, outer_batch=batch(seed=3))
