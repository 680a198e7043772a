"""Decoding image files and bytes into one uint8 tensor."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maxl.experiments.data._files import require_regular
from maxl.experiments.data._memory import require_memory

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 274  # the EXIF tag
_OPENING = Lock()
Pixels = npt.NDArray[np.uint8]
# What Pillow's decoders raise for broken files.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, MemoryError),
    *(NotImplementedError, struct.error, zlib.error),
)


def decode(
    items: Iterable[bytes | Path], count: int, name: Callable[[int], str], image_size: int | None
) -> Tensor:
    """Decode images into one tensor, written to as they come.

    Grey images give one channel, any colour image among them gives all of them three. One that is transparent in parts is
    taken as it looks on white.

    Args:
        items: Encoded images or the paths of image files, `count` of them.
        name: Names the i-th image in messages.
        image_size: Scale the shorter side to this many pixels and crop the centre square; None keeps the
            size, which must then be the same for all.

    Returns: uint8, shape (N, C, H, W).

    Raises:
        ValueError: if an image cannot be decoded, has 32 bits a channel, shows nothing on white though there is something in it,
            differs in size, or is so large that it may be made to exhaust the memory; if all of them together need more
            than there is.
    """
    images = np.zeros((0, 1, 1, 1), dtype=np.uint8)
    for i, item in enumerate(items):
        pixels = _decode_one(item, partial(name, i), image_size)
        height, width, channels = pixels.shape
        if i == 0:
            require_memory(count * pixels.size, f"{count} images of {height}x{width}")
            images = np.empty((count, channels, height, width), dtype=np.uint8)
        _require_same_size(partial(name, i), (height, width), (images.shape[2], images.shape[3]))
        if channels > images.shape[1]:
            images = np.repeat(images, channels, axis=1)
        images[i] = pixels.transpose(2, 0, 1)  # one grey channel spreads over three
    return torch.from_numpy(images)


def displayed_size(file: Path) -> tuple[int, int]:
    """(height, width) of an image as it is shown.

    Raises:
        ValueError: if the file is no image.
    """
    from PIL import Image

    try:
        with open(require_regular(file), "rb") as stream, Image.open(stream) as image:
            if image.format == "TIFF":  # which Pillow turns by itself, and says so after loading
                image.load()
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size
    except DAMAGED as error:
        raise ValueError(f"'{file}' cannot be decoded as an image: {error}") from error
    return (width, height) if turned else (height, width)


def stretch(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (N, C, H, W) of another size, nothing cut off: every pixel of a mask has its place."""
    from torchvision.transforms.v2 import functional as transforms

    if images.shape[2:] == size:
        return images
    scaled: Tensor = transforms.resize(images, list(size), antialias=True)
    return scaled


def resize(images: Tensor, image_size: int | None) -> Tensor:
    """Scale decoded images to squares, as `decode` does for files.

    Args:
        images: uint8, shape (N, C, H, W).
        image_size: Side of the square in pixels; None changes nothing.

    Returns: uint8, shape (N, C, image_size, image_size).
    """
    if image_size is None or images.shape[2:] == (image_size, image_size):
        return images
    from torchvision.transforms.v2.functional import center_crop
    from torchvision.transforms.v2.functional import resize as scale

    # 4096 at a time: resizing computes in float32, four times the size of the pixels.
    parts = (images[start : start + 4096] for start in range(0, len(images), 4096))
    return torch.cat([center_crop(scale(part, [image_size], antialias=True), [image_size]) for part in parts])


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Grey images (N, 1, H, W) repeated to `channels` channels; others as they are."""
    return images if images.shape[1] == channels else images.repeat(1, channels, 1, 1)


def _kept_as(mode: str) -> str:
    return "L" if mode in ("1", "L", "LA") else "RGB"


def _of_16_bits(file: Image) -> Image:
    """A grey image of 16 bits as one of 8, scaled: Pillow's own conversion would clip."""
    from PIL import Image as images

    values = np.asarray(file).astype(np.float64)
    return images.fromarray((values / 257).round().astype(np.uint8))


def _with_opacity(file: Image) -> tuple[Image, Image | None]:
    """An image as it is kept, and how far each pixel covers what is behind it, of mode L; None where all of them do."""
    if file.mode.startswith("I;16"):
        return _of_16_bits(file), None
    kept = _kept_as(file.mode)
    if file.mode in ("I", "F") or not file.has_transparency_data:
        return file.convert(kept), None
    whole = file.convert("RGBA")  # which holds each way to say it; its colours are those below
    opacity = whole.getchannel("A")
    return whole.convert(kept), None if opacity.getextrema() == (255, 255) else opacity


