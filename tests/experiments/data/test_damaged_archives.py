"""Published archives with a part missing or damaged: named and refused, never read with shifted labels."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _data_helpers import pixels, rows_of_bytes, write_idx, write_pickle
from maxl.experiments.data import load


def cifar10(folder: Path, **first: Any) -> None:
    """CIFAR-10's archive with ten images a batch, one of each class; `first` changes the first batch."""
    root = folder / "cifar-10-batches-py"
    write_pickle(root / "batches.meta", {"label_names": [f"class{i}" for i in range(10)]})
    for i in range(1, 7):
        batch: dict[str, Any] = {"data": rows_of_bytes(pixels(10, seed=i)), "labels": list(range(10))}
        file = root / ("test_batch" if i == 6 else f"data_batch_{i}")
        write_pickle(file, batch | first if i == 1 else batch)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": list(range(9))}, r"10 in all; got 9 of them"),
        ({"labels": list(range(11))}, r"10 in all; got 11 of them"),
        ({"labels": ["x"] * 10}, "one whole number an image"),
        ({"labels": [[1]] * 10}, "one whole number an image"),
        ({"labels": [[1], [1, 2]] * 5}, "one whole number an image"),
        ({"labels": [0.5] * 10}, "one whole number an image"),
        ({"labels": None}, "one whole number an image"),
        ({"data": np.full((10, 3072), 300)}, r"uint8 \(N, 3·S·S\), under 'data'; got int64"),
        ({"data": np.full((10, 3072), np.nan)}, "got float64"),
        ({"data": np.zeros((10, 3070), np.uint8)}, "square images; got 3070 bytes"),
        ({"data": np.zeros((10, 27), np.uint8)}, r"one size; '.*data_batch_2' has \(32, 32\)"),
        ({"data": "x"}, "got str"),
    ],
)
def test_batches_need_an_image_a_label(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    cifar10(tmp_path, **changed)
    with pytest.raises(ValueError, match=message) as caught:
        load("cifar10", data_dir=tmp_path)
    assert "data_batch_1" in str(caught.value)


@pytest.mark.parametrize("names", [{}, {"label_names": 5}, {"label_names": ["a", "a"]}, {"label_names": [1]}])
def test_class_names_are_a_list_of_different_names(tmp_path: Path, names: dict[str, Any]) -> None:
    cifar10(tmp_path)
    write_pickle(tmp_path / "cifar-10-batches-py" / "batches.meta", names)
    with pytest.raises(ValueError, match=r"batches.meta' needs a list of different class names"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"R.",
        b"cnumpy\ndtype\n(S'zzz'\ntR.",
        b"cnumpy\ndtype\n(I5\ntR.",
        b"cnumpy\nndarray\n((I1000000\nI1000000\nI1000000\nttR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(S'a'\n(I1\ntS'b'\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"X\xff\xff\xff\x7f",
    ],
)
def test_damaged_pickles_are_named(tmp_path: Path, content: bytes) -> None:
    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_3' cannot be read as a pickled batch"):
        load("cifar10", data_dir=tmp_path)


def mnist(folder: Path, side: int = 8) -> None:
    for prefix, count in (("train", 30), ("t10k", 10)):
        for kind, content in (
            ("images-idx3", pixels(count, side, side, 1)[..., 0]),
            ("labels-idx1", np.arange(count) % 10),
        ):
            file = folder / f"{prefix}-{kind}-ubyte"
            write_idx(file, content)
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()


def wrong_checksum(content: bytes) -> bytes:
    return content[:-8] + b"\0\0\0\0" + content[-4:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:50],
        lambda content: b"hello",
        lambda content: b"",
        lambda content: content[:12] + b"\xff" * 50,
        wrong_checksum,
        lambda content: gzip.compress(b"\0" * (1 << 20)),
        lambda content: gzip.compress(gzip.decompress(content) + b"\0"),
        lambda content: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
        lambda content: gzip.compress(b"\0\0\x08\x01\0\0\0\x1e" + b"\0" * 30),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz' is (damaged|no complete idx file)"):
        load("mnist", data_dir=tmp_path)


def test_a_small_file_that_unpacks_to_a_large_one_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist(tmp_path)
    head = b"\0\0\x08\x03" + b"\0\0\0\x02" * 3
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + b"\0" * (1 << 26)))
    taken: list[int] = []
    read = gzip.GzipFile.read

    def counting(self: gzip.GzipFile, size: int = -1) -> bytes:
        content = read(self, size)
        taken.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    with pytest.raises(ValueError, match="no complete idx file"):
        load("mnist", data_dir=tmp_path)
    assert sum(taken) < 100


def test_test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path)
    for file in tmp_path.glob("t10k-images*"):
        file.unlink()
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pixels(10, 9, 9, 1)[..., 0])
    with pytest.raises(ValueError, match=r"are 9x9, those of '.*train-images-idx3-ubyte.gz' 8x8"):
        load("mnist", data_dir=tmp_path)


