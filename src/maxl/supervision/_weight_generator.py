"""A network that says how much each sample is to count."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from maxl.hypergradients import Inputs
from maxl.networks import PowerOfTwo
from maxl.supervision._given_labels import OfGivenLabels


class WeightGenerator(OfGivenLabels):
    """How much each sample is to count: ω(x, y; θ₂) > 0, for ``maxl.supervision.SampleWeights``.

    Meta-Weight-Net (Shu et al., NeurIPS 2019, arXiv 1902.07379) makes weights of a sample's loss; here they are made of
    the sample and the label that it was given, so that mistakes in a part of the input space can be told.

    Args:
        trunk: Any module from inputs to features of shape (N, D); its own weights, shared with nothing.
        num_classes: C ≥ 2.
        feature_dim: D, where the trunk does not state it.
        weighting: From scores of shape (N,) to weights above 0; 1 at 0, where all scores start.

    Raises:
        ValueError: if D is unknown or C below 2.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        feature_dim: int | None = None,
        weighting: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(trunk, num_classes, 1, feature_dim)
        self.weighting = weighting or PowerOfTwo()

    def forward(self, x: Inputs, y: Tensor) -> Tensor:
        """Weights of shape (N,), from inputs and given classes, int64 of shape (N,) in [0, C)."""
        return self.of_features(self.trunk(x), y)

    def of_features(self, features: Tensor, y: Tensor) -> Tensor:
        """What ``forward`` gives, from trunk features of shape (N, D)."""
        scores, _ = self.scores(features, y)
        return self.weighting(scores.squeeze(-1))
