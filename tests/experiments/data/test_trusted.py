"""Samples whose labels can be trusted: which they are, and that they alone judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from maxl.experiments.data import DataSet, Split, load, load_frames

N = 60


def frame(n: int = N, every: int = 3, seed: int = 0) -> pd.DataFrame:
    """A table of two classes; every third sample can be trusted."""
    numbers = np.random.default_rng(seed)
    label = np.arange(n) % 2
    return pd.DataFrame(
        {
            "a": numbers.normal(size=n) + label,
            "b": np.arange(n) + 1000.0 * seed,
            "label": label,
            "trusted": ["yes" if i % every == 0 else "no" for i in range(n)],
        }
    )


def marks(split: Split) -> torch.Tensor:
    assert split.trusted is not None
    return split.trusted


def test_the_column_is_no_input_and_says_who_can_be_trusted() -> None:
    data = load_frames(frame(), frame(30, seed=1), primary="label", trusted="trusted")
    assert data.features is not None
    assert data.features.names == ("a", "b")
    assert marks(data.train).tolist() == [i % 3 == 0 for i in range(N)]
    assert marks(data.train.select(torch.tensor([0, 1, 3]))).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "words", [("yes", "no"), ("True", "FALSE"), ("1", "0"), (1, 0), (True, False), (1.0, 0.0)]
)
def test_ways_to_write_it(words: tuple[object, object]) -> None:
    table = frame()
    table["trusted"] = [words[0] if i % 3 == 0 else words[1] for i in range(N)]
    data = load_frames(table, table, primary="label", trusted="trusted")
    assert marks(data.train).tolist() == [i % 3 == 0 for i in range(N)]


def test_without_a_test_part_half_of_the_trusted_become_one() -> None:
    parts = [load_frames(frame(), primary="label", trusted="trusted", seed=s) for s in (0, 1)]
    for data in parts:
        assert marks(data.test).all()
        assert len(data.test) == 10
        assert int(marks(data.train).sum()) == 10
        assert len(data.train) == N - 10
        assert "10 of the 20 trusted samples are kept for it" in data.saw
        assert data.test.primary.bincount().tolist() == [5, 5]
    assert torch.equal(parts[0].test.x, parts[1].test.x)


def test_of_a_test_part_trusted_samples_count() -> None:
    data = load_frames(frame(), frame(30, seed=1), primary="label", trusted="trusted")
    assert len(data.test) == 10
    assert "of the test frame the 10 trusted of 30 samples count" in data.saw


def test_validation_samples_are_trusted_ones() -> None:
    for size, count in ((0.5, 10), (4, 4)):
        data = load_frames(
            *(frame(), frame(30, seed=1)), primary="label", trusted="trusted", validation_size=size
        )
        assert data.validation is not None
        assert len(data.validation) == count
        assert marks(data.validation).all()
        assert int(marks(data.train).sum()) == 20 - count
        assert len(data.train) == N - count
    with pytest.raises(ValueError, match="validation_size must lie between 0 and the 20 samples"):
        load_frames(*(frame(), frame(30, seed=1)), primary="label", trusted="trusted", validation_size=21)


def test_a_published_validation_part_too() -> None:
    data = load_frames(
        *(frame(), frame(30, seed=1), frame(12, seed=2)),
        primary="label",
        trusted="trusted",
        validation_size=1.0,
    )
    assert data.validation is not None
    assert len(data.validation) == 4
    assert marks(data.validation).all()


def test_a_smaller_training_part_keeps_trusted_samples() -> None:
    data = load_frames(*(frame(), frame(30, seed=1)), primary="label", trusted="trusted", train_size=30)
    assert len(data.train) == 30
    assert int(marks(data.train).sum()) == 20


def test_samples_and_their_marks_stay_together() -> None:
    data = load_frames(frame(), primary="label", trusted="trusted", validation_size=4)
    assert data.features is not None
    mean, std = data.features.mean[1], data.features.std[1]
    for part in (data.train, data.test, data.validation):
        assert part is not None
        rows = (part.x[:, 1].double() * std + mean).round().long()
        assert torch.equal(rows % 3 == 0, marks(part))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["yes"] * 59 + ["perhaps"], r"row 59 of the train frame has 'perhaps' in 'trusted' \(1 such rows\)"),
        ([2] * N, "row 0 of the train frame has 2"),
        (["no"] * N, "says so of no sample of the train frame: leave it out"),
        (["yes"] * N, "says so of every sample of the train frame: leave it out"),
        (["yes"] + ["no"] * 59, "needs at least 2 of them, or a test part; got 1"),
        ([None] * N, "row 0 of the train frame has None"),
    ],
)
def test_columns_that_say_nothing_are_refused(column: list[object], said: str) -> None:
    table = frame()
    table["trusted"] = column
    with pytest.raises(ValueError, match=said):
        load_frames(table, primary="label", trusted="trusted")


def test_a_test_part_without_trusted_samples_is_refused() -> None:
    other = frame(30, seed=1)
    other["trusted"] = "no"
    with pytest.raises(ValueError, match="the test frame has no trusted sample"):
        load_frames(frame(), other, primary="label", trusted="trusted")


def test_a_column_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="trusted labels: no column 'trust'; did you mean 'trusted'"):
        load_frames(frame(), primary="label", trusted="trust")


def test_streamed_as_in_memory(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "train.parquet")
    found: list[DataSet] = [
        load(str(tmp_path / "train.parquet"), primary="label", trusted="trusted", stream=stream)
        for stream in (False, True)
    ]
    for name in ("train", "test"):
        one, other = (getattr(data, name) for data in found)
        assert torch.equal(marks(one), marks(other))
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.primary, other.primary)
