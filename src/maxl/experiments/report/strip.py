"""Images side by side in one file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def strip_png(images: NDArray[Any]) -> bytes:
    """A PNG file of images next to each other, with gaps that are see-through.

    Args:
        images: uint8 of shape (n, H, W, C), C of 1 or 3.
    """
    from PIL import Image

    count, height, width, channels = images.shape
    gap = max(1, width // 16)
    strip = np.full((height, count * (width + gap) - gap, channels + 1), 0, np.uint8)
    for k, image in enumerate(images):
        left = k * (width + gap)
        strip[:, left : left + width, :channels] = image
        strip[:, left : left + width, channels] = 255
    file = io.BytesIO()
    Image.fromarray(strip, "LA" if channels == 1 else "RGBA").save(file, "PNG", optimize=True)
    return file.getvalue()
