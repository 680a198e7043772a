"""A network that says how much each sample is to count."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maxl.hypergradients import Inputs
from maxl.supervision._given_labels import OfGivenLabels

_MOST = 20.0  # of a logarithm: e^20 and e^-20 still add up in float32


def exponential_weight(score: Tensor) -> Tensor:
    """exp(20 tanh(z / 20)), which is nearly exp(z), of scores z of any shape; 1 at z = 0, and always finite and above 0."""
    return (_MOST * torch.tanh(score / _MOST)).exp()


class WeightGenerator(OfGivenLabels):
    """How much each sample is to count: ω(x, y; θ₂) > 0, for ``maxl.supervision.SampleWeights``.

    Meta-Weight-Net (Shu et al., NeurIPS 2019, arXiv 1902.07379) makes weights of a sample's loss; here they are made of
    the sample and the label that it was given, so that mistakes in a part of the input space can be told.

    Args:
        trunk: Any module from inputs to features of shape (N, D); its own weights, shared with nothing.
        num_classes: C ≥ 2.
        feature_dim: D, where the trunk does not state it.
        weighting: From scores of shape (N,) to weights above 0; all scores start at 0. Nearly the exponential by
            default: a change of scale, which normalised weights do not see, cannot bring it to where it has no slope.

    Raises:
        ValueError: if D is unknown or C below 2.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_classes: int,
        *,
        feature_dim: int | None = None,
        weighting: Callable[[Tensor], Tensor] = exponential_weight,
    ) -> None:
        super().__init__(trunk, num_classes, 1, feature_dim)
        self.weighting = weighting

    def forward(self, x: Inputs, y: Tensor) -> Tensor:
        """Weights of shape (N,), from inputs and given classes, int64 of shape (N,) in [0, C)."""
        return self.of_features(self.trunk(x), y)

    def of_features(self, features: Tensor, y: Tensor) -> Tensor:
        """What ``forward`` gives, from trunk features of shape (N, D)."""
        scores, _ = self.scores(features, y)
        return self.weighting(scores.squeeze(-1))
