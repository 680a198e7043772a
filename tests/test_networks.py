from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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


def test_a_head_without_a_layer_is_one() -> None:
    own = torch.nn.Sequential()
    network = maxl.MultiTaskNetwork(
        torch.nn.Linear(4, 3), maxl.Hierarchy.uniform(3, 2), primary_head=own, feature_dim=3
    )
    assert network.primary_head is own
    assert network.auxiliary_head[-1].out_features == 6
    assert maxl.LabelGenerator(torch.nn.Linear(4, 6), maxl.Hierarchy.uniform(3, 2), head=own).head is own


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


class Encoder(nn.Module):
    """Tokens in, several things out, in the form asked for; where nothing is attended, what it gives is not a number."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.config = SimpleNamespace(hidden_size=4)
        self.embedding = nn.Embedding(9, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        states = self.embedding(input_ids)
        if attention_mask is not None:
            states = states.masked_fill(attention_mask.eq(0).unsqueeze(2), float("nan"))
        given = {"states": states, "first": states[:, 0]}
        forms = {
            "tensor": states,
            "tuple": tuple(given.values()),
            "dict": given,
            "object": SimpleNamespace(**given),
        }
        return forms[self.form]


@pytest.mark.parametrize(
    ("form", "output"), [("tensor", None), ("tuple", 0), ("dict", "states"), ("object", "states")]
)
def test_features_are_the_mean_over_the_tokens_that_count(form: str, output: str | int | None) -> None:
    trunk = maxl.Features(Encoder(form), output, pool="mean")
    ids, mask = torch.randint(0, 9, (3, 5)), torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [0] * 5])
    states = trunk.module.embedding(ids)
    expected = torch.stack([states[0, :2].mean(0), states[1].mean(0), torch.zeros(4)])
    assert trunk.feature_dim == 4
    torch.testing.assert_close(trunk({"input_ids": ids, "attention_mask": mask}), expected)
    torch.testing.assert_close(trunk({"input_ids": ids, "attention_mask": mask.bool()}), expected)
    for x in (ids, {"input_ids": ids}):
        torch.testing.assert_close(trunk(x), states.mean(1))


@pytest.mark.parametrize("trunk", [("tuple", 1, None), ("dict", "first", None), ("dict", "states", "first")])
def test_features_are_the_output_asked_for(trunk: Any) -> None:
    form, output, pool = trunk
    features = maxl.Features(Encoder(form), output, pool=pool)
    ids = torch.randint(0, 9, (3, 5))
    assert torch.equal(features({"input_ids": ids}), features.module.embedding(ids)[:, 0])
    network = maxl.MultiTaskNetwork(features, maxl.Hierarchy.uniform(3, 2))
    assert network({"input_ids": ids}).auxiliary.shape == (3, 6)


@pytest.mark.parametrize(
    ("form", "output", "pool", "words"),
    [
        ("dict", None, None, "got None where there is states, first"),
        ("dict", "pooled", None, "got 'pooled' where there is states, first"),
        ("tuple", "states", None, "where there is tuple"),
        ("object", "pooled", None, "where there is SimpleNamespace"),
        ("dict", "first", "mean", r"'first' are \(3, 4\): drop pool="),
    ],
)
def test_features_that_are_not_there_are_named(form: str, output: Any, pool: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        maxl.Features(Encoder(form), output, pool=pool)(torch.zeros(3, 5, dtype=torch.int64))


def test_features_refuse_a_mask_of_other_tokens_and_another_way_to_pool() -> None:
    class Shorter(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*input_ids[:, ::2].shape, 4)

    x = {"input_ids": torch.zeros(3, 5, dtype=torch.int64), "attention_mask": torch.ones(3, 5)}
    with pytest.raises(ValueError, match=r"one entry a token, shape \(3, 3\).*got \(3, 5\)"):
        maxl.Features(Shorter(), pool="mean")(x)
    with pytest.raises(ValueError, match="pool needs to be one of mean, first"):
        maxl.Features(Shorter(), pool="max")  # type: ignore[arg-type]


def test_the_width_of_features_can_be_given_and_is_that_of_the_module_otherwise() -> None:
    assert maxl.Features(nn.Sequential(nn.Linear(3, 7))).feature_dim == 7
    assert maxl.Features(Encoder("dict"), "states", feature_dim=2).feature_dim == 2
    assert maxl.Features(nn.Tanh()).feature_dim is None


@pytest.mark.parametrize("span", [0.5, 5.0, 15.0])
def test_weights_as_published_are_powers_of_two(span: float) -> None:
    score = torch.linspace(-60, 60, 25, dtype=torch.float64)
    expected = 2.0 ** (2 * span * (torch.sigmoid(score) - 0.5))
    torch.testing.assert_close(maxl.PowerOfTwo(span)(score), expected)
    torch.testing.assert_close(expected[[0, 12, 24]], score.new_tensor([2.0**-span, 1.0, 2.0**span]))
    assert maxl.PowerOfTwo(span)(score.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("span", [0.0, -1.0, 128.0, float("nan")])
def test_a_range_of_weights_that_cannot_be_is_refused(span: float) -> None:
    with pytest.raises(ValueError, match="span R of weights needs to be above 0 and below 128"):
        maxl.PowerOfTwo(span)


def test_the_weighting_is_kept_where_the_trunk_is_shared() -> None:
    network = maxl.MultiTaskNetwork(nn.Linear(4, 8), maxl.Hierarchy.uniform(2, 2), feature_dim=8)
    generator = maxl.WeightedLabelGenerator.sharing(network, weighting=maxl.PowerOfTwo(3))
    nn.init.constant_(generator.weight_head.bias, 50.0)
    _, weights = generator(torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1]))
    torch.testing.assert_close(weights, torch.full((5,), 8.0))
