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


@pytest.mark.parametrize("span", [0.5, 5.0, 15.0])
def test_weights_as_published_are_powers_of_two(span: float) -> None:
    score = torch.linspace(-60, 60, 25, dtype=torch.float64)
    expected = 2.0 ** (2 * span * (torch.sigmoid(score) - 0.5))
    torch.testing.assert_close(maxl.PowerOfTwo(span)(score), expected)
    torch.testing.assert_close(expected[[0, 12, 24]], score.new_tensor([2.0**-span, 1.0, 2.0**span]))
    assert maxl.PowerOfTwo(span)(score.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("span", [0.0, -1.0, 128.0, float("nan")])
def test_a_range_of_weights_that_cannot_be_is_refused(span: float) -> None:
    with pytest.raises(ValueError, match="range R of weights needs to be above 0 and below 128"):
        maxl.PowerOfTwo(span)


def test_the_weighting_is_kept_where_the_trunk_is_shared() -> None:
    network = maxl.MultiTaskNetwork(nn.Linear(4, 8), maxl.Hierarchy.uniform(2, 2), feature_dim=8)
    generator = maxl.WeightedLabelGenerator.sharing(network, weighting=maxl.PowerOfTwo(3))
    nn.init.constant_(generator.weight_head.bias, 50.0)
    _, weights = generator(torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1]))
    torch.testing.assert_close(weights, torch.full((5,), 8.0))
