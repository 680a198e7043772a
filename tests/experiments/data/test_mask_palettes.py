"""Palettes of masks: colours are no classes, but a number whose colour differs from file to file is none either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from maxl.experiments.data import labelled_masks, load

Values = npt.NDArray[np.uint8]
SIDE = 8
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def drawn(classes: list[int]) -> Values:
    values = np.resize(np.array(classes, np.uint8), (SIDE, SIDE))
    return np.random.default_rng(len(classes)).permuted(values, axis=1)


def with_palette(values: Values, colours: Values = COLOURS) -> Image.Image:
    """The values as they are, shown in these colours."""
    image = Image.fromarray(values)
    image.putpalette(colours.tobytes())
    return image


def by_its_own_colours(values: Values) -> Image.Image:
    """As a program saves a picture in colours with a palette: of those that occur in it."""
    coloured = Image.fromarray(COLOURS[values])
    return coloured.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)


def folder(root: Path, masks: list[Image.Image], suffix: str = "png") -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i, mask in enumerate(masks):
        Image.new("L", (SIDE, SIDE)).save(root / f"images/{i}.png")
        mask.save(root / f"masks/{i}.{suffix}")
    return root


MASKS = [drawn([0, 1]), drawn([0, 2]), drawn([0, 1, 2]), drawn([0, 2]), drawn([1, 2])]


def test_palettes_of_each_image_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, [by_its_own_colours(values) for values in MASKS])
    with pytest.raises(
        ValueError, match=r"palettes of masks need one colour for each number; \d is #"
    ) as caught:
        load(str(root))
    told = str(caught.value)
    assert str(root / "masks/0.png") in told
    assert told.endswith("number the classes alike in all files, and write them as grey PNG of 8 bits")
    with pytest.raises(ValueError, match="palettes of masks need one colour"):
        labelled_masks(root, ("none", "red", "green"), (SIDE, SIDE), 255)


def test_parts_need_one_palette_together(tmp_path: Path) -> None:
    folder(tmp_path / "train", [with_palette(values) for values in MASKS])
    folder(tmp_path / "test", [with_palette(values, COLOURS[[0, 2, 1]]) for values in MASKS])
    with pytest.raises(ValueError, match=r"#00ff00 in '.*test/masks/.*#ff0000 in '.*train/masks/"):
        load(str(tmp_path))


def unused(values: Values) -> Image.Image:
    """Another colour where it shows nothing."""
    colours = COLOURS.copy()
    colours[np.setdiff1d([0, 1, 2], values)] = 77
    return with_palette(values, colours)


def shortest(values: Values) -> Image.Image:
    return with_palette(values, COLOURS[: values.max() + 1])


def sometimes_grey(values: Values) -> Image.Image:
    """Files that say nothing of colours, beside others: by no palette, or by the one that a grey image has."""
    if (values == 1).any() and (values == 2).any():
        return with_palette(values, np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 3))
    return Image.fromarray(values) if (values == 1).any() else with_palette(values)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
@pytest.mark.parametrize("write", [with_palette, unused, shortest, sometimes_grey])
def test_values_count_as_they_stand_where_palettes_agree_on_what_is_used(
    write: Callable[[Values], Image.Image], suffix: str, tmp_path: Path
) -> None:
    data = load(str(folder(tmp_path, [write(values) for values in MASKS], suffix)))
    for part in (data.train, data.test):
        assert part.rows is not None
        for row, mask in zip(part.rows.tolist(), part.primary.numpy(), strict=True):
            assert np.array_equal(mask, MASKS[row])
