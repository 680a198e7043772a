"""Features for each pixel from a network made for whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxl.experiments.runs.libraries import model_layers
from maxl.experiments.runs.memory import is_out_of_memory

_WIDTH = 64


class DenseTrunk(nn.Module):
    """A model of timm with a decoder: a feature pyramid (Lin et al. 2017, section 3), its finest level at the image's size.

    Of each resolution that the model passes through, its last features are mapped to one width by a 1x1 convolution; from the
    coarsest level up each is enlarged to the next and added to it; a 3x3 convolution with batch norm and ReLU smooths
    the finest, which is then enlarged to the image. A model of one resolution (a ViT) has one level.

    Args:
        model: Of timm, with ``forward_intermediates``.
        input_shape: (C, H, W) of the images.
        width: Channels of the levels.

    Attributes:
        feature_dim: The width of the features, D, that is ``width``.

    Shape: (N, C, H, W) to (N, D, H, W).

    Raises:
        ValueError: if the model cannot take such images, or does not give what it passes through.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int], width: int = _WIDTH) -> None:
        super().__init__()
        self.model = model
        model.eval()  # the pass of zeros leaves batch norm's statistics alone
        self.indices: list[int] | None = None
        try:
            with torch.no_grad():
                every = self._levels(torch.zeros(1, *input_shape))
        except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{type(model).__name__} gives no features for each pixel of images of shape {tuple(input_shape)}: {error}; "
                "scale the images (--image-size), or choose another model, or unet"
            ) from error
        model.train()
        last = {tuple(level.shape[2:]): i for i, level in enumerate(every)}  # of each resolution
        self.indices = sorted(last.values())
        self.lateral = nn.ModuleList(nn.Conv2d(every[i].shape[1], width, 1) for i in self.indices)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.feature_dim = width

    def forward(self, x: Tensor) -> Tensor:
        levels = [mapped(level) for mapped, level in zip(self.lateral, self._levels(x), strict=True)]
        features = levels.pop()
        while levels:
            finer = levels.pop()
            features = finer + F.interpolate(features, size=finer.shape[2:], mode="nearest")
        features = self.smooth(features)
        return F.interpolate(features, size=x.shape[2:], mode="bilinear", align_corners=False)

    def _levels(self, x: Tensor) -> list[Tensor]:
        """Features on the way through the model, each (N, C', H', W'), finest first."""
        model: Any = self.model
        levels: list[Tensor] = model.forward_intermediates(x, indices=self.indices, intermediates_only=True)
        return levels

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters by layer: those of the model, and last the decoder."""
        layers = [[f"model.{name}" for name in layer] for layer in model_layers(self.model)]
        return [*layers, [name for name, _ in self.named_parameters() if not name.startswith("model.")]]
