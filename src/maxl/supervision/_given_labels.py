"""What generators that look at a sample and the label it was given have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxl.hypergradients import in_float
from maxl.networks import MultiTaskNetwork, SharedTrunk
from maxl.trunks import require_feature_dim


class OfGivenLabels(nn.Module):
    """A head of two layers on the trunk's features beside the given label; its last layer starts at 0."""

    def __init__(self, trunk: nn.Module, num_classes: int, outputs: int, feature_dim: int | None) -> None:
        super().__init__()
        width = require_feature_dim(trunk, feature_dim)
        if num_classes < 2:
            raise ValueError(f"num_classes needs to be at least 2; got {num_classes}")
        self.trunk = trunk
        self.num_classes = num_classes
        last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(width + num_classes, width), nn.ReLU(), last)

    @property
    def shared(self) -> MultiTaskNetwork | None:
        """The network whose features it reads; None with a trunk of its own."""
        return self.trunk.network if isinstance(self.trunk, SharedTrunk) else None

    def scores(self, features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the head makes of features (N, D) and given classes (N,), and these classes as rows of 0 and 1.

        Both are float32 at least: the double gradient needs small differences.

        Raises:
            ValueError: if the labels are no classes.
        """
        if y.dim() != 1 or y.is_floating_point():
            raise ValueError(
                f"given labels need to be classes, int64 of shape (N,); got {y.dtype} of shape {tuple(y.shape)}"
            )
        given = F.one_hot(y, self.num_classes).to(features.dtype)
        (scores,) = in_float(self.head(torch.cat([features, given], -1)))
        return scores, given.to(scores.dtype)
