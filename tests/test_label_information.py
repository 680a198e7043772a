"""The information of labels: zero where they say nothing, log ψ where they are sharp and balanced."""

from __future__ import annotations

import math

import pytest
import torch

from maxl.hierarchy import Hierarchy
from maxl.losses import label_information
from maxl.supervision import UniformLabels

PSI = Hierarchy([4, 4])
Y = torch.arange(2).repeat(8)
OWN = torch.arange(16) // 2 % 4 + 4 * Y  # each class's samples share its block evenly


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 8).double()


def test_uniform_labels_carry_none() -> None:
    assert float(
        label_information(UniformLabels(PSI).constant(Y, Y, None)[0].double(), Y, PSI)
    ) == pytest.approx(0, abs=1e-12)


def test_collapsed_labels_carry_none() -> None:
    assert float(label_information(one_hot(4 * Y + 1), Y, PSI)) == pytest.approx(0, abs=1e-12)


def test_sharp_and_balanced_labels_carry_log_psi() -> None:
    assert float(label_information(one_hot(OWN), Y, PSI)) == pytest.approx(math.log(4))


def test_by_hand() -> None:
    """Class 0: labels (1, 0) and (1/2, 1/2), mean (3/4, 1/4); class 1: one sample, which tells nothing."""
    hierarchy = Hierarchy([2, 2])
    labels = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.9, 0.1]], dtype=torch.float64)
    of_mean = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = 2 / 3 * (of_mean - math.log(2) / 2)
    assert float(label_information(labels, torch.tensor([0, 0, 1]), hierarchy)) == pytest.approx(expected)


def test_a_flat_hierarchy_takes_any_targets() -> None:
    labels = torch.eye(4, dtype=torch.float64)
    value = label_information(labels, torch.randn(4), Hierarchy.flat(4))
    assert float(value) == pytest.approx(math.log(4))


def test_gradients_are_finite_where_the_mask_gives_zeros_and_point_to_more_information() -> None:
    logits = torch.randn(16, 8, dtype=torch.float64).masked_fill(~PSI.mask[Y], float("-inf"))
    logits.requires_grad_()
    before = label_information(logits.softmax(1), Y, PSI)
    (gradient,) = torch.autograd.grad(before, logits)
    assert gradient.isfinite().all()
    assert not gradient[~PSI.mask[Y]].any()
    after = label_information((logits + gradient.masked_fill(~PSI.mask[Y], 0)).softmax(1), Y, PSI)
    assert after > before


def test_the_gradient_is_that_of_central_differences() -> None:
    labels = torch.rand(6, 4, dtype=torch.float64) + 0.1
    y, hierarchy = torch.tensor([0, 0, 1, 1, 1, 0]), Hierarchy([2, 2])
    assert torch.autograd.gradcheck(lambda t: label_information(t, y, hierarchy), labels.requires_grad_())
