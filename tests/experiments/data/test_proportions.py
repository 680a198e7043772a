"""Parts that are set aside have the classes of the whole, also where these are of unequal size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxl.experiments.data import DataSet, Split, load, load_frames, proportional_order

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
def test_less_than_half_never_takes_all_of_a_class(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = proportional_order(labels, None, seed)
    left = order[(len(labels) - 1) // 2 - len(sizes) :] if len(labels) > 2 * len(sizes) else order
    assert {*labels[left].tolist()} == {*range(len(sizes))}


def test_finer_classes_are_in_proportion_within_theirs() -> None:
    primary, human = np.repeat([0, 1], 100), np.repeat([0, 1, 2, 3], [90, 10, 80, 20])
    order = proportional_order(primary, human, 3)
    for part in np.array_split(order, 10):
        assert np.bincount(human[part], minlength=4).tolist() == [9, 1, 8, 2]


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
    assert counts(data.validation) == [180, 20]
    assert counts(data.train) == [720, 80]


def with_trusted(n: int = 1000) -> pd.DataFrame:
    """Of 120 trusted samples 20 are of the rare class."""
    table = unequal(n, 200)
    table["trusted"] = "no"
    for name, count in (("a", 100), ("b", 20)):
        table.loc[table.index[table["label"] == name][:count], "trusted"] = "yes"
    return table


def test_trusted_samples_are_shared_out_in_proportion() -> None:
    data = load_frames(with_trusted(), primary="label", trusted="trusted", validation_size=0.5)
    assert counts(data.test) == [50, 10]
    assert counts(data.validation) == [25, 5]
    assert data.train.trusted is not None
    assert counts(data.train.select(data.train.trusted)) == [25, 5]


def test_a_published_validation_part_is_drawn_from_in_proportion() -> None:
    data: DataSet = load_frames(
        *(unequal(100, 10), unequal(100, 10), unequal(200, 20)), primary="label", validation_size=0.5
    )
    assert counts(data.validation) == [90, 10]
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
