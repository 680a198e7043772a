"""Parts that are set aside have the classes of the whole, also where these are of unequal size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxl.experiments.data import DataSet, Split, load, load_frames, order_to_set_aside, proportional_order

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 9))
def test_every_prefix_has_the_classes_in_proportion(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = proportional_order(labels, None, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for count in range(1, len(labels) + 1):
        there = np.bincount(labels[order[:count]], minlength=len(sizes))
        off = np.abs(there - np.array(sizes) * count / len(labels))
        assert (off <= 1 + len(sizes) * np.array(sizes) / len(labels)).all()


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 9))
def test_a_row_of_each_class_is_left(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = order_to_set_aside(labels, None, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert sorted(labels[order[len(labels) - len(sizes) :]].tolist()) == [*range(len(sizes))]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rare_classes_of_one_size_do_not_come_together(seed: int) -> None:
    labels = np.concatenate([np.zeros(200, dtype=np.int64), np.repeat(np.arange(1, 101), 2)])
    order = proportional_order(labels, None, seed)
    shares = [float((labels[part] > 0).mean()) for part in np.array_split(order, 10)]
    assert 0.3 < min(shares) <= max(shares) < 0.7
    assert 0.3 < (labels[order_to_set_aside(labels, None, seed)[:40]] > 0).mean() < 0.7


@pytest.mark.parametrize("human", [False, True])
def test_classes_of_one_size_take_turns(human: bool) -> None:
    labels = np.arange(200) % 10
    order = proportional_order(labels, np.arange(200) % 50 if human else None, 4)
    for count in range(1, 200):
        assert np.ptp(np.bincount(labels[order[:count]], minlength=10)) <= 1


def test_finer_classes_are_in_proportion_within_theirs() -> None:
    primary, human = np.repeat([0, 1], 100), np.repeat([0, 1, 2, 3], [90, 10, 80, 20])
    order = proportional_order(primary, human, 3)
    for part in np.array_split(order, 10):
        assert np.abs(np.bincount(human[part], minlength=4) - [9, 1, 8, 2]).max() <= 2


def counts(split: Split | None) -> list[int]:
    assert split is not None
    return split.primary.bincount().tolist()


def unequal(n: int, rare: int) -> pd.DataFrame:
    """A table in which ``rare`` of the rows are of the second class."""
    label = np.where(np.arange(n) % (n // rare) == 0, "b", "a")
    return pd.DataFrame({"x": np.random.default_rng(0).normal(size=n), "label": label})


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_has_the_classes_of_the_training_part(seed: int) -> None:
    data = load_frames(unequal(1000, 100), unequal(100, 10), primary="label", validation_size=0.2, seed=seed)
    assert counts(data.validation) == pytest.approx([180, 20], abs=1)
    assert counts(data.train) == pytest.approx([720, 80], abs=1)


def with_trusted(n: int = 1000) -> pd.DataFrame:
    """Of 120 trusted samples 20 are of the rare class."""
    table = unequal(n, 200)
    table["trusted"] = "no"
    for name, count in (("a", 100), ("b", 20)):
        table.loc[table.index[table["label"] == name][:count], "trusted"] = "yes"
    return table


def test_trusted_samples_are_shared_out_in_proportion() -> None:
    data = load_frames(with_trusted(), primary="label", trusted="trusted", validation_size=0.5)
    assert counts(data.test) == pytest.approx([50, 10], abs=1)
    assert counts(data.validation) == pytest.approx([25, 5], abs=1)
    assert data.train.trusted is not None
    assert counts(data.train.select(data.train.trusted)) == pytest.approx([25, 5], abs=2)


def test_a_class_of_one_sample_is_trained_on() -> None:
    table = pd.DataFrame({"x": np.arange(21.0), "label": ["a"] * 20 + ["b"]})
    for seed in range(10):
        data = load_frames(table, table, primary="label", validation_size=0.4, seed=seed)
        assert counts(data.train)[1] == 1


def test_a_published_validation_part_is_drawn_from_in_proportion() -> None:
    data: DataSet = load_frames(
        *(unequal(100, 10), unequal(100, 10), unequal(200, 20)), primary="label", validation_size=0.5
    )
    assert counts(data.validation) == pytest.approx([90, 10], abs=1)
    assert len(data.train) == 100


def test_the_column_that_is_looked_for_is_not_the_primary_one(tmp_path: Path) -> None:
    unequal(100, 10).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match="--probe needs a column that training is not asked for; 'label' is"):
        load(str(tmp_path / "table.csv"), primary="label", probe="label")


def test_no_sample_is_in_two_parts() -> None:
    data = load_frames(with_trusted(), primary="label", trusted="trusted", validation_size=0.5)
    parts = [part.rows for part in (data.train, data.validation, data.test) if part is not None]
    every = torch.cat([rows for rows in parts if rows is not None])
    assert every.sort().values.tolist() == list(range(1000))
