"""Images as they are looked at: small."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maxl.experiments.data import Samples

THUMBNAIL = 64  # longest side in pixels: a gallery is looked at, not computed with


def are_images(x: Samples) -> bool:
    """Whether samples can be shown: bytes, grey or of three colours."""
    return x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] in (1, 3)


def thumbnails(images: Tensor, side: int = THUMBNAIL) -> NDArray[Any]:
    """uint8 (N, C, H, W) to (N, h, w, C), no side longer than ``side``."""
    scale = side / max(images.shape[-2:])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in images.shape[-2:]]
        images = nn.functional.interpolate(images.float(), size, mode="area").round().to(torch.uint8)
    array: NDArray[Any] = images.permute(0, 2, 3, 1).cpu().numpy()
    return array
