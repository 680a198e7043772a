"""The trunk of samples that are an image beside columns: one network for each, their features side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maxl.experiments.data import MixedShape
from maxl.trunks import ResidualTrunk, require_feature_dim


class MixedTrunk(nn.Module):
    """An image trunk and residual blocks on the columns, and both features one after the other.

    Flags for a trunk (weights to start from, rates by layer, freezing) are about the image trunk, under its own names.

    Args:
        image: From (N, C, H, W) to (N, D₁); states its width.
        columns: From the features of the columns, (N, D), to (N, D₂).
        shape: Of one sample; says where image and columns lie.

    Attributes:
        feature_dim: D₁ + D₂.

    Shape: (N, D + C·H·W) to (N, D₁ + D₂).
    """

    def __init__(self, image: nn.Module, columns: ResidualTrunk, shape: MixedShape) -> None:
        super().__init__()
        self.image = image
        self.columns = columns
        self._split = shape.columns
        self._image_shape = shape.image
        self.feature_dim = require_feature_dim(image, None) + columns.feature_dim

    def forward(self, x: Tensor) -> Tensor:
        """Features of images, then of columns."""
        pixels = x[:, self._split :].reshape(x.shape[0], *self._image_shape)
        return torch.cat([self.image(pixels), self.columns(x[:, : self._split])], dim=1)
