"""Images that are transparent in parts, in every way that files say so: as they look on white, on every path."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from maxl.experiments.data import decode, load
from maxl.experiments.runs.inputs import read_image

SIDE = 6
RANDOM = np.random.default_rng(0)
GREY: npt.NDArray[np.uint8] = RANDOM.integers(1, 200, (SIDE, SIDE), dtype=np.uint8)
COLOURS: npt.NDArray[np.uint8] = RANDOM.integers(1, 200, (SIDE, SIDE, 3), dtype=np.uint8)
SHAPE = np.zeros((SIDE, SIDE), dtype=bool)
SHAPE[1:4, 2:5] = True


def encoded(image: Image.Image, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **more)
    return stream.getvalue()


def with_opacity(values: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint8]) -> bytes:
    """Grey or coloured values with an alpha channel."""
    return encoded(Image.fromarray(np.dstack([values, opacity]), "LA" if values.ndim == 2 else "RGBA"))


def read(content: bytes) -> npt.NDArray[np.uint8]:
    image = decode([content], 1, lambda _: "'icon'", None)[0].permute(1, 2, 0).numpy()
    return image.squeeze(2) if image.shape[2] == 1 else image


def opaque_in(shape: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.where(shape, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("values", [GREY, COLOURS])
def test_what_is_transparent_is_white_and_what_is_not_keeps_its_bits(values: npt.NDArray[np.uint8]) -> None:
    seen = read(with_opacity(values, opaque_in(SHAPE)))
    assert np.array_equal(seen[SHAPE], values[SHAPE])
    assert (seen[~SHAPE] == 255).all()


@pytest.mark.parametrize("values", [GREY, COLOURS])
def test_opaque_images_keep_every_bit(values: npt.NDArray[np.uint8]) -> None:
    assert np.array_equal(read(with_opacity(values, opaque_in(np.ones_like(SHAPE)))), values)


def test_half_transparent_pixels_lie_between_their_own_and_white() -> None:
    opacity = RANDOM.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    part = opacity[:, :, None] / 255
    assert np.abs(read(with_opacity(COLOURS, opacity)) - (COLOURS * part + 255 * (1 - part))).max() <= 1


def palette_of(key: int | bytes) -> bytes:
    image = Image.fromarray(np.where(SHAPE, 1, 0).astype(np.uint8))
    image.putpalette([9, 9, 9, 40, 50, 60])
    return encoded(image, transparency=key)


def test_a_colour_that_stands_for_transparent_is_white_too() -> None:
    for content in (palette_of(0), palette_of(b"\x00\xff")):
        seen = read(content)
        assert (seen[SHAPE] == (40, 50, 60)).all()
        assert (seen[~SHAPE] == 255).all()
    assert (read(palette_of(7))[~SHAPE] == 9).all()  # of which no pixel is
    keyed = np.where(SHAPE, 80, 0).astype(np.uint8)
    assert np.array_equal(
        read(encoded(Image.fromarray(keyed), transparency=0)), np.where(SHAPE, 80, 255).astype(np.uint8)
    )
    coloured = encoded(Image.fromarray(np.dstack([keyed] * 3)), transparency=(0, 0, 0))
    assert np.array_equal(read(coloured)[:, :, 0], np.where(SHAPE, 80, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "opacity"),
    [
        (np.full_like(COLOURS, 255), opaque_in(SHAPE)),  # drawn in white
        (COLOURS, np.zeros((SIDE, SIDE), np.uint8)),  # nothing to see at all
    ],
)
def test_images_of_which_nothing_is_left_on_white_are_refused(
    values: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint8]
) -> None:
    with pytest.raises(
        ValueError, match=r"something on white, .*; 'icon' is of one colour there: save it without"
    ):
        read(with_opacity(values, opacity))


def test_an_image_that_is_empty_is_white() -> None:
    nothing = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert (read(with_opacity(nothing, opaque_in(SHAPE & False))) == 255).all()


def folder(root: Path, write: Callable[[Path, bytes], object] = Path.write_bytes) -> list[bytes]:
    """Icons whose classes differ by their transparency alone, of black below; a table of them beside the folder."""
    files = []
    for name, shape in (("cat", SHAPE), ("dog", SHAPE.T)):
        (root / "icons" / name).mkdir(parents=True)
        content = with_opacity(np.zeros((SIDE, SIDE, 3), np.uint8), opaque_in(shape))
        for i in range(5):
            write(root / "icons" / name / f"{i}.png", content)
            files.append(content)
    labels = [i // 5 for i in range(10)]
    pq.write_table(pa.table({"image": files, "label": labels}), root / "icons.parquet")
    return files


@pytest.mark.parametrize("name", ["icons", "icons.parquet"])
def test_all_paths_see_the_same(name: str, tmp_path: Path) -> None:
    folder(tmp_path)
    held = load(str(tmp_path / name), primary="class" if name == "icons" else "label")
    streamed = load(str(tmp_path / name), primary="class" if name == "icons" else "label", stream=True)
    for number, (shape, kind) in enumerate(((SHAPE, "cat"), (SHAPE.T, "dog"))):
        expected = torch.from_numpy(np.where(shape, 0, 255).astype(np.uint8)).expand(3, SIDE, SIDE)
        for data in (held, streamed):
            mine = (data.train.primary == number).nonzero().squeeze(1)
            assert (data.train.x[mine] == expected).all()
        predicted = read_image(tmp_path / "icons" / kind / "0.png", (3, SIDE, SIDE))
        assert torch.equal(predicted[0], expected)
