from __future__ import annotations

import pytest
import torch
from torch import nn

import maxl
from _networks import batch, conv_trunk, pair


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 90.0, 1e4])
def test_mask_softmax_gives_a_distribution_on_the_allowed_block_alone(
    dtype: torch.dtype, scale: float
) -> None:
    mask = maxl.Hierarchy([2, 5, 1]).rows(torch.tensor([0, 1, 2, 1]))
    logits = (torch.randn(4, 8) * scale).to(dtype)
    labels = maxl.masked_softmax(logits, mask)
    assert torch.isfinite(labels).all()
    assert (labels[~mask] == 0).all()
    torch.testing.assert_close(labels.sum(1), torch.ones(4, dtype=dtype))


def test_mask_softmax_ignores_masked_logits_and_shifts() -> None:
    mask = torch.tensor([[True, True, False]])
    logits = torch.tensor([[0.3, -1.0, 25.0]])
    labels = maxl.masked_softmax(logits, mask)
    torch.testing.assert_close(labels[0, :2], logits[0, :2].softmax(0))
    torch.testing.assert_close(labels, maxl.masked_softmax(logits + 50, mask))


def test_network_returns_a_named_pair_and_predict_the_primary_half() -> None:
    network, generator = pair()
    network.eval()
    x, y = batch()
    logits = network(x)
    assert logits.primary.shape == (12, 3)
    assert logits.auxiliary.shape == (12, 9)
    assert torch.equal(network.predict(x), logits.primary)
    labels = generator(x, y)
    assert labels.shape == (12, 9)
    assert (labels[~generator.hierarchy.rows(y)] == 0).all()


def test_heads_and_width_can_be_the_users_own() -> None:
    class Trunk(nn.Module):  # does not state its width
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    hierarchy = maxl.Hierarchy([2, 2])
    with pytest.raises(ValueError, match="feature_dim="):
        maxl.MultiTaskNetwork(Trunk(), hierarchy)
    with pytest.raises(ValueError, match="feature_dim="):
        maxl.LabelGenerator(Trunk(), hierarchy)
    network = maxl.MultiTaskNetwork(
        Trunk(), hierarchy, primary_head=nn.Linear(6, 2), auxiliary_head=nn.Linear(6, 4)
    )
    assert network(torch.randn(3, 6)).auxiliary.shape == (3, 4)
    assert maxl.LabelGenerator(Trunk(), hierarchy, feature_dim=6)(
        torch.randn(3, 6), torch.tensor([0, 1, 1])
    ).shape == (3, 4)


def test_a_flat_hierarchy_serves_regression() -> None:
    hierarchy = maxl.Hierarchy.flat(4)
    labels = maxl.LabelGenerator(conv_trunk(), hierarchy)(batch()[0], torch.randn(12))
    torch.testing.assert_close(labels.sum(1), torch.ones(12))
    assert (labels > 0).all()


def test_labels_stay_float32_under_autocast() -> None:
    _, generator = pair()
    x, y = batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(x, y).dtype == torch.float32
