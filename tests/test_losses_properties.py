"""What holds for the losses whatever the logits, labels and exponents."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import maxl
from maxl.losses import focal_losses, label_information

sizes = st.tuples(st.integers(1, 5), st.integers(1, 6))
gammas = st.one_of(st.just(0.0), st.floats(0, 5))


def numbers(data: st.DataObject, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Float64, so that a formula in plain steps is exact enough to compare with."""
    count = math.prod(shape)
    drawn = data.draw(st.lists(st.floats(low, high), min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.float64).reshape(shape)


def distributions(data: st.DataObject, shape: tuple[int, int]) -> Tensor:
    """Rows that sum to one, some of them with zeros."""
    weights = numbers(data, shape, 0, 1)
    weights[:, 0] += (weights.sum(1) == 0).double()
    return weights / weights.sum(1, keepdim=True)


@given(st.data(), sizes, gammas)
def test_focal_loss_is_its_formula_for_hard_and_soft_labels(
    data: st.DataObject, size: tuple[int, int], gamma: float
) -> None:
    logits, soft = numbers(data, size, -8, 8), distributions(data, size)
    weight = numbers(data, size[:1], 0, 3)
    e = logits.exp()
    p = e / e.sum(1, keepdim=True)
    per_class = (1 - p) ** gamma * -torch.log(p)  # 0 ** 0 is 1
    if gamma > 0:
        per_class = torch.where(p == 1, 0.0, per_class)
    expected = (soft * per_class).sum(1)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(focal_losses(logits, soft, gamma), expected, **close)
    torch.testing.assert_close(maxl.focal_loss(logits, soft, gamma), expected.mean(), **close)
    torch.testing.assert_close(
        maxl.focal_loss(logits, soft, gamma, weight), (weight * expected).mean(), **close
    )
    hard = logits.roll(1, 1).argmax(1)
    torch.testing.assert_close(
        focal_losses(logits, hard, gamma), per_class.gather(1, hard.unsqueeze(1)).squeeze(1), **close
    )


@given(st.data(), sizes)
def test_focal_loss_at_gamma_zero_is_cross_entropy(data: st.DataObject, size: tuple[int, int]) -> None:
    logits, soft = numbers(data, size, -300, 300), distributions(data, size)
    for targets in (soft, soft.argmax(1)):
        torch.testing.assert_close(
            maxl.focal_loss(logits, targets, 0), torch.nn.functional.cross_entropy(logits, targets)
        )


@given(st.data(), sizes, gammas, st.sampled_from([torch.float32, torch.float64]))
def test_focal_loss_and_its_gradient_stay_finite_and_not_negative_at_extreme_logits(
    data: st.DataObject, size: tuple[int, int], gamma: float, dtype: torch.dtype
) -> None:
    logits = numbers(data, size, -1e30, 1e30).to(dtype).requires_grad_()
    hard = numbers(data, size, 0, 1).argmax(1)
    for targets in (hard, distributions(data, size).to(dtype)):
        loss = maxl.focal_loss(logits, targets, gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert loss >= 0
        assert gradient.isfinite().all()


@given(st.data(), sizes, st.floats(0, 4), st.floats(0, 4))
def test_a_larger_gamma_never_makes_the_loss_larger(
    data: st.DataObject, size: tuple[int, int], one: float, other: float
) -> None:
    logits, soft = numbers(data, size, -20, 20), distributions(data, size)
    small, large = sorted((one, other))
    assert maxl.focal_loss(logits, soft, large) <= maxl.focal_loss(logits, soft, small) + 1e-12


@given(st.data(), sizes)
def test_negative_entropy_lies_between_its_ends(data: st.DataObject, size: tuple[int, int]) -> None:
    labels = distributions(data, size)
    value = float(maxl.negative_entropy(labels))
    assert -math.log(size[1]) - 1e-12 <= value <= 1e-12
    mean = labels.mean(0)
    plain = sum(m * math.log(m) for m in mean.tolist() if m > 0)
    assert value == pytest.approx(plain, abs=1e-12)


@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 8))
def test_label_information_lies_between_nothing_and_log_psi(
    data: st.DataObject, psi: list[int], count: int
) -> None:
    hierarchy = maxl.Hierarchy(psi)
    y = torch.tensor(data.draw(st.lists(st.integers(0, len(psi) - 1), min_size=count, max_size=count)))
    allowed = hierarchy.rows(y).double()
    weights = (numbers(data, (count, hierarchy.num_auxiliary), 0, 1) + 1e-300) * allowed
    labels = weights / weights.sum(1, keepdim=True)
    value = float(label_information(labels, y, hierarchy))
    # At most what tells the classes of a block apart, and at most what tells a class's samples apart.
    counts = torch.bincount(y).tolist()
    most = sum(n * math.log(min(n, k)) for n, k in zip(counts, psi, strict=False) if n) / count
    assert -1e-12 <= value <= most + 1e-12
    first = torch.stack([labels[y == c][0] for c in y.tolist()])  # all labels of a class alike
    assert float(label_information(first, y, hierarchy)) == pytest.approx(0, abs=1e-12)
