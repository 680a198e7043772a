"""Which files are read as images, and how: regular, visible, upright, of one size, and none too large."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from _data_helpers import pixels, png, write_folder, write_image
from maxl.experiments.data import image_files, load


def huge_png(side: int) -> bytes:
    """A PNG file of a few bytes that says it is side by side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"))
    (tmp_path / "a" / "._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"Bud1")
    write_folder(tmp_path, (".thumbs", "a/.cache"))
    data = load(str(tmp_path))
    assert data.primary_names == ("a", "b")
    assert len(data.train) + len(data.test) == 10
    assert len(image_files(tmp_path)) == 10


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bind(path: Path) -> None:
    """Leaves a socket, made under its short name: a socket's path may not be long."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.bind(path.name)
    finally:
        os.chdir(before)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, bind, endless])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    write_folder(tmp_path, ("a", "b"))
    make(tmp_path / "a" / "x.png")
    with pytest.raises(ValueError, match=r"only regular files are read; '.*x.png' is"):
        load(str(tmp_path))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_pipe_is_no_table(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="only regular files are read"):
        load(str(tmp_path / name))


def test_a_table_that_leads_to_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "t.csv").write_text("file,label\n" + "x.png,0\nx.png,1\n" * 5)
    with pytest.raises(ValueError, match="only regular files are read"):
        load(str(tmp_path / "t.csv"))


def test_links_to_nothing_are_named_and_links_to_folders_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", ("a",))
    write_folder(tmp_path / "elsewhere", ("dogs",))
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "data" / "b" / "up").symlink_to(tmp_path / "elsewhere")  # without end, if it were followed
    data = load(str(tmp_path / "data"))
    assert data.primary_names == ("a", "b")
    assert len(data.train) + len(data.test) == 10
    (tmp_path / "data" / "a" / "z.png").symlink_to(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match=r"z.png' is missing, a link to nothing"):
        load(str(tmp_path / "data"))


def test_a_class_whose_files_are_no_known_images_does_not_vanish(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"'.*c' holds none, but '0.heic'"):
        load(str(tmp_path))


def test_a_folder_of_the_same_name_in_every_class_is_no_finer_class(tmp_path: Path) -> None:
    write_folder(tmp_path, ("cat/images", "dog/images"))
    data = load(str(tmp_path))
    assert (data.primary_names, data.human_names) == (("cat", "dog"), None)


def test_parts_of_different_image_sizes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ("a", "b"))
    write_folder(tmp_path / "test", ("a", "b"), size=(9, 6))
    with pytest.raises(ValueError, match=r"'.*test' are 9x6, those of '.*train' 6x6: pass image_size"):
        load(str(tmp_path))
    assert load(str(tmp_path), image_size=6).input_shape == (3, 6, 6)


@pytest.mark.parametrize("side", [12_000, 100_000, 2**31 - 1])
def test_images_that_would_fill_the_memory_are_refused(tmp_path: Path, side: int) -> None:
    write_folder(tmp_path, ("a", "b"))
    (tmp_path / "a" / "z.png").write_bytes(huge_png(side))
    with pytest.raises(ValueError, match=r"z.png' is larger than the \d+ pixels that are taken for safe"):
        load(str(tmp_path))


def test_images_are_turned_upright_as_their_camera_says(tmp_path: Path) -> None:
    grey = pixels(1, 8, 6, 1)[0, :, :, 0]
    turned = Image.Exif()
    turned[0x0112] = 6  # the first row is the right side
    for label in "ab":
        write_image(tmp_path / label / "0.png", grey[:, :, None])
        Image.fromarray(np.rot90(grey).copy()).save(tmp_path / label / "1.png", exif=turned)
    data = load(str(tmp_path))
    assert data.input_shape == (1, 8, 6)
    assert {x.numpy().tobytes() for x in data.train.x} == {grey.tobytes()}


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"))
    whole = png(pixels(1, 6, 6)[0])
    for broken in (b"", b"text", whole[: len(whole) // 2], whole[:33]):
        (tmp_path / "a" / "0.png").write_bytes(broken)
        with pytest.raises(ValueError, match=r"0.png' cannot be decoded as an image"):
            load(str(tmp_path))
