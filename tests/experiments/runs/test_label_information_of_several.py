"""What labels say of a sample that has several classes: the measure, the verdict on it, and the regulariser."""

from __future__ import annotations

import math

import pytest
import torch

from maxl.experiments.runs.evaluation import describe_labels
from maxl.experiments.runs.supervisions import Information
from maxl.hierarchy import Hierarchy
from maxl.tasks import MultiLabel


@pytest.mark.parametrize("labels", [2, 6, 20])
def test_what_labels_say_is_seen_however_many_sets_of_labels_there_are(labels: int) -> None:
    """A hidden side of each sample, which its label tells in each of its blocks, or in none."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (300, labels), generator=generator)
    y[y.sum(1) == 0, 0] = 1
    hierarchy, task = Hierarchy.uniform(labels, 2), MultiLabel(labels)
    rows = task.rows(y, hierarchy.mask)
    side = torch.randint(2, (300, 1), generator=generator)
    for told, most in ((side, math.log(2)), (0 * side, 0.0)):
        chosen = (torch.arange(2 * labels) % 2 == told) & rows
        look = describe_labels(chosen / chosen.sum(1, keepdim=True), y, hierarchy, task)
        assert look.information == pytest.approx(most, abs=0.01)
        assert (look.verdict() is None) == (most > 0)
        assert look.usage == (1.0 if most else 0.5)
        assert 0 <= look.information <= look.entropy_max
    even = describe_labels(rows / rows.sum(1, keepdim=True), y, hierarchy, task)
    assert even.information == pytest.approx(0, abs=1e-9)


def test_labels_of_one_class_a_sample_say_the_same_written_as_columns_of_labels() -> None:
    torch.manual_seed(0)
    classes, hierarchy = torch.randint(3, (200,)), Hierarchy([2, 3, 1])
    logits = torch.randn(200, 6).masked_fill(~hierarchy.mask[classes], float("-inf"))
    columns = torch.nn.functional.one_hot(classes, 3)
    one = describe_labels(logits.softmax(1), classes, hierarchy)
    several = describe_labels(logits.softmax(1), columns, hierarchy, MultiLabel(3))
    assert several.information == pytest.approx(one.information, rel=1e-9)
    assert several.usage_per_class == one.usage_per_class


def test_the_regulariser_of_several_labels_has_a_gradient_where_every_set_is_another() -> None:
    y = torch.cartesian_prod(*[torch.arange(2)] * 4)
    hierarchy = Hierarchy.uniform(4, 2)
    rows = MultiLabel(4).rows(y, hierarchy.mask)
    logits = torch.randn(
        16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()

    def term(z: torch.Tensor) -> torch.Tensor:
        return Information(hierarchy, 1.0)(z.masked_fill(~rows, float("-inf")).softmax(1), y)

    (gradient,) = torch.autograd.grad(term(logits), logits)
    assert gradient.isfinite().all()
    assert gradient[1:].abs().max() > 1e-4  # the first row has no label
    assert not gradient[~rows].any()
    assert term(logits - gradient) < term(logits)
    labels = (rows * (torch.rand(16, 8, dtype=torch.float64) + 0.1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: Information(hierarchy, 1.0)(t * rows + 1e-3 * rows, y), labels)
