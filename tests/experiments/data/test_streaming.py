"""Samples that stay on disk: the same as in memory, to the bit, and refused where they cannot be."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from _data_helpers import pixels, png, write_csv, write_folder, write_image, write_parquet
from maxl.experiments.data import (
    BatchStream,
    DataSet,
    Split,
    StreamedSamples,
    Unreadable,
    evaluation_batches,
    load,
)

NAMES = {"label": ("a", "b", "c")}


def flat(root: Path) -> str:
    write_folder(root / "flat", ("a", "b", "c"), 10, (9, 7))
    return str(root / "flat")


def nested(root: Path) -> str:
    for part in ("train", "test"):
        for name in "ab":
            write_folder(root / "nested" / part / name, ("x", "y"), 4)
    return str(root / "nested")


def paths(root: Path) -> str:
    flat(root)
    rows = [f"flat/{name}/{i}.png,{name}" for i in range(10) for name in "abc"]
    (root / "paths.csv").write_text("\n".join(["file,label", *rows]))
    return str(root / "paths.csv")


def paths_in_parquet(root: Path) -> str:
    flat(root)
    files = [f"flat/{name}/{i}.png" for i in range(10) for name in "abc"]
    parquet.write_table(pa.table({"file": files, "label": ["a", "b", "c"] * 10}), root / "paths.parquet")
    return str(root / "paths.parquet")


def images(root: Path) -> str:
    x, y = pixels(30, 6, 6), np.arange(30) % 3
    for i, rows in enumerate((slice(None, 11), slice(11, None))):
        write_parquet(root / "images" / f"train-{i}.parquet", "img", x[rows], {"label": y[rows]}, NAMES)
    write_parquet(root / "images" / "test.parquet", "img", pixels(9, 6, 6, seed=1), {"label": y[:9]}, NAMES)
    return str(root / "images")


def numbers(root: Path, **more: Any) -> str:
    random = np.random.default_rng(0)
    (root / "numbers").mkdir()
    for i in range(3):
        columns = {
            "far": random.normal(1e6, 1e-2, 20),
            "near": random.normal(size=20).astype(np.float32),
            "same": np.full(20, 0.1),
            "count": random.integers(0, 9, 20),
            "label": random.permutation(20) % 3,
        }
        parquet.write_table(
            pa.table(columns | more), root / "numbers" / f"part-{i}.parquet", row_group_size=7
        )
    return str(root / "numbers" / "*.parquet")


LAYOUTS = (flat, nested, paths, paths_in_parquet, images, numbers)


def both(name: str, **options: Any) -> tuple[DataSet, DataSet]:
    return load(name, **options), load(name, stream=True, workers=3, **options)


def everything(x: Tensor | StreamedSamples) -> Tensor:
    return x[torch.arange(len(x))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_labels_and_statistics_are_those_in_memory(
    layout: Callable[[Path], str], tmp_path: Path
) -> None:
    held, streamed = both(layout(tmp_path), validation_size=6, train_size=0.9, seed=3)
    assert isinstance(streamed.train.x, StreamedSamples)
    for a, b in (
        (held.train, streamed.train),
        (held.validation, streamed.validation),
        (held.test, streamed.test),
    ):
        assert a is not None
        assert b is not None
        assert (a.x.shape, a.x.dtype, a.x.ndim) == (b.x.shape, b.x.dtype, b.x.ndim)
        assert torch.equal(everything(a.x), everything(b.x))
        assert torch.equal(a.primary, b.primary)
        assert (a.human is None) == (b.human is None)
        assert a.human is None or torch.equal(a.human, b.human)
    assert (held.mean, held.std, held.features) == (streamed.mean, streamed.std, streamed.features)
    assert (held.primary_names, held.human_names, held.input_shape) == (
        streamed.primary_names,
        streamed.human_names,
        streamed.input_shape,
    )


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_batches_are_a_function_of_seed_and_epoch_whatever_the_number_of_workers(
    workers: int, tmp_path: Path
) -> None:
    name = images(tmp_path)
    held, streamed = load(name), load(name, stream=True, workers=workers)

    def batches(data: DataSet, epoch: int, part: tuple[int, int] = (0, 1)) -> list[Tensor]:
        stream = BatchStream(
            data.train, 7, mean=data.mean, std=data.std, augment=True, seed=5, part=part, drop_last=False
        )
        return [t for b in stream.epoch(epoch) for t in (b.x, b.primary, b.index)]

    for epoch, part in ((0, (0, 1)), (4, (0, 1)), (0, (1, 2))):
        for a, b in zip(batches(held, epoch, part), batches(streamed, epoch, part), strict=True):
            assert torch.equal(a, b)
    looks = (list(evaluation_batches(d.test, 4, d.mean, d.std)) for d in (held, streamed))
    for one, other in zip(*looks, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.primary, other.primary)


def test_a_part_of_a_split_stays_unread(tmp_path: Path) -> None:
    held, streamed = both(flat(tmp_path))
    some = torch.tensor([7, 0, 3])
    part = streamed.train.select(some).select(torch.tensor([True, False, True]))
    assert isinstance(part.x, StreamedSamples)
    assert torch.equal(everything(part.x), held.train.x[some[[0, 2]]])
    assert torch.equal(streamed.train.x[2:5], held.train.x[2:5])
    assert streamed.train.x[[]].shape == (0, *streamed.input_shape)


def test_batches_come_in_order_and_few_are_read_ahead() -> None:
    first, lock, read = threading.Event(), threading.Lock(), list[int]()

    def slow(rows: np.ndarray) -> Tensor:
        with lock:
            read.append(int(rows[0]))
        if rows[0] == 0:
            assert first.wait(10)  # the first batch is the last to be there
        if len(read) == 3:
            first.set()
        return torch.from_numpy(rows).float()[:, None]

    x = StreamedSamples(slow, np.arange(100), (1,), workers=3)
    taken = x.batches(torch.arange(100).split(2))
    assert next(taken)[:, 0].tolist() == [0, 1]
    assert max(read) <= 2 * 6  # two for each worker
    assert [int(batch[0, 0]) for batch in taken] == [*range(2, 100, 2)]
    wide = StreamedSamples(slow, np.arange(100), (1 << 27,), workers=3)  # half a gigabyte each
    read.clear()
    list_of_two = wide.batches(torch.arange(4).split(1))
    with pytest.raises(Unreadable, match="stay as they were when the run began"):
        next(list_of_two)
    assert len(read) == 1


def test_grey_images_follow_coloured_ones_in_their_part_and_in_others(tmp_path: Path) -> None:
    for part, channels in (("train", 3), ("test", 1)):
        for name in "ab":
            for i, image in enumerate(pixels(4, channels=channels)):
                write_image(tmp_path / part / name / f"{i}.png", image if i else image[:, :, :1])
    held, streamed = both(str(tmp_path))
    assert streamed.input_shape == (3, 32, 32)
    for a, b in ((held.train, streamed.train), (held.test, streamed.test)):
        assert torch.equal(everything(a.x), everything(b.x))


def test_images_of_another_size_are_refused_when_the_data_are_opened(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"), 5)
    write_image(tmp_path / "b" / "odd.png", pixels(1, 7, 6)[0])
    with pytest.raises(ValueError, match=r"must all have one size; .*odd.png' is 7x6.*--image-size"):
        load(str(tmp_path), stream=True, train_size=8)
    assert load(str(tmp_path), stream=True, image_size=4).input_shape == (3, 4, 4)


def test_statistics_are_exact_where_a_mean_is_large_beside_the_deviation(tmp_path: Path) -> None:
    columns = {
        "a": 1e9 + 1e-3 * np.random.default_rng(0).normal(size=3000),
        "b": np.full(3000, 0.1),
        "label": np.arange(3000) % 2,
    }
    parquet.write_table(pa.table(columns), tmp_path / "far.parquet")
    data = load(str(tmp_path / "far.parquet"), stream=True)
    x = np.stack([parquet.read_table(tmp_path / "far.parquet")[name].to_numpy() for name in "ab"], axis=1)
    x = x[data.train.rows.numpy()]  # type: ignore[union-attr]
    assert data.features is not None
    np.testing.assert_allclose(data.features.mean, [x[:, 0].mean(), 0.1], rtol=1e-12)
    np.testing.assert_allclose(data.features.std, [(x[:, 0] - x[0, 0]).std(), 1], rtol=1e-9)
    assert everything(data.train.x)[:, 1].count_nonzero() == 0


@pytest.mark.parametrize("damage", ["truncated", "gone", "another size"])
def test_what_cannot_be_read_later_is_named(damage: str, tmp_path: Path) -> None:
    data = load(flat(tmp_path), stream=True)
    file = tmp_path / "flat" / "b" / "3.png"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:60])
    elif damage == "gone":
        file.unlink()
    else:
        write_image(file, pixels(1, 5, 5)[0])
    batches = (evaluation_batches(split, 8, data.mean, data.std) for split in (data.train, data.test))
    with pytest.raises(Unreadable, match=r"b/3\.png"):
        list(chain.from_iterable(batches))


def test_a_gap_a_text_and_an_infinite_number_are_refused(tmp_path: Path) -> None:
    for column, values in (
        ("gap", [1.0, None] * 10),
        ("nan", [1.0, float("nan")] * 10),
        ("far", [1.0, float("inf")] * 10),
        ("whole", [1, 2**60 + 1] * 10),
    ):
        (folder := tmp_path / column).mkdir()
        with pytest.raises(ValueError, match=rf"column '{column}', row 1 of .*--drop {column}"):
            load(numbers(folder, **{column: values}), stream=True)
    (folder := tmp_path / "words").mkdir()
    with pytest.raises(ValueError, match=r"numbers alone.*column 'words' of .* is string"):
        load(numbers(folder, words=["x"] * 20), stream=True)
    name = str(folder / "numbers" / "*.parquet")
    held, streamed = both(name, drop=["words"])
    assert torch.equal(everything(held.train.x), everything(streamed.train.x))
    with pytest.raises(ValueError, match="--types is given"):
        load(name, stream=True, types={"words": "text"})


def test_what_is_read_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'digits' is read whole: leave it out"):
        load("digits", stream=True)
    with pytest.raises(ValueError, match=r"table.csv' is read whole: write it as parquet"):
        load(str(write_csv(tmp_path / "table.csv")), stream=True)
    for i, image in enumerate(pixels(4, channels=1)):
        write_image(tmp_path / "dense" / "images" / f"{i}.png", image)
        write_image(tmp_path / "dense" / "masks" / f"{i}.png", image % 2)
    with pytest.raises(ValueError, match="is read whole"):
        load(str(tmp_path / "dense"), stream=True)


def test_pieces_that_differ_and_patterns_of_nothing_are_refused(tmp_path: Path) -> None:
    name = numbers(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file matches"):
        load(str(tmp_path / "none-*.parquet"), stream=True)
    (tmp_path / "numbers" / "notes.txt").write_text("no table")
    with pytest.raises(ValueError, match="also names"):
        load(str(tmp_path / "numbers" / "*"), stream=True)
    parquet.write_table(pa.table({"far": [1.0], "label": [0]}), tmp_path / "numbers" / "part-9.parquet")
    with pytest.raises(ValueError, match=r"same columns of the same kinds.*part-9"):
        load(name, stream=True)
    (tmp_path / "numbers" / "part-9.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"part-9.parquet' cannot be read as a parquet file"):
        load(name, stream=True)


def test_there_has_to_be_room_on_a_disk_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = images(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match=r"has 0.00 GiB free: set TMPDIR to a folder with more"):
        load(name, stream=True)


@pytest.mark.skipif(
    not Path("/dev/shm").is_dir(), reason="this system has no folder that is known to lie in memory"
)
def test_a_folder_that_lies_in_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = images(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    with pytest.raises(ValueError, match="/dev/shm lies in memory: set TMPDIR to a folder on a disk"):
        load(name, stream=True)


@pytest.mark.parametrize("layout", [flat, images, numbers])
def test_a_data_set_that_does_not_fit_is_refused_before_it_is_read(
    layout: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = layout(tmp_path)
    monkeypatch.setattr("maxl.experiments.data._memory._SMALL", 0)
    monkeypatch.setattr("maxl.experiments.data._memory.available_memory", lambda: 100)
    with pytest.raises(
        ValueError,
        match=r"need 0.00 GiB, and 0.00 GiB are available: leave it on disk with --stream, or .*--image-size N or --train-size N",
    ):
        load(name)
    monkeypatch.setattr("maxl.experiments.data._memory.available_memory", lambda: None)  # where nobody says
    assert isinstance(load(name).train.x, Tensor)


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 400 << 10), ("9000", 4500), ("", 400 << 10)], ids=["none", "9000", "no file"]
)
def test_a_container_has_what_its_limit_leaves_and_others_what_the_system_has(
    limit: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = flat(tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 300 kB\nSwapFree: 100 kB\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 4000\ninactive_file 300\nactive_file 200\n")
    if limit:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr("maxl.experiments.data._memory._SMALL", 0)
    monkeypatch.setattr("maxl.experiments.data._memory._SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr("maxl.experiments.data._memory._GROUP", tmp_path)
    side = 1 + round((free / 3) ** 0.5)  # of a training image that alone is too large
    with pytest.raises(ValueError, match=rf"24 images of {side}x{side} need"):
        load(name, image_size=side)
    assert load(name, image_size=4).input_shape == (3, 4, 4)


def test_images_that_are_too_large_to_be_safe_are_refused_by_threads_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    write_folder(tmp_path, ("a", "b"), 8)
    data = load(str(tmp_path), stream=True, workers=4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(Unreadable, match="larger than the 20 pixels"):
        list(data.train.x.batches(torch.arange(len(data.train)).split(2)))  # type: ignore[union-attr]


def test_a_split_takes_streamed_samples_and_checks_them_as_it_does_tensors() -> None:
    x = StreamedSamples(lambda rows: torch.zeros(len(rows), 2), np.arange(5), (2,), workers=1)
    assert len(Split(x, torch.zeros(5, dtype=torch.int64))) == 5
    with pytest.raises(ValueError, match=r"int64 of shape \(5,\)"):
        Split(x, torch.zeros(4, dtype=torch.int64))


def test_a_data_set_of_the_hub_stays_where_its_library_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    x = pixels(12, 6, 6)
    rows = {"img": [{"bytes": png(image), "path": None} for image in x], "label": [0, 1] * 6}
    pieces = [datasets.Dataset.from_dict(rows, features=features) for _ in range(2)]
    whole = datasets.concatenate_datasets(pieces)  # in two chunks
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": whole}))
    held, streamed = both("hf:someone/things", train_size=10)
    assert isinstance(streamed.train.x, StreamedSamples)
    assert torch.equal(everything(streamed.train.x), held.train.x)
    assert torch.equal(everything(streamed.test.x), held.test.x)
    numbers = datasets.Dataset.from_dict({"a": [0.0, 1.0] * 6, "b": [2.0, 1.0] * 6, "label": [0, 1] * 6})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": numbers}))
    with pytest.raises(ValueError, match="'hf:someone/things' is read whole"):
        load("hf:someone/things", stream=True)


def test_parquet_files_beside_classes_of_images_are_no_table(tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", "b"), 5)
    parquet.write_table(pa.table({"x": [1.0, 2.0], "label": [0, 1]}), tmp_path / "metadata.parquet")
    for data in both(str(tmp_path)):
        assert data.input_shape == (3, 6, 6)
