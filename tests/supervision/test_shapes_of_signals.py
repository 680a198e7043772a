"""Weights and labels of another shape than the losses': refused, where PyTorch would broadcast them in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from maxl.supervision import (
    AuxiliaryLabels,
    CorrectedLabels,
    SampleWeights,
    Supervision,
    WeightedLabels,
    WeightGenerator,
)
from maxl.tasks import Classification, Segmentation, WithLoss

pytestmark = pytest.mark.usefixtures("float64")
HIERARCHY = maxl.Hierarchy([2, 3, 1])
COUNT = 8


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh())


class Column(maxl.WeightedLabelGenerator):
    """One that has forgotten to squeeze its weights."""

    def of_features(self, features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.labels(features, y), self.weighting(self.weight_head(features))


class ColumnOfWeights(WeightGenerator):
    """Likewise."""

    def of_features(self, features: Tensor, y: Tensor) -> Tensor:
        return super().of_features(features, y).unsqueeze(1)


def row_by_row(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """A loss of one's own, which broadcasts."""
    return -(weights * (labels * logits.log_softmax(1)).sum(1)).mean()


@pytest.mark.parametrize("shape", [(COUNT, 1), (1, COUNT), (COUNT, COUNT), (1,), ()])
def test_the_focal_loss_takes_one_weight_a_sample(shape: tuple[int, ...]) -> None:
    logits, labels = torch.randn(COUNT, 6), torch.randn(COUNT, 6).softmax(1)
    with pytest.raises(ValueError, match=r"one factor a sample, shape \(8,\); got"):
        maxl.focal_loss(logits, labels, sample_weight=torch.rand(shape))
    with pytest.raises(ValueError, match=r"one factor a sample, shape \(8,\); got"):
        maxl.weighted_focal_loss(logits, labels, torch.rand(shape))


def test_the_focal_loss_takes_one_weight_a_position() -> None:
    logits, classes = torch.randn(4, 4, 6), torch.randint(0, 6, (4, 4))
    with pytest.raises(ValueError, match=r"shape \(4, 4\); got \(4,\)"):
        maxl.focal_loss(logits, classes, sample_weight=torch.rand(4))


@pytest.mark.parametrize(
    ("supervision", "generator"),
    [
        (WeightedLabels(), Column),
        (WeightedLabels(normalise=True), Column),
        (WeightedLabels(row_by_row), Column),
        (AuxiliaryLabels(maxl.weighted_focal_loss), Column),
        (SampleWeights(), ColumnOfWeights),
        (SampleWeights(normalise=True), ColumnOfWeights),
    ],
)
def test_a_generator_that_gives_a_column_of_weights_is_refused(
    supervision: Supervision, generator: type[Any]
) -> None:
    network = maxl.MultiTaskNetwork(trunk(), HIERARCHY, feature_dim=8)
    teacher = generator(trunk(), 3 if generator is ColumnOfWeights else HIERARCHY, feature_dim=8)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, teacher)]
    learner = maxl.MetaAuxiliaryLearner(network, teacher, *optimizers, supervision=supervision)
    with pytest.raises(ValueError, match=r"shape \(8,\); got \(8, 1\)"):
        learner.step(torch.randn(COUNT, 6), torch.randint(0, 3, (COUNT,)))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 12), (24,), (2,), (2, 3, 4, 1)])
def test_a_dense_task_takes_one_weight_a_position_where_it_stands(shape: tuple[int, ...]) -> None:
    task, y = Segmentation(), torch.randint(0, 3, (2, 3, 4))
    outputs = torch.randn(2, 3, 4, 3), torch.randn(2, 3, 4, 6)
    labels, weights = torch.randn(2, 3, 4, 6).softmax(-1), torch.rand(2, 3, 4)
    assert SampleWeights().losses(task, outputs, y, (weights,)).primary.isfinite()
    assert WeightedLabels().losses(task, outputs, y, (labels, weights)).total().isfinite()
    with pytest.raises(ValueError, match=r"one number a position, shape \(2, 3, 4\); got"):
        SampleWeights().losses(task, outputs, y, (torch.rand(shape),))
    with pytest.raises(ValueError, match=r"one number a position, shape \(2, 3, 4\); got"):
        WeightedLabels().losses(task, outputs, y, (labels, torch.rand(shape)))


def test_labels_of_positions_do_not_change_places() -> None:
    outputs, y = torch.randn(2, 3, 4, 3), torch.randint(0, 3, (2, 3, 4))
    one_loss = CorrectedLabels().losses(Segmentation(), (outputs,), y, (y.flip(0),)).primary
    torch.testing.assert_close(one_loss, Segmentation().loss(outputs, y.flip(0)))
    with pytest.raises(ValueError, match=r"got \(2, 4, 3\)"):
        CorrectedLabels().losses(Segmentation(), (outputs,), y, (y.transpose(1, 2),))
    with pytest.raises(ValueError, match=r"labels of positions need .*got \(2, 4, 3\)"):
        AuxiliaryLabels().losses(Segmentation(), (outputs, outputs), y, (y.transpose(1, 2),))


def test_corrected_labels_are_not_broadcast_by_a_loss_of_ones_own() -> None:
    task = WithLoss(Classification(), lambda z, t: -(t * z.log_softmax(1)).sum(1).mean())
    outputs, y = torch.randn(COUNT, 3), torch.randint(0, 3, (COUNT,))
    soft = torch.randn(COUNT, 3).softmax(1)
    assert CorrectedLabels().losses(task, (outputs,), y, (soft,)).primary.isfinite()
    with pytest.raises(ValueError, match=r"shape of the outputs, \(8, 3\).*got \(8, 1\)"):
        CorrectedLabels().losses(task, (outputs,), y, (soft[:, :1],))
