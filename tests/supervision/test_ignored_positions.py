"""Positions that a dense task ignores: whatever stands there changes nothing, and no statistic counts them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import maxl
from maxl.supervision import (
    AuxiliaryLabels,
    CorrectedLabels,
    GeneralizedCrossEntropy,
    SampleWeights,
    SmallLosses,
    Supervision,
    WeightedLabels,
)

pytestmark = pytest.mark.usefixtures("float64")
IGNORED, CLASSES, AUXILIARY = 255, 3, 6
TASK = maxl.Segmentation(ignore_index=IGNORED, gamma=0.0)
SHAPE = (2, 4, 5)


@pytest.fixture(params=[0.0, 0.4, 0.9, 1.0], ids=lambda share: f"{share} ignored")
def y(request: pytest.FixtureRequest) -> Tensor:
    classes = torch.randint(0, CLASSES, SHAPE)
    classes.flatten()[torch.randperm(40)[: round(40 * request.param)]] = IGNORED
    return classes


def outputs() -> tuple[Tensor, Tensor]:
    return torch.randn(*SHAPE, CLASSES), torch.randn(*SHAPE, AUXILIARY)


def counted(y: Tensor) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in at) for at in (y != IGNORED).nonzero()]


def cross_entropy(z: Tensor, label: int | Tensor) -> Tensor:
    """Of one position."""
    log_p = z - z.exp().sum().log()
    return -log_p[label] if isinstance(label, int) else -(label * log_p).sum()


def moved_to(weights: list[Tensor], effective: float | None) -> list[Tensor]:
    """Weights over their mean, moved towards it until the sample size suffices; a loop over those that count."""
    mean = sum(weights) / len(weights)
    weights = [w / mean for w in weights]
    size = float((sum(weights) ** 2 / sum(w * w for w in weights) / len(weights)).detach())
    if effective is None or size >= effective:
        return weights
    variance = sum((w - 1) ** 2 for w in weights) / len(weights)
    s = ((1 / effective - 1) / variance).sqrt()
    return [1 + s * (w - 1) for w in weights]


@pytest.mark.parametrize("effective", [None, 0.3, 0.95])
def test_weights_are_divided_by_the_mean_of_those_that_count(y: Tensor, effective: float | None) -> None:
    (z, _), places = outputs(), counted(y)
    weights = torch.rand(SHAPE).add(0.01).requires_grad_()
    loss = SampleWeights(normalise=True, effective=effective).losses(TASK, (z,), y, (weights,)).primary
    expected = (weights * 0).sum()
    if places:
        moved = moved_to([weights[at] for at in places], effective)
        expected = sum(w * cross_entropy(z[at], int(y[at])) for w, at in zip(moved, places, strict=True)) / 40
    torch.testing.assert_close(loss, expected)
    of_loss, of_expected = (torch.autograd.grad(value, weights)[0] for value in (loss, expected))
    torch.testing.assert_close(of_loss, of_expected)
    assert not of_loss[y == IGNORED].any()


@pytest.mark.parametrize("normalise", [True, False])
def test_weights_of_labels_are_divided_by_the_mean_of_those_that_count(y: Tensor, normalise: bool) -> None:
    (z, a), places = outputs(), counted(y)
    labels, weights = torch.randn(*SHAPE, AUXILIARY).softmax(-1), torch.rand(SHAPE).requires_grad_()
    supervision = WeightedLabels(
        lambda logits, t, w: -(w * (t * logits.log_softmax(1)).sum(1)).mean(), normalise=normalise
    )
    loss = supervision.losses(TASK, (z, a), y, (labels, weights)).auxiliary
    assert loss is not None
    expected = (weights * 0).sum()
    if places:
        own = [weights[at] for at in places]
        each = moved_to(own, None) if normalise else own
        expected = sum(w * cross_entropy(a[at], labels[at]) for w, at in zip(each, places, strict=True)) / 40
    torch.testing.assert_close(loss, expected)
    of_loss, of_expected = (torch.autograd.grad(value, weights)[0] for value in (loss, expected))
    torch.testing.assert_close(of_loss, of_expected)


@pytest.mark.parametrize("class_weights", [None, (1.0, 0.2, 9.0)])
@pytest.mark.parametrize("keep", [0.01, 0.3, 0.7, 1.0])
def test_the_smallest_losses_are_among_those_that_count(
    y: Tensor, keep: float, class_weights: tuple[float, ...] | None
) -> None:
    (z, _), places = outputs(), counted(y)
    z.requires_grad_()
    task = maxl.Segmentation(IGNORED, 0.0, class_weights)
    loss = SmallLosses(keep).losses(task, (z,), y, ()).primary
    each = sorted(
        ((cross_entropy(z[at], int(y[at])), int(y[at])) for at in places), key=lambda e: float(e[0].detach())
    )
    kept = each[: max(1, round(keep * len(each)))]
    mean = sum((class_weights or (1,) * 3)[c] * e for e, c in kept) / len(kept) if kept else (z * 0).sum()
    expected = mean * len(places) / 40
    torch.testing.assert_close(loss, expected)
    of_loss, of_expected = (torch.autograd.grad(value, z)[0] for value in (loss, expected))
    torch.testing.assert_close(of_loss, of_expected)
    if keep == 1:
        torch.testing.assert_close(loss, task.loss(z, y))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("class_weights", [None, (1.0, 0.2, 9.0)])
@pytest.mark.parametrize("q", [1e-9, 0.7])
def test_generalized_cross_entropy_of_positions_has_the_options_of_its_task(
    y: Tensor, q: float, class_weights: tuple[float, ...] | None, smoothing: float
) -> None:
    z, _ = outputs()
    task = maxl.Segmentation(IGNORED, 0.0, class_weights, smoothing)
    found = GeneralizedCrossEntropy(q).losses(task, (z,), y, ()).primary
    expected = torch.zeros(())
    for at in counted(y):
        of_classes = (1 - z[at].softmax(0) ** q) / q if q > 1e-6 else -z[at].log_softmax(0)
        own = (1 - smoothing) * of_classes[y[at]] + smoothing * of_classes.mean()
        expected += (class_weights or (1.0,) * 3)[int(y[at])] * own / 40
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    rows = GeneralizedCrossEntropy(q).losses(task, (z.flatten(0, 2),), y.flatten(), ()).primary
    torch.testing.assert_close(rows, found)
    if q < 1e-6:  # cross-entropy, as the task has it
        torch.testing.assert_close(found, task.loss(z, y), rtol=1e-6, atol=1e-9)


def hard(supervision: Supervision) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(z: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        return supervision.losses(TASK, (z, z), y, (labels,)).total()

    return loss


LABELLED = {"auxiliary": hard(AuxiliaryLabels(F.cross_entropy)), "corrected": hard(CorrectedLabels())}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("value", [IGNORED, CLASSES, -1, -100])
def test_classes_out_of_range_are_refused_where_they_count_alone(name: str, value: int) -> None:
    z, y = torch.randn(*SHAPE, CLASSES), torch.randint(0, CLASSES, SHAPE)
    y[1, 2, 3], labels = IGNORED, torch.randint(0, CLASSES, SHAPE)
    plain = LABELLED[name](z, y, labels)
    labels[1, 2, 3] = value
    torch.testing.assert_close(LABELLED[name](z, y, labels), plain)
    labels[0, 1, 2] = value
    with pytest.raises(
        ValueError, match=rf"classes in \[0, 3\) wherever the target counts; got {value}: ignore"
    ):
        LABELLED[name](z, y, labels)


def test_a_table_of_labels_with_a_class_too_many_is_refused_in_a_step() -> None:
    hierarchy = maxl.Hierarchy.uniform(CLASSES, 2)
    trunk = torch.nn.Conv2d(2, 5, 1)
    network = maxl.MultiTaskNetwork(trunk, hierarchy, feature_dim=5, task=TASK)
    y = torch.randint(0, CLASSES, (2, 2, 2))
    table = 2 * y
    table[0, 0, 0] = AUXILIARY
    learner = maxl.MultiTaskLearner(
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        source=maxl.supervision.FixedLabels(table),
    )
    with pytest.raises(ValueError, match=r"classes in \[0, 6\) wherever the target counts; got 6"):
        learner.step(torch.randn(2, 2, 2, 2), y, torch.arange(2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_signals_of_ignored_positions_may_be_anything(bad: float) -> None:
    (z, a), y = outputs(), torch.randint(0, CLASSES, SHAPE)
    y[0, 1] = IGNORED
    labels, weights = torch.randn(*SHAPE, AUXILIARY).softmax(-1), torch.rand(SHAPE)
    other_labels, other_weights = labels.clone(), weights.clone()
    other_labels[0, 1], other_weights[0, 1] = bad, bad
    for supervision in (SampleWeights(), SampleWeights(normalise=True, effective=0.9)):
        one, two = (supervision.losses(TASK, (z,), y, (w,)).total() for w in (weights, other_weights))
        assert torch.equal(one, two)
    for normalise in (False, True):
        one, two = (
            WeightedLabels(normalise=normalise).losses(TASK, (z, a), y, signals).total()
            for signals in ((labels, weights), (other_labels, other_weights))
        )
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    "supervision",
    [SmallLosses(0.5), SampleWeights(normalise=True), GeneralizedCrossEntropy()],
    ids=lambda s: type(s).__name__,
)
def test_padding_scales_a_loss_as_it_scales_the_tasks_own(supervision: Supervision) -> None:
    z, y = torch.randn(*SHAPE, CLASSES), torch.randint(0, CLASSES, SHAPE)
    weights = torch.rand(SHAPE)
    padded = F.pad(z, (0, 0, 0, 3), value=50.0), F.pad(y, (0, 3), value=IGNORED)
    of_padding = F.pad(weights, (0, 3), value=50.0)
    losses = [
        supervision.losses(TASK, (o,), t, (w,) if supervision.signals else ()).primary
        for o, t, w in ((z, y, weights), (*padded, of_padding))
    ]
    torch.testing.assert_close(losses[1], losses[0] * 5 / 8)


def test_soft_targets_of_all_zeros_are_ignored_as_classes_are() -> None:
    z, y = torch.randn(*SHAPE, CLASSES), torch.randint(0, CLASSES, SHAPE)
    y[:, :2] = IGNORED
    soft = F.one_hot(y.where(y != IGNORED, 0), CLASSES).double() * (y != IGNORED).unsqueeze(-1)
    weights = torch.rand(SHAPE)
    for supervision, signals in ((SmallLosses(0.5), ()), (SampleWeights(normalise=True), (weights,))):
        one, two = (supervision.losses(TASK, (z,), targets, signals).primary for targets in (y, soft))
        torch.testing.assert_close(one, two)
