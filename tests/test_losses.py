from __future__ import annotations

import math

import pytest
import torch

import maxl


def test_focal_loss_follows_its_formula() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    p = logits.softmax(1)
    soft = torch.rand(6, 4, dtype=torch.float64)
    expected = -(soft * (1 - p) ** 2 * p.log()).sum(1).mean()
    torch.testing.assert_close(maxl.focal_loss(logits, soft), expected)
    hard = torch.tensor([0, 1, 2, 3, 0, 1])
    one_hot = torch.nn.functional.one_hot(hard, 4).double()
    torch.testing.assert_close(maxl.focal_loss(logits, hard), maxl.focal_loss(logits, one_hot))


def test_focal_loss_at_gamma_zero_is_cross_entropy() -> None:
    logits, hard = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    torch.testing.assert_close(
        maxl.focal_loss(logits, hard, gamma=0), torch.nn.functional.cross_entropy(logits, hard)
    )


@pytest.mark.parametrize("gap", [90.0, 120.0, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_keeps_value_and_gradient_at_large_logits(gap: float, gamma: float) -> None:
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    wrong, right = (
        maxl.focal_loss(logits, torch.tensor([1]), gamma),
        maxl.focal_loss(logits, torch.tensor([0]), gamma),
    )
    assert wrong.item() == pytest.approx(gap)
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    (grad,) = torch.autograd.grad(wrong + right, logits)
    assert torch.isfinite(grad).all()
    assert grad[0, 0].item() == pytest.approx(1.0)


def test_sample_weights_multiply_before_the_mean() -> None:
    logits, hard = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0])
    expected = maxl.focal_loss(logits[1:2], hard[1:2]) * 2 / 4
    torch.testing.assert_close(maxl.focal_loss(logits, hard, sample_weight=weight), expected)


def test_focal_loss_refuses_targets_of_another_shape() -> None:
    with pytest.raises(ValueError, match="targets need shape"):
        maxl.focal_loss(torch.randn(4, 3), torch.rand(4, 2))
    with pytest.raises(ValueError, match="gamma"):
        maxl.focal_loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), gamma=-1)


def test_negative_entropy_has_its_ends_at_uniform_and_collapsed_labels() -> None:
    assert maxl.negative_entropy(torch.full((5, 8), 1 / 8)).item() == pytest.approx(-math.log(8))
    collapsed = torch.zeros(5, 8)
    collapsed[:, 3] = 1
    assert maxl.negative_entropy(collapsed).item() == pytest.approx(0.0)
    balanced = torch.eye(8)
    assert maxl.negative_entropy(balanced).item() == pytest.approx(-math.log(8))


def test_negative_entropy_has_a_finite_gradient_at_a_class_that_no_sample_may_use() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    mask = torch.tensor([True, True, False, False]).expand(3, 4)
    maxl.negative_entropy(maxl.masked_softmax(logits, mask)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[:, :2].abs().sum() > 0