def imagenet32(folder: Path) -> None:
    for file, count in (("train_data_batch_1", 20), ("val_data", 10)):
        np.savez(
            folder / f"{file}.npz", data=rows_of_bytes(pixels(count, 8, 8)), labels=np.arange(count) % 5 + 1
        )


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4 no more", b"\x93NUMPY\x01\0"])
def test_damaged_npz_files_are_named(tmp_path: Path, content: bytes) -> None:
    imagenet32(tmp_path)
    (tmp_path / "train_data_batch_1.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"train_data_batch_1.npz' cannot be read as an .npz file"):
        load("imagenet32", data_dir=tmp_path)


def test_a_zip_file_without_arrays_is_no_npz_file(tmp_path: Path) -> None:
    imagenet32(tmp_path)
    with zipfile.ZipFile(tmp_path / "train_data_batch_1.npz", "w") as archive:
        archive.writestr("data.npy", b"no array")
        archive.writestr("labels.npy", b"")
    with pytest.raises(ValueError, match=r"train_data_batch_1.npz' (cannot be read|needs one row of bytes)"):
        load("imagenet32", data_dir=tmp_path)


def test_a_single_array_is_no_npz_file(tmp_path: Path) -> None:
    imagenet32(tmp_path)
    with (tmp_path / "train_data_batch_1.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match=r"train_data_batch_1.npz' cannot be read as an .npz file"):
        load("imagenet32", data_dir=tmp_path)


def test_a_batch_that_is_there_twice_is_not_read_twice(tmp_path: Path) -> None:
    imagenet32(tmp_path)
    write_pickle(
        tmp_path / "train_data_batch_1", {"data": rows_of_bytes(pixels(20, 8, 8)), "labels": [1] * 20}
    )
    with pytest.raises(ValueError, match=r"train_data_batch_1 pickled and as .npz: keep one"):
        load("imagenet32", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": None}, "needs images as 'X'"),
        ({"X": np.zeros((8, 60), np.uint8)}, "needs images as 'X'"),
        ({"X": np.zeros((8, 8, 3, 20))}, "needs images as 'X'"),
        ({"y": None}, "needs a digit an image as 'y'"),
        ({"y": np.ones((19, 1), np.uint8)}, "needs a digit an image as 'y'"),
        ({"y": np.full((20, 1), np.nan)}, "needs a digit an image as 'y'"),
        ({"y": np.full((20, 1), 11)}, "needs a digit an image as 'y'"),
        ({"y": np.full((20, 1), 0.5)}, "needs a digit an image as 'y'"),
    ],
)
def test_svhn_needs_a_digit_an_image(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    from scipy.io import savemat

    whole = {"X": np.zeros((8, 8, 3, 20), np.uint8), "y": np.arange(20)[:, None] % 10 + 1}
    savemat(tmp_path / "test_32x32.mat", whole)
    savemat(tmp_path / "train_32x32.mat", {k: v for k, v in (whole | changed).items() if v is not None})
    with pytest.raises(ValueError, match=rf"train_32x32.mat' {message}"):
        load("svhn", data_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM"])
def test_damaged_mat_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"train_32x32.mat' cannot be read as a MAT file"):
        load("svhn", data_dir=tmp_path)


PAIRS = [[f"word{i} there", f"intent{i % 4}"] for i in range(40)]
CLINC = {part: PAIRS for part in ("train", "val", "test")}
DOMAINS = {"one": ["intent0", "intent1"], "two": ["intent2", "intent3"]}


@pytest.mark.parametrize(
    ("sentences", "domains", "message"),
    [
        ({"train": PAIRS}, DOMAINS, "data_full.json', test: needs a list"),
        (CLINC | {"train": [["a", "b", "c"]]}, DOMAINS, r"train, row 0: needs \[text, intent\]"),
        (CLINC | {"train": [*PAIRS, [None, "intent0"]]}, DOMAINS, "train, row 40: needs"),
        (CLINC | {"train": [["a b", ["intent0"]]]}, DOMAINS, "train, row 0: needs"),
        ([1], DOMAINS, "data_full.json' needs to hold a dictionary; got list"),
        (CLINC, ["one"], "domains.json' needs to hold a dictionary; got list"),
        (CLINC, {"one": 5}, "domains.json' needs a list of intents for 'one'"),
        (CLINC, {"one": ["intent0"]}, "no domain for the intent 'intent1' of .*, row 1"),
        (CLINC, DOMAINS | {"two": ["intent1", "intent2"]}, "'intent1' into both 'one' and 'two'"),
        (CLINC | {"test": []}, DOMAINS, "data_full.json', test is empty"),
    ],
)
def test_sentences_need_one_intent_in_one_domain(
    tmp_path: Path, sentences: Any, domains: Any, message: str
) -> None:
    (tmp_path / "data_full.json").write_text(json.dumps(sentences))
    (tmp_path / "domains.json").write_text(json.dumps(domains))
    with pytest.raises(ValueError, match=message):
        load("clinc150", data_dir=tmp_path)


@pytest.mark.parametrize("content", [b"{", b'{"train": "\xff"}', b"[" * 100_000])
def test_damaged_json_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data_full.json").write_bytes(content)
    (tmp_path / "domains.json").write_text(json.dumps(DOMAINS))
    with pytest.raises(ValueError, match=r"data_full.json' cannot be read as JSON"):
        load("clinc150", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "mnist", "imagenet32"])
def test_an_archive_that_does_not_fit_is_refused_before_it_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    {"cifar10": cifar10, "mnist": mnist, "imagenet32": imagenet32}[name](tmp_path)
    monkeypatch.setattr("maxl.experiments.data._memory._SMALL", 0)
    monkeypatch.setattr("maxl.experiments.data._memory.available_memory", lambda: 100)
    with pytest.raises(
        ValueError, match=r"need 0.00 GiB, and 0.00 GiB are available: free some, or write the"
    ):
        load(name, data_dir=tmp_path)
