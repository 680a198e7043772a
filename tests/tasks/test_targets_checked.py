"""Targets that are none of the task's are refused, not trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import maxl

LOGITS = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.tensor([0, 1, 3, 2]), "below the number of classes, 3; got 3"),
        (torch.tensor([0, -1, 1, 2]), "at least 0; got -1"),
        (torch.tensor([0, 1, 1, 2], dtype=torch.uint8), "int64; got uint8"),
        (torch.tensor([True, False, True, False]), "int64; got bool"),
        (torch.tensor([0.0, 1.0, 1.0, 2.0]), "int64; got float32"),
        (torch.tensor([0, 1, 1, 2], dtype=torch.int16), "int64; got int16"),
    ],
    ids=["beyond", "negative", "uint8", "bool", "float", "int16"],
)
def test_classes_are_whole_numbers_of_the_hierarchy(targets: Tensor, words: str) -> None:
    task = maxl.Classification()
    with pytest.raises(ValueError, match=words):
        task.losses(LOGITS, targets)
    with pytest.raises(ValueError, match=words):
        task.rows(targets, maxl.Hierarchy.uniform(3, 2).mask)


@pytest.mark.parametrize("odd", [-1.0, 2.0, 1.5, float("nan")])
def test_labels_outside_of_0_and_1_have_no_loss(odd: float) -> None:
    targets = torch.ones(4, 3)
    targets[1, 2] = odd
    with pytest.raises(ValueError, match=r"labels need to be in \[0, 1\]; got"):
        maxl.MultiLabel(3).losses(LOGITS, targets)
    assert maxl.MultiLabel(3).losses(LOGITS, targets.nan_to_num(0.5).clamp(0, 1)).isfinite().all()
