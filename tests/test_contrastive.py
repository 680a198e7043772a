"""The contrastive loss within classes: its formula, what it looks at, and that it can be differentiated everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maxl.losses import contrastive_loss


def samples(n: int = 9, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    features = torch.randn(n, width, generator=random, dtype=torch.float64)
    return features, torch.arange(n) % 4, torch.arange(n) % 2


def by_hand(features: Tensor, labels: Tensor, classes: Tensor, temperature: float) -> float:
    """Khosla et al. 2020, equation 2, sample by sample, with the others of a sample's class for A(i)."""
    z = features / features.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and classes[j] == classes[i]]
        positive = [j for j in others if labels[j] == labels[i]]
        if not positive:
            continue
        total = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in others)
        terms.append(
            -sum(math.log(math.exp(float(z[i] @ z[j]) / temperature) / total) for j in positive)
            / len(positive)
        )
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_with_hard_labels_it_is_the_published_loss_within_classes(temperature: float) -> None:
    features, labels, classes = samples()
    expected = by_hand(features, labels, classes, temperature)
    assert float(contrastive_loss(features, labels, classes, temperature)) == pytest.approx(
        expected, rel=1e-12
    )
    soft = torch.nn.functional.one_hot(labels).double()
    assert float(contrastive_loss(features, soft, classes, temperature)) == pytest.approx(expected, rel=1e-12)
    scale = torch.rand(9, 1, dtype=torch.float64) + 0.5
    assert float(contrastive_loss(scale * features, labels, classes, temperature)) == pytest.approx(expected)


def test_labels_that_agree_half_count_half() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    e = math.e
    first = -(2 / 3 * math.log(1 / (1 + 1 / e)) + 1 / 3 * math.log((1 / e) / (1 + 1 / e)))
    second = -math.log(1 / 2)  # both others lie alike, whatever agrees
    third = -(1 / 2 * math.log((1 / e) / (1 / e + 1)) + 1 / 2 * math.log(1 / (1 / e + 1)))
    found = contrastive_loss(z, labels, torch.zeros(3, dtype=torch.int64), 1.0)
    assert float(found) == pytest.approx((first + second + third) / 3, rel=1e-12)


def test_samples_of_other_classes_are_not_looked_at() -> None:
    features, labels, classes = samples()
    features.requires_grad_()
    own = contrastive_loss(features[classes == 0], labels[classes == 0], classes[classes == 0])
    alone = torch.full((9,), 7).where(classes == 1, classes)  # one class more, of the odd ones
    moved = features * torch.where(classes == 1, -3.0, 1.0).unsqueeze(1)
    same = labels.where(classes == 0, torch.arange(9) + 10)  # of which no two agree
    torch.testing.assert_close(contrastive_loss(moved, same, alone), own)
    (slope,) = torch.autograd.grad(contrastive_loss(features, same, classes), features)
    assert (slope[classes == 1] == 0).all()
    assert (slope[classes == 0] != 0).any()


def test_agreeing_samples_come_together_and_others_part() -> None:
    features, _, _ = samples(8)
    labels, classes = torch.arange(8) // 2 % 2, torch.arange(8) // 4
    features.requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        contrastive_loss(features, labels, classes, 0.5).backward()
        optimizer.step()
    z = torch.nn.functional.normalize(features.detach(), dim=1)
    similar = z @ z.T
    assert all(similar[i, i + 1] > 0.99 for i in (0, 2, 4, 6))
    assert similar[0, 2] < -0.9
    assert similar[4, 6] < -0.9


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (torch.arange(3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, dtype=torch.int64), torch.arange(3)),
        (torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)),
    ],
    ids=["no labels agree", "each alone in its class", "no soft labels agree"],
)
def test_where_nothing_agrees_there_is_nothing_to_pull(labels: Tensor, classes: Tensor) -> None:
    features = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(features, labels, classes)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_its_derivative_is_that_of_finite_differences_and_finite_at_nothing() -> None:
    features, labels, classes = samples()
    soft = torch.rand(9, 4, dtype=torch.float64).softmax(1)
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda h: contrastive_loss(h, soft, classes, 0.5), features)
    zero = torch.zeros(9, 4, requires_grad=True)
    contrastive_loss(zero, labels, classes).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize(
    ("features", "labels", "classes", "temperature", "message"),
    [
        (torch.ones(3, 2, 2), torch.zeros(3), torch.zeros(3), 0.1, r"features need shape \(N, D\)"),
        (torch.ones(3, 2), torch.zeros(2), torch.zeros(3), 0.1, r"got \(3, 2\), \(2,\) and \(3,\)"),
        (torch.ones(3, 2), torch.zeros(3), torch.zeros(3, 1), 0.1, r"a class for each of N samples"),
        (torch.ones(3, 2), torch.zeros(3), torch.zeros(3), 0.0, "temperature needs to be above 0; got 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    features: Tensor, labels: Tensor, classes: Tensor, temperature: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(features, labels, classes, temperature)
