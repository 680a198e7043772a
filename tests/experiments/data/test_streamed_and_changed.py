"""Streamed samples that change while they are read, positions that are none, and a disk that gets full."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from _data_helpers import pixels, png
from maxl.experiments.data import StreamedSamples, load


def shard(first: int, count: int) -> pa.Table:
    numbers = np.arange(first, first + count)
    return pa.table({"a": numbers.astype(float), "label": [str(i % 3) for i in numbers]})


@pytest.mark.parametrize(
    "other",
    [lambda: shard(0, 61), lambda: shard(0, 59), lambda: shard(0, 60).take(list(range(59, -1, -1)))],
    ids=["longer", "shorter", "in another order"],
)
def test_a_file_that_is_replaced_between_labels_and_samples_is_noticed(
    other: Callable[[], pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        parquet.write_table(shard(60 * i, 60), tmp_path / f"s{i}.parquet")
    whole = load(str(tmp_path), stream=True)
    assert len(whole.train) + len(whole.test) == 120
    original, fresh = parquet.ParquetFile.read, other()

    def read(self: object, columns: list[str], **options: object) -> object:
        found = original(self, columns, **options)
        if "label" in columns and len(found) == 60:  # samples come later, some rows at a time
            parquet.write_table(fresh, tmp_path / "fresh")
            os.replace(tmp_path / "fresh", tmp_path / "s0.parquet")
        return found

    monkeypatch.setattr(parquet.ParquetFile, "read", read)
    with pytest.raises(ValueError, match=r"s0.parquet' was changed while it was read"):
        load(str(tmp_path), stream=True)


def samples() -> StreamedSamples:
    table = torch.arange(40.0).reshape(10, 4)
    return StreamedSamples(lambda rows: table[torch.from_numpy(rows)], np.arange(10), (4,), 1)


def test_a_mask_takes_the_samples_that_a_tensor_would_give() -> None:
    x, whole = samples(), torch.arange(40.0).reshape(10, 4)
    mask = torch.arange(10) % 3 == 0
    for asked in (mask, mask.numpy(), mask.tolist(), torch.tensor([3, 0, 3]), [9, -1], slice(2, 5)):
        expected = whole[torch.as_tensor(asked) if not isinstance(asked, slice) else asked]
        assert torch.equal(x[asked], expected)  # type: ignore[index]
    assert x[[]].shape == (0, 4)
    assert torch.equal(next(x.batches([mask])), whole[mask])


@pytest.mark.parametrize("asked", [0, np.int64(3), [1.5, 2.0], torch.zeros(2, 2, dtype=torch.int64)])
def test_what_is_no_position_is_refused(asked: object) -> None:
    with pytest.raises(TypeError, match=r"whole numbers of shape \(n,\), or by a mask"):
        samples()[asked]  # type: ignore[index]


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(IndexError):
        samples()[[True, False]]


def test_images_in_shards_say_which_column_they_are(tmp_path: Path) -> None:
    images = [png(image) for image in pixels(30, 6, 6)]
    table = pa.table({"image": images, "size": np.arange(30.0), "label": list("abc") * 10})
    parquet.write_table(table, tmp_path / "t.parquet")
    streamed, loaded = (load(str(tmp_path / "t.parquet"), stream=stream) for stream in (True, False))
    assert (streamed.image_column, streamed.saw) == (loaded.image_column, loaded.saw)
    assert streamed.image_column == "image"
    assert "not used: size" in streamed.saw


def test_a_disk_that_gets_full_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the file that could not be written leaves no message of its own."""
    import resource

    parquet.write_table(
        pa.table({"a": np.arange(200_000.0), "label": ["a", "b"] * 100_000}), tmp_path / "t.parquet"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a finaliser says
            with pytest.raises(ValueError, match=r"no room for its temporary file .* set TMPDIR"):
                load(str(tmp_path / "t.parquet"), stream=True)
            gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
