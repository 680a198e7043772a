"""A gradient scaler with a learner that trains no generator, and batches in parts with classes as labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import maxl
from maxl.supervision import FixedLabels, UniformLabels

HIERARCHY = maxl.Hierarchy.uniform(3, 2)


def learner(source: object = None) -> maxl.MultiTaskLearner:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), HIERARCHY, feature_dim=8)
    return maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1), source=source)


def batch(step: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    return 30 * torch.randn(16, 6, generator=random), torch.randint(0, 3, (16,), generator=random)


def weights(trained: maxl.MultiTaskLearner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.network.parameters()])


@pytest.mark.parametrize("source", [None, UniformLabels(HIERARCHY)], ids=["single", "uniform"])
@pytest.mark.parametrize("unscaled", [True, False])
def test_training_goes_on_after_a_step_that_a_scaler_has_left_out(source: object, unscaled: bool) -> None:
    """In a loop without zero_grad, as with every learner: gradients of the step left out are not added to."""
    trained, plain = learner(source), learner(source)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127 * 1.9, growth_interval=1000)
    taken = 0
    for step in range(40):
        before = trained.steps
        trained.backward(*batch(step), scaler=scaler)
        if unscaled:
            scaler.unscale_(trained.optimizer)
        scaler.step(trained.optimizer)
        scaler.update()
        if trained.steps > before:
            plain.train_step(*batch(step))
            taken += 1
    assert 30 < taken < 40
    torch.testing.assert_close(weights(trained), weights(plain), rtol=1e-5, atol=1e-6)


def test_gradients_of_another_loss_stay_after_a_step_left_out() -> None:
    trained = learner()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127 * 1.9)
    trained.backward(*batch(0), scaler=scaler)
    scaler.step(trained.optimizer)
    scaler.update(2.0**10)
    assert trained.steps == 0
    trained.optimizer.zero_grad()
    penalty = sum(p.square().sum() for p in trained.network.trunk.parameters())
    scaler.scale(penalty).backward()  # type: ignore[union-attr]
    of_penalty = [p.grad.clone() for p in trained.network.trunk.parameters() if p.grad is not None]
    trained.backward(*batch(1), scaler=scaler)
    other = learner()
    other.backward(*batch(1), scaler=scaler)
    for p, q, expected in zip(
        trained.network.trunk.parameters(), other.network.trunk.parameters(), of_penalty, strict=True
    ):
        torch.testing.assert_close(p.grad, q.grad + expected)


def test_classes_as_labels_come_in_parts() -> None:
    whole, parts = learner(), learner()
    x, y = batch(3)
    labels = 2 * y
    whole.backward(x, y, labels=labels)
    for part in torch.arange(16).split(6):
        parts.backward(x[part], y[part], labels=labels[part], share=len(part) / 16)
    for p, q in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_fewer_targets_or_labels_than_samples_are_refused() -> None:
    x, y = batch(0)
    with pytest.raises(ValueError, match=r"targets need shape \(N,\) .* got \(3,\)"):
        learner().train_step(x, y[:3])
    with pytest.raises(ValueError, match=r"targets need shape \(N,\) .* got \(3,\)"):
        learner().train_step(x, y, 2 * y[:3])
    with pytest.raises(ValueError, match=r"targets need shape \(N,\)"):
        maxl.focal_loss(torch.randn(10, 3), torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (None, "pass index="),
        (torch.arange(16) - 1, "positions need to be from 0 to 29, of the 30 training samples; got -1 to 14"),
        (torch.arange(16) + 15, "got 15 to 30"),
        (torch.arange(3), r"one position for each of the 16 samples, .* got int64 of shape \(3,\)"),
        (torch.arange(30) < 16, "got bool of shape"),
        (torch.arange(16, dtype=torch.uint8), "got uint8 of shape"),
        (torch.arange(16).float(), "got float32 of shape"),
        (list(range(16)), "got list of shape"),
    ],
    ids=["none", "negative", "beyond", "few", "mask", "bytes", "float", "list"],
)
def test_positions_of_other_samples_are_refused(index: object, words: str) -> None:
    x, y = batch(0)
    fixed = learner(FixedLabels(torch.randint(0, 6, (30,))))
    with pytest.raises(ValueError, match=words):
        fixed.step(x, y, index)  # type: ignore[arg-type]
    cached = caching(30)
    with pytest.raises(ValueError, match=words):
        cached.step(x, y, index)  # type: ignore[arg-type]
    cached.step(x, y, torch.arange(16, dtype=torch.int32))


def caching(size: object) -> maxl.MetaAuxiliaryLearner:
    network = learner().network
    generator = maxl.LabelGenerator.sharing(network)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    return maxl.MetaAuxiliaryLearner(network, generator, *optimizers, cache_size=size)


@pytest.mark.parametrize("size", [-1, 2.5, "5", True])
def test_the_size_of_a_cache_is_a_number_of_samples(size: object) -> None:
    with pytest.raises(ValueError, match="cache_size needs to be the number of training samples"):
        caching(size)


def test_kept_labels_of_another_learner_are_refused() -> None:
    x, y = batch(0)
    kept = caching(20)
    kept.step(x, y, torch.arange(16))
    for size, words in ((30, "of 30 samples; got those of 20"), (0, "has kept labels")):
        with pytest.raises(ValueError, match=words):
            caching(size).load_state_dict(kept.state_dict())
    without = caching(0)
    without.step(x, y)
    with pytest.raises(ValueError, match="has no kept labels"):
        caching(20).load_state_dict(without.state_dict())
