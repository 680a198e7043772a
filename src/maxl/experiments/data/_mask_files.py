"""Decoding the file of a mask: the values that stand in it, not what they look like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maxl.experiments.data._files import require_regular
from maxl.experiments.data._images import DAMAGED, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

_HEAD = 1024  # bytes within which a file says of how many bits its values are
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF
_LOSSY = ("jpeg", "tiff_jpeg", "webp")  # ways to compress a TIFF


class PaletteColours:
    """The colours that palettes of masks give to the numbers of classes: one for each number, whatever the file.

    Where files of one data set differ in that, a number does not mean one class: programs number the colours of each image
    anew where they make its palette.
    """

    def __init__(self) -> None:
        # Of each number its colour, and the file that had it first.
        self._first: dict[int, tuple[str, Path]] = {}

    def add(self, file: Path, values: Pixels, palette: npt.NDArray[np.uint8]) -> None:
        """Take in the mask of a file: uint8 of any shape, and its palette, uint8 of shape (256, 3).

        Raises:
            ValueError: if a number that the mask uses had another colour before.
        """
        used = np.zeros(256, dtype=bool)
        used[values] = True
        numbers = np.flatnonzero(used)
        if (palette[numbers] == numbers[:, None]).all():  # greys as an image without a palette has them
            return
        for number in numbers.tolist():
            colour = "#" + palette[number].tobytes().hex()
            known, first = self._first.setdefault(number, (colour, file))
            if colour != known:
                raise ValueError(
                    f"palettes of masks need one colour for each number; {number} is {colour} in '{file}', {known} in "
                    f"'{first}': number the classes alike in all files, and write them as grey PNG of 8 bits"
                )


def decode_indices(file: Path, colours: PaletteColours) -> Pixels:
    """A mask, its values as they stand: grey levels or entries of a palette, uint8 of shape (H, W).

    Args:
        file: The mask.
        colours: Of the masks before it; takes in those of this one.

    Raises:
        ValueError: if the file cannot be decoded, has colours, a value above 255, does not keep values as they are, or gives
            a value another colour than a mask before it.
    """
    from PIL import Image

    try:
        with Image.open(require_regular(file)) as image:
            with open(file, "rb") as stream:
                head = stream.read(_HEAD)
            other = _keeps_other_values(image, head)
            mode, values = image.mode, np.asarray(image)
            palette = _palette(image)
    except DAMAGED as error:
        raise ValueError(f"'{file}' cannot be decoded as a mask: {error}") from error
    if other:
        raise ValueError(
            f"a mask needs a file that keeps values as they are; '{file}' is {other}: write the numbers of the classes "
            "as PNG of 8 bits"
        )
    if values.ndim != 2 or mode[0] == "F":
        raise ValueError(
            f"a mask needs one channel, the numbers of the classes, grey or by palette; '{file}' has mode {mode}: "
            "convert it"
        )
    if values.dtype != np.uint8:
        if values.min() < 0 or values.max() > 255:
            raise ValueError(
                f"a mask needs values of 0 to 255; '{file}' has {values.min()} to {values.max()}"
            )
        values = values.astype(np.uint8)
    if palette is not None:
        colours.add(file, values, palette)
    return values // _step(head)


def _palette(image: Image) -> npt.NDArray[np.uint8] | None:
    """The 256 colours of a palette, uint8 of shape (256, 3), black where it has fewer; None where there is none."""
    listed = image.getpalette("RGB") if image.mode == "P" else None
    if listed is None:
        return None
    return np.array((listed + [0] * 768)[:768], dtype=np.uint8).reshape(256, 3)


def _step(head: bytes) -> int:
    """What Pillow has multiplied values by: those of a grey PNG of 2 or 4 bits, so that the largest is white."""
    if not head.startswith(b"\x89PNG"):
        return 1
    bits, colours = head[24], head[25]  # of the first chunk, which is always the same
    return 255 // (2**bits - 1) if colours == 0 and bits in (2, 4) else 1


def _keeps_other_values(image: Image, head: bytes) -> str:
    """What a file is whose values are read as others than were written; "" for one that keeps them."""
    if image.format in ("JPEG", "MPO") or image.info.get("compression") in _LOSSY:
        return f"a {image.format} that gives up some of them to save room"
    if image.format == "GIF":
        return "a GIF, whose values programs number anew"
    if image.format == "TIFF":
        tags = image.getexif()
        bits, photometric = tags.get(_BITS, 1), tags.get(_PHOTOMETRIC)
        if photometric == 0:
            return "a TIFF in which 0 is white"
        if photometric == 1 and bits in (2, 4, (2,), (4,)):
            return f"a grey TIFF of {bits if isinstance(bits, int) else bits[0]} bits"
    if image.format == "PPM":
        kind, *_, largest = re.sub(rb"#[^\n]*", b"", head).split(maxsplit=4)[:4]
        if kind in (b"P1", b"P4") or (kind in (b"P2", b"P5") and largest not in (b"255", b"65535")):
            return "a PGM whose white is neither 255 nor 65535"
    return ""
