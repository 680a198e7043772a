"""A network that says what each sample's label should have been."""

from __future__ import annotations

import math

from torch import Tensor, nn

from maxl.hypergradients import Inputs
from maxl.supervision._given_labels import OfGivenLabels


class LabelCorrector(OfGivenLabels):
    """What each sample's label should have been: t(x, y; θ₂), for ``maxl.supervision.CorrectedLabels``.

    t = softmax(s·onehot(y) + h(x, y)), where h starts at 0 and s is such that the given class then has the probability
    ``confidence`` (after meta label correction, Zheng et al., AAAI 2021, arXiv 1911.03809, where t starts anywhere).

    Args:
        trunk: Any module from inputs to features of shape (N, D); its own weights, shared with nothing.
        num_classes: C ≥ 2.
        feature_dim: D, where the trunk does not state it.
        confidence: Of the given label to begin with, above 1/C and below 1.

    Raises:
        ValueError: if D is unknown, C below 2, or the confidence outside its range.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        feature_dim: int | None = None,
        confidence: float = 0.85,
    ) -> None:
        super().__init__(trunk, num_classes, num_classes, feature_dim)
        if not 1 / num_classes < confidence < 1:
            raise ValueError(
                f"confidence needs to be above 1/{num_classes}, that of a guess, and below 1; got {confidence}"
            )
        self.confidence = confidence

    def forward(self, x: Inputs, y: Tensor) -> Tensor:
        """Soft labels of shape (N, C), from inputs and given classes, int64 of shape (N,) in [0, C)."""
        return self.of_features(self.trunk(x), y)

    def of_features(self, features: Tensor, y: Tensor) -> Tensor:
        """What ``forward`` gives, from trunk features of shape (N, D)."""
        scores, given = self.scores(features, y)
        scale = math.log(self.confidence * (self.num_classes - 1) / (1 - self.confidence))
        return (scale * given + scores).softmax(-1)
