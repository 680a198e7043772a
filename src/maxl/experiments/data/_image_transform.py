"""Training images changed at random by functions of torchvision or of one's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maxl.hypergradients import RandomState

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ImageTransform:
    """Functions in a row, each from an image to an image of the same shape.

    What they draw from torch, NumPy or Python's ``random`` is a function of the seed alone, whatever the batch, the number of
    processes and what was drawn before; the generators are left as they were.

    Attributes:
        names: Of the functions, for messages.
        functions: uint8 (C, H, W) → uint8 (C, H, W).
    """

    names: tuple[str, ...]
    functions: tuple[Callable[[Tensor], Tensor], ...]

    def __call__(self, images: Tensor, seeds: Sequence[Sequence[int]]) -> Tensor:
        """Each image by itself.

        Args:
            images: uint8, (B, C, H, W).
            seeds: Whole numbers for each image.

        Raises:
            ValueError: if a function fails, or gives something else than such an image.
        """
        with RandomState.capture(_CPU).replay():
            return torch.stack([self._one(x, seed) for x, seed in zip(images, seeds, strict=True)])

    def _one(self, image: Tensor, seed: Sequence[int]) -> Tensor:
        mixed = np.random.SeedSequence(seed).generate_state(1)
        number = int(mixed[0])
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002  # the global generator, which others' functions draw from
        for name, function in zip(self.names, self.functions, strict=True):
            before = image
            try:
                image = function(image)
            except Exception as error:  # whatever a function of a user's raises
                raise ValueError(
                    f"--transform {name} fails on an image of shape {tuple(before.shape)} with {type(error).__name__}: {error}"
                ) from error
            if not isinstance(image, Tensor) or image.shape != before.shape or image.dtype != before.dtype:
                got = (
                    f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
                    if isinstance(image, Tensor)
                    else type(image).__name__
                )
                raise ValueError(
                    f"--transform {name} needs to give an image as it takes one, {str(before.dtype).removeprefix('torch.')} "
                    f"{tuple(before.shape)}; it gives {got}: sizes are set by --image-size, and normalisation comes after"
                )
        return image
