"""What holds for every label that a generator invents."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import maxl
from maxl.networks import WeightedLabelGenerator

psis = st.lists(st.integers(1, 4), min_size=1, max_size=5)
scales = st.sampled_from([0.0, 1.0, 1e3, 1e30])


def labelled(psi: list[int], data: st.DataObject) -> torch.Tensor:
    return torch.tensor(data.draw(st.lists(st.integers(0, len(psi) - 1), min_size=1, max_size=6)))


def check(labels: torch.Tensor, mask: torch.Tensor) -> None:
    """Rows are distributions over the block, exactly 0 outside it."""
    assert labels.isfinite().all()
    assert (labels >= 0).all()
    assert (labels[~mask] == 0).all()
    torch.testing.assert_close(labels.sum(1), torch.ones(len(labels), dtype=labels.dtype))


@given(psis, st.data(), scales, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**31))
def test_mask_softmax_is_a_distribution_on_the_block_and_the_softmax_of_the_block_alone(
    psi: list[int], data: st.DataObject, scale: float, dtype: torch.dtype, seed: int
) -> None:
    y = labelled(psi, data)
    mask = maxl.Hierarchy(psi).rows(y)
    noise = torch.Generator().manual_seed(seed)
    logits = (torch.randn(mask.shape, generator=noise, dtype=dtype) * scale).requires_grad_()
    labels = maxl.masked_softmax(logits, mask)
    check(labels.detach(), mask)
    for row, allowed, label in zip(logits, mask, labels, strict=True):
        torch.testing.assert_close(label[allowed], row[allowed].softmax(0))
    (gradient,) = torch.autograd.grad(labels.square().sum(), logits)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


@given(psis, st.data(), scales, st.booleans(), st.booleans())
def test_generators_keep_to_the_block_of_the_class_whatever_the_inputs(
    psi: list[int], data: st.DataObject, scale: float, weighted: bool, low: bool
) -> None:
    y = labelled(psi, data)
    hierarchy = maxl.Hierarchy(psi)
    kind = WeightedLabelGenerator if weighted else maxl.LabelGenerator
    generator = kind(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), hierarchy, feature_dim=4)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        out = generator(torch.randn(len(y), 3) * scale, y)
    labels, weights = out if weighted else (out, None)
    assert labels.dtype == torch.float32
    check(labels.detach(), hierarchy.rows(y))
    if weights is not None:
        assert weights.shape == (len(y),)
        assert ((weights >= 0) & (weights <= 2)).all()