def _on_white(image: Image, opacity: Image, name: Callable[[], str]) -> Image:
    """An image as it looks on white; an error where nothing is left to see of what is in it.

    What is drawn in its transparency alone, as icons are, has one colour below it, which is no picture.
    """
    from PIL import Image as images

    shown = images.composite(image, images.new(image.mode, image.size, "white"), opacity)
    if _has_one_colour(shown) and not (_has_one_colour(image) and _has_one_colour(opacity)):
        raise ValueError(
            f"images need to show something on white, which is put behind those that are transparent; {name()} is of one "
            "colour there: save it without transparency, on another colour"
        )
    return shown


def _has_one_colour(image: Image) -> bool:
    return image.getcolors(1) is not None


def image_shape(item: bytes | Path, name: Callable[[], str], image_size: int | None) -> tuple[int, int, int]:
    """(C, H, W) of the image as ``decode`` gives it, by what its file says of itself where that is enough.

    Raises:
        ValueError: if the file is no image, or one that ``decode`` refuses for its size.
    """

    with _named(name), _stream(item) as stream, _opened(stream) as file:
        grey = file.mode.startswith("I;16") or _kept_as(file.mode) == "L"
        width, height = file.size
        turned = False
        if image_size is not None:
            width = height = image_size
        elif width != height:
            if file.format == "TIFF":  # which Pillow turns by itself
                file.load()
                width, height = file.size
            turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (1 if grey else 3, *((width, height) if turned else (height, width)))


def common_shape(
    items: Iterable[bytes | Path], name: Callable[[int], str], image_size: int | None
) -> tuple[int, int, int]:
    """(C, H, W) of what ``decode`` makes of images, which need not be decoded for it.

    Args:
        items, name, image_size: As for ``decode``; one image or more.

    Raises:
        ValueError: if an image is none, or they differ in size.
    """
    channels, size = 1, (0, 0)
    for i, item in enumerate(items):
        own, height, width = image_shape(item, partial(name, i), image_size)
        size = size if i else (height, width)
        _require_same_size(partial(name, i), (height, width), size)
        channels = max(channels, own)
    return (channels, *size)


def _require_same_size(name: Callable[[], str], size: tuple[int, int], first: tuple[int, int]) -> None:
    if size != first:
        raise ValueError(
            f"images must all have one size; {name()} is {size[0]}x{size[1]}, the first is {first[0]}x{first[1]}: "
            "pass image_size (--image-size) to scale them"
        )


def _stream(item: bytes | Path) -> BinaryIO:
    """Of a path, too: some TIFFs that Pillow maps into memory from there are turned twice."""
    return BytesIO(item) if isinstance(item, bytes) else open(require_regular(item), "rb")


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Image]:
    """An image whose size is known to be safe; an error where Pillow would warn.

    The filters of warnings are the process's, and one thread at a time may change them.
    """
    from PIL import Image

    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        file = Image.open(stream)
    with file:
        yield file


@contextmanager
def _named(name: Callable[[], str]) -> Iterator[None]:
    """Within: what Pillow raises becomes a sentence that names the image."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name()} cannot be decoded as an image: its format is none that is known"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{name()} is larger than the {Image.MAX_IMAGE_PIXELS} pixels that are taken for safe: scale it down"
        ) from error
    except DAMAGED as error:
        raise ValueError(f"{name()} cannot be decoded as an image: {error}") from error


def _decode_one(item: bytes | Path, name: Callable[[], str], image_size: int | None) -> Pixels:
    """One image as uint8, shape (H, W, C) with C 1 or 3."""
    from PIL import Image, ImageOps

    with _named(name), _stream(item) as stream, _opened(stream) as file:
        mode = file.mode
        ImageOps.exif_transpose(file, in_place=True)  # cameras store which side is up
        image, opacity = _with_opacity(file)
    if mode in ("I", "F"):  # nothing says which values are black and white
        raise ValueError(f"images must have 8 or 16 bits a channel; {name()} has mode {mode}: convert it")
    if opacity is not None:
        image = _on_white(image, opacity, name)
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
