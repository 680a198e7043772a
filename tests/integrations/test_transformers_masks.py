"""A mask that is there for the pooling alone reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import maxl
from _hugging_face_helpers import HIERARCHY, TOKENS, Row, trainer
from _hugging_face_helpers import little_garbage as little_garbage

pytestmark = pytest.mark.filterwarnings("ignore")  # its advice on devices, workers and names


class Embedding(nn.Module):
    """Tokens to states; what is padding is none of its business."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, 6)

    def forward(self, input_ids: Tensor) -> Tensor:
        states: Tensor = self.table(input_ids)
        return states


def padded(count: int = 8) -> list[Row]:
    """Two tokens that count, of six."""
    return [
        {"input_ids": [1 + i, 7, 0, 0, 0, 0], "attention_mask": [1, 1, 0, 0, 0, 0], "labels": i % 3}
        for i in range(count)
    ]


def test_the_mean_over_tokens_is_over_those_that_count(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = maxl.Features(Embedding(), pool="mean", feature_dim=6)
    network = maxl.MultiTaskNetwork(trunk, HIERARCHY).double()
    learner = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1))
    rows = padded()
    found = trainer(learner, tmp_path, train_dataset=rows, eval_dataset=rows).evaluate()["eval_loss"]
    ids = torch.tensor([row["input_ids"][:2] for row in rows])
    features = trunk.module.table(ids).mean(1)
    expected = learner.task.loss(
        network.primary_head(features), torch.tensor([row["labels"] for row in rows])
    )
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_a_module_that_takes_no_mask_is_called_without_it() -> None:
    trunk = maxl.Features(Embedding(), pool="mean", feature_dim=6)
    ids, mask = torch.randint(0, TOKENS, (3, 5)), torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [0] * 5])
    states = trunk.module.table(ids)
    expected = torch.stack([states[0, :2].mean(0), states[1].mean(0), torch.zeros(6)])
    torch.testing.assert_close(trunk({"input_ids": ids, "attention_mask": mask}), expected)
    with pytest.raises(TypeError, match="attention_mask"):
        maxl.Features(Embedding(), pool="first", feature_dim=6)({"input_ids": ids, "attention_mask": mask})
