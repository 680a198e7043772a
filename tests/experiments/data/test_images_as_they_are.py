"""Image files of every kind, as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maxl.experiments.data import decode, load

GREY = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


def read(file: Path) -> torch.Tensor:
    return decode([file], 1, lambda _: f"'{file}'", None)[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P"])
def test_coloured_files_of_any_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    colours = Image.fromarray(np.stack([GREY, GREY[::-1], 255 - GREY], 2))
    file = tmp_path / "image.tif"
    colours.convert(mode).save(file)
    expected = np.asarray(colours.convert(mode).convert("RGB")).transpose(2, 0, 1)
    assert torch.equal(read(file), torch.from_numpy(expected.copy()))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(file)
    assert torch.equal(read(file), torch.from_numpy(GREY)[None])


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY[:2]).save(file, exif=exif)
    assert torch.equal(read(file)[0], torch.from_numpy(np.rot90(GREY[:2], -1).copy()))


def test_grey_of_32_bits_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    Image.fromarray(GREY.astype(np.float32)).save(file)
    with pytest.raises(ValueError, match=r"8 or 16 bits a channel; '.*image.tif' has mode F"):
        read(file)


def test_nested_folders_are_finer_classes_named_by_their_path(tmp_path: Path) -> None:
    for parent in ("cat", "dog"):
        for child in ("indoors", "outdoors"):
            (tmp_path / parent / child).mkdir(parents=True)
            for i in range(5):
                Image.fromarray(GREY).save(tmp_path / parent / child / f"{i}.png")
    data = load(str(tmp_path))
    assert data.primary_names == ("cat", "dog")
    assert data.human_names == ("cat/indoors", "cat/outdoors", "dog/indoors", "dog/outdoors")


def test_a_table_of_paths_may_have_several_labels_an_image(tmp_path: Path) -> None:
    lines = ["image,red,round"]
    for i in range(10):
        Image.fromarray(GREY).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{int(i > 4)}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    data = load(str(tmp_path / "data.csv"), primary=("red", "round"))
    assert data.task == "multi-label"
    assert data.input_shape == (1, 4, 4)


def test_columns_beside_those_of_images_and_labels_are_said_to_be_of_no_use(tmp_path: Path) -> None:
    lines = ["image,age,kind"]
    for i in range(10):
        Image.fromarray(GREY).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i},{'xy'[i % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    said = "the images of column 'image' are the inputs; not used: age (--types COLUMN=KIND takes them in)"
    assert said in load(str(tmp_path / "data.csv"), primary="kind").saw.splitlines()
    assert "not used" not in load(str(tmp_path / "data.csv"), primary="kind", human="age").saw


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_orientation_is_read_as_it_is_shown(
    orientation: int, kind: str, channels: int, tmp_path: Path
) -> None:
    values = np.arange(6 * channels, dtype=np.uint8).reshape(2, 3, channels) * 10
    shown = np.rot90(values, {3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}.get(orientation, 0))
    shown = shown[:, ::-1] if orientation in (2, 4, 5, 7) else shown
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"image.{kind}"
    Image.fromarray(values.squeeze()).save(file, exif=exif)
    assert np.array_equal(read(file).permute(1, 2, 0).numpy(), shown)
