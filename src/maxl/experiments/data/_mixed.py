"""Samples that are an image beside columns of a table: how both lie in the one row of numbers that a network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class MixedShape(tuple[int, ...]):
    """Shape of one sample that is an image beside columns, (D + C·H·W,), which also knows where each of them lies.

    The features of the columns come first, then the pixels, channel by channel and row by row. It is a tuple as other
    samples' shapes are, so that who takes it for that of features meets numbers of the right count and nothing else.

    Args:
        columns: D, the number of features of the columns.
        image: (C, H, W).
    """

    columns: int
    image: tuple[int, int, int]

    def __new__(cls, columns: int, image: tuple[int, int, int]) -> MixedShape:
        shape = super().__new__(cls, (columns + math.prod(image),))
        shape.columns, shape.image = columns, image
        return shape

    def __getnewargs__(self) -> tuple[int, tuple[int, int, int]]:
        return self.columns, self.image


def image_shape(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """(C, H, W) of the images in samples of a shape, alone or beside columns; None for features."""
    if isinstance(shape, MixedShape):
        return shape.image
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def beside(columns: Tensor | None, images: Tensor) -> Tensor:
    """What a network takes of images and the features of columns.

    Args:
        columns: float32, (N, D); None where there are none.
        images: float32, normalised, (N, C, H, W).

    Returns: the images as they are without columns; else (N, D + C·H·W), on the images' device.
    """
    return images if columns is None else torch.cat([columns.to(images.device), images.flatten(1)], dim=1)
