"""A small U-Net: features for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxl.finetuning import ordered


class UNet(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU at each scale, halved on the way down, joined on the way up.

    Sides of any length: a level up has the size of the level it is joined with.

    Args:
        input_shape: (C, H, W) of the images.
        widths: Channels from the finest scale to the coarsest.

    Attributes:
        feature_dim: The width of the features, D, the first of ``widths``.

    Shape: (N, C, H, W) to (N, D, H, W).

    Raises:
        ValueError: if a side is too short to be halved as often.
    """

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        channels, *sides = input_shape
        least = 2 ** (len(widths) - 1)
        if min(sides) < least:
            raise ValueError(
                f"'unet' halves the image {len(widths) - 1} times and needs {least} pixels a side; got "
                f"{sides[0]}x{sides[1]}"
            )
        self.down = nn.ModuleList(
            _block(before, width) for before, width in zip((channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(_block(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.feature_dim = widths[0]

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            levels.append(x)
        levels.pop()
        for block in reversed(self.up):
            fine = levels.pop()
            x = block(torch.cat([fine, F.interpolate(x, size=fine.shape[2:], mode="nearest")], 1))
        return x

    def parameter_layers(self) -> list[list[str]]:
        """Names of parameters, a convolution and its batch norm a layer, down and up again."""
        up = [f"up.{i}" for i in reversed(range(len(self.up)))]
        return ordered(self, [*(f"down.{i}" for i in range(len(self.down))), *up])


def _block(before: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
