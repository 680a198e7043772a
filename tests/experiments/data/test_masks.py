"""Masks: the values that stand in their files, as classes, whatever kind of file it is; or a refusal."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from maxl.experiments.data import IGNORED, load

Values = npt.NDArray[np.uint8]
SIDE = 8


def grey_png(file: Path, values: Values, bits: int) -> None:
    """A grey PNG of so many bits a pixel, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = values.shape
    digits = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - bits :]
    rows = b"".join(b"\0" + np.packbits(row.reshape(-1)).tobytes() for row in digits)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def folder(
    root: Path, masks: list[Values], suffix: str = "png", write: Callable[[Path, Values], None] | None = None
) -> Path:
    """Images with masks, as a function of file and values writes these."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for i, values in enumerate(masks):
        Image.fromarray(np.zeros(values.shape, np.uint8)).save(root / "images" / f"{i}.png")
        file = root / "masks" / f"{i}.{suffix}"
        if write is None:
            Image.fromarray(values).save(file)
        else:
            write(file, values)
    return root


def drawn(values: list[int], count: int = 5) -> list[Values]:
    """Masks of these values."""
    random = np.random.default_rng(0)
    return [random.choice(np.array(values, np.uint8), (SIDE, SIDE)) for _ in range(count)]


def written(root: Path) -> Values:
    """The classes of all samples, as they lie in the folder: image after image."""
    data = load(str(root))
    found = np.zeros((len(data.train) + len(data.test), SIDE, SIDE), np.uint8)
    for part in (data.train, data.test):
        assert part.rows is not None
        found[part.rows.numpy()] = part.primary.numpy()
    return found


def refused(root: Path, **more: object) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        load(str(root), **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pgm(file: Path, values: Values, largest: int = 255) -> None:
    file.write_bytes(b"P5\n# made by hand\n%d %d\n%d\n" % (*values.shape, largest) + values.tobytes())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_png_holds_the_classes_that_were_written_whatever_its_bits(bits: int, tmp_path: Path) -> None:
    masks = drawn(list(range(min(16, 2**bits))))
    root = folder(tmp_path, masks, write=lambda file, values: grey_png(file, values, bits))
    assert (written(root) == np.stack(masks)).all()


@pytest.mark.parametrize("values", [[0, 1, 2, 3], [0, 3], [2, 5, 9]])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "pgm"])
def test_files_that_keep_values_hold_the_classes_that_were_written(
    suffix: str, values: list[int], tmp_path: Path
) -> None:
    masks = drawn(values)
    assert (written(folder(tmp_path, masks, suffix)) == np.stack(masks)).all()


def test_files_that_do_not_keep_values_are_refused(tmp_path: Path) -> None:
    masks = drawn([0, 1, 2, 3])
    told = refused(folder(tmp_path / "jpg", masks, "jpg"))
    assert "keeps values as they are" in told
    assert "masks/0.jpg' is a JPEG" in told
    assert "PNG of 8 bits" in told

    told = refused(folder(tmp_path / "gif", drawn([0, 3]), "gif"))
    assert "masks/0.gif' is a GIF, whose values programs number anew: write the numbers" in told

    def within_tiff(file: Path, values: Values) -> None:
        Image.fromarray(values).save(file, compression="jpeg")

    assert "is a TIFF that gives up" in refused(folder(tmp_path / "in", masks, "tiff", within_tiff))

    def inverted(file: Path, values: Values) -> None:
        Image.fromarray(values).save(file, tiffinfo={262: 0})

    assert "0 is white" in refused(folder(tmp_path / "inverted", masks, "tiff", inverted))
    of_three = folder(tmp_path / "three", masks, "pgm", lambda file, values: pgm(file, values, 3))
    assert "is a PGM whose white is neither" in refused(of_three)
    assert len(load(str(folder(tmp_path / "kept", masks, "pgm", pgm))).primary_names) == 4


def test_masks_of_0_and_255_are_no_classes_by_default(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", drawn([0, 255]))
    told = refused(root)
    assert "two classes or more to train on" in told
    assert "has '0' alone, and --ignore-index leaves 5" in told
    assert "classes.txt" in told
    out = tmp_path / "never"
    command = [sys.executable, "-m", "maxl", "train", "--data", str(root), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "two classes or more" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_one_class_alone_is_refused_with_names_too(tmp_path: Path) -> None:
    root = folder(tmp_path, drawn([1]))
    (root / "classes.txt").write_text("road\nsky\n")
    assert "has 'sky' alone: masks hold" in refused(root)


@pytest.mark.parametrize("values", [[0, 128], [0, 127, 254], [0, 60, 120, 180], [0, 255]])
def test_classes_made_visible_as_grey_are_refused(values: list[int], tmp_path: Path) -> None:
    root = folder(tmp_path, drawn(values))
    told = refused(root, ignore_index=7)
    assert f"hold {', '.join(map(str, values))}, as grey for the eye" in told
    assert f"divide them by {values[1]}, or name the classes" in told
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(256)))
    data = load(str(root), ignore_index=7)
    assert f"masks hold {len(values)} of the 256 classes of classes.txt" in data.saw
    assert len(data.primary_names) == 256


# Ids of Cityscapes, Pascal VOC and of things and stuff, in few images.
@pytest.mark.parametrize("values", [[1, 3, 7, 11, 23, 26, 33], [0, 15], [0, 20], [6, 120, 181], [0, 1, 2]])
def test_numbers_of_classes_may_have_gaps_and_it_is_said_how_many_occur(
    values: list[int], tmp_path: Path
) -> None:
    root = folder(tmp_path, drawn([*values, 255]))
    data = load(str(root))
    classes = values[-1] + 1
    assert len(data.primary_names) == classes
    more = f" of the {classes} that their largest value, {values[-1]}, asks for" * (classes > len(values))
    assert data.saw.splitlines()[:2] == [
        "each image has a mask: segmentation",
        f"masks hold {len(values)} classes{more}",
    ]
    assert (
        load(str(root), task="segmentation").saw.splitlines()[0] == f"masks hold {len(values)} classes{more}"
    )


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_whose_pixels_all_count_for_nothing_is_refused(part: str, tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        folder(tmp_path / name, drawn([255 if name == part else 0, 255 if name == part else 1]))
    assert "all have the value 255, which is ignored" in refused(tmp_path)


@pytest.mark.parametrize("validation", [0, 2])
def test_a_part_that_is_cut_off_needs_pixels_that_count(validation: int, tmp_path: Path) -> None:
    masks = drawn([0, 1], 10)
    data = load(str(folder(tmp_path, masks)), validation_size=validation)
    part = data.test if data.validation is None else data.validation
    assert (part.primary != IGNORED).all()
    assert part.rows is not None
    for i in part.rows.tolist():
        masks[i][:] = 255
    told = refused(folder(tmp_path, masks), validation_size=validation)
    assert f"{'validation' if validation else 'test'} part of" in told
    assert "has none, and --ignore-index leaves 100% of its pixels out: leave out images" in told
    masks[int(part.rows[0])][0] = 1  # void images are no matter where others are not
    load(str(folder(tmp_path, masks)), validation_size=validation)
