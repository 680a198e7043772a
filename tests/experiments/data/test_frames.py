"""Frames and arrays in memory: what files with the same content would give."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from maxl.experiments.data import DataSet, load, load_arrays, load_frames

ROWS = 60
CONTENT: dict[str, list[Any]] = {
    "mass": [1.5 * i for i in range(ROWS)],
    "legs": [i % 5 for i in range(ROWS)],
    "island": ["Biscoe", "Dream", "Torgersen"] * (ROWS // 3),
    "seen": [datetime.date(2020, 1, 1 + i % 28) for i in range(ROWS)],
    "kind": ["gentoo", "gentoo", "adelie", "adelie"] * (ROWS // 4),
}
IMAGES = np.random.default_rng(0).integers(256, size=(40, 3, 8, 8), dtype=np.uint8)


def pandas(content: dict[str, list[Any]]) -> pd.DataFrame:
    return pd.DataFrame(content, index=[f"row {i}" for i in range(ROWS)])


def pandas_kinds(content: dict[str, list[Any]]) -> pd.DataFrame:
    """With the types that pandas has beside Python's."""
    frame = pd.DataFrame(content)
    return frame.astype({"island": "category", "kind": "category", "legs": "Int64", "seen": "datetime64[ns]"})


def polars_kinds(content: dict[str, list[Any]]) -> pl.DataFrame:
    frame = pl.DataFrame(content)
    return frame.with_columns(
        pl.col("island").cast(pl.Categorical), pl.col("kind").cast(pl.Enum(["adelie", "gentoo"]))
    )


def alike(one: DataSet, other: DataSet) -> None:
    assert one.primary_names == other.primary_names
    for a, b in ((one.train, other.train), (one.test, other.test)):
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=0)
        assert torch.equal(a.primary, b.primary)


@pytest.mark.parametrize("frame_of", [pandas, pandas_kinds, pl.DataFrame, polars_kinds, pa.table])
def test_a_frame_is_read_as_a_file_of_it(tmp_path: Path, frame_of: Callable[..., Any]) -> None:
    path = tmp_path / "table.csv"
    pd.DataFrame(CONTENT).to_csv(path, index=False)
    from_file = load(str(path), primary="kind", seed=3)
    from_frame = load_frames(frame_of(CONTENT), primary="kind", seed=3)
    alike(from_frame, from_file)
    assert from_frame.columns is not None


def test_parts_are_taken_as_they_come() -> None:
    frame = pd.DataFrame(CONTENT)
    data = load_frames(frame[:40], frame[40:52], frame[52:], primary="kind", validation_size=1.0)
    assert data.validation is not None
    assert [len(part) for part in (data.train, data.test, data.validation)] == [40, 12, 8]


def test_a_frame_with_numbers_to_predict() -> None:
    data = load_frames(pd.DataFrame(CONTENT), primary="mass")
    assert data.task == "regression"


@pytest.mark.parametrize(
    ("frame", "kind", "message"),
    [
        (
            pd.DataFrame({0: [1, 2], 1: [3, 4]}),
            ValueError,
            "columns need names that are text; the train frame has 0",
        ),
        (
            pd.DataFrame([[1, 2, 3]], columns=["a", "a", "kind"]),
            ValueError,
            "the train frame has 2 called 'a'",
        ),
        (
            pd.DataFrame({"a": [1, "x"], "kind": [0, 1]}),
            ValueError,
            "needs values of one kind in each column: .*column a",
        ),
        (pd.DataFrame({"a": [1.0], "other": ["x"]}), ValueError, "kind"),
        (pd.DataFrame({"a": [], "kind": []}), ValueError, "empty"),
        ([[1, 2]], TypeError, "needs to be a DataFrame of pandas or polars, or a pyarrow table; got list"),
        (np.zeros((3, 2)), TypeError, "got ndarray"),
    ],
)
def test_what_is_no_table_is_refused(frame: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_frames(frame, primary="kind")


def test_parts_need_the_same_columns() -> None:
    frame = pd.DataFrame(CONTENT)
    with pytest.raises(ValueError, match="the test frame lacks 'legs'"):
        load_frames(frame, frame.drop(columns="legs"), primary="kind")


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int32, np.uint8])
def test_arrays_of_features_are_standardised(number: type[np.number[Any]]) -> None:
    x = np.random.default_rng(0).integers(100, size=(50, 4)).astype(number)
    y = np.arange(50) % 3
    data = load_arrays((x, y))
    assert (data.task, data.input_shape, data.primary_names) == ("classification", (4,), ("0", "1", "2"))
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(4), rtol=0, atol=1e-6)
    for part in (data.train, data.test):  # each sample with its own target, and as it was
        for row, target in zip(_raw(data, part.x), part.primary, strict=True):
            assert y[(np.abs(x - row.numpy()).sum(1) < 1e-3).nonzero()[0]].tolist() == [int(target)]


def _raw(data: DataSet, x: torch.Tensor) -> torch.Tensor:
    assert data.features is not None
    return x.double() * torch.tensor(data.features.std) + torch.tensor(data.features.mean)


def test_arrays_of_images_stay_as_they_are() -> None:
    y = np.arange(40) % 2
    data = load_arrays((IMAGES[:30], y[:30]), (IMAGES[30:], y[30:]))
    assert torch.equal(data.train.x, torch.from_numpy(IMAGES[:30]))
    assert torch.equal(data.test.x, torch.from_numpy(IMAGES[30:]))
    assert data.augment
    assert data.primary_names == ("0", "1")


def test_arrays_of_several_targets() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    assert load_arrays((x, (x > 0).astype(int))).task == "multi-label"
    assert load_arrays((x, x[:, :2] ** 2)).task == "regression"
    named = load_arrays((x, x[:, :2]), task="regression", primary=["target_1"])
    assert named.primary_names == ("target_1",)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((4, 2)), np.zeros(3), r"got \(4, 2\) and \(3,\)"),
        (np.zeros((4, 2, 2)), np.zeros(4), r"got \(4, 2, 2\)"),
        (IMAGES / 255, np.arange(40) % 2, "images need to be uint8, from 0 to 255; got float64"),
        (
            IMAGES.transpose(0, 2, 3, 1),
            np.arange(40) % 2,
            "with 1 or 3 channels; .*move the channels forward",
        ),
        (np.array([[1.0, np.inf]] * 20), np.arange(20) % 2, "inf"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_arrays((x, y))


def test_parts_of_other_shapes_are_refused() -> None:
    y = np.arange(40) % 2
    with pytest.raises(ValueError, match="every part needs samples of one shape"):
        load_arrays((IMAGES, y), (IMAGES[:, :, :4], y))
