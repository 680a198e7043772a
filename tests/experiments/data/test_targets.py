"""What columns of targets are taken for, and what becomes of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _target_helpers import LABELS, colours, columns, prices, write_table
from maxl.experiments.data import DataSet, Split, load


def one_target(folder: Path, values: list[Any], **options: Any) -> DataSet:
    table = columns(len(values))
    file = write_table(folder / "t.csv", {"a": table["a"], "b": table["b"], "y": values})
    return load(str(file), primary="y", **options)


RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(size=80).round(3).tolist()
AMOUNTS = (RANDOM.permutation(1000)[:80]).tolist()
MANY_CLASSES = [i % 25 for i in range(100)]
SEEN = {
    "text": (["no", "yes"] * 40, "classification", "column 'y' holds text: classification"),
    "few whole numbers": ([0, 1, 2, 5] * 20, "classification", "holds 4 different whole numbers: class"),
    "few whole floats": ([0.0, 1.0] * 40, "classification", "holds 2 different whole numbers: class"),
    "few fractions": (
        [0.5, 1.0, 1.5, 2.0] * 20,
        "regression",
        "4 different numbers, not all of them whole: regression",
    ),
    "many numbers": (NUMBERS, "regression", "numbers, not all of them whole: regression"),
    "amounts": (AMOUNTS, "regression", "regression; if they are classes, say --task classification"),
    "many classes": (
        MANY_CLASSES,
        "classification",
        "classification; if they are amounts, say --task regression",
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_targets_are_looked_at_and_it_is_said_what_was_seen(name: str, tmp_path: Path) -> None:
    values, task, saw = SEEN[name]
    data = one_target(tmp_path, values)
    assert data.task == task
    assert saw in data.saw
    given = one_target(tmp_path, values, task=task)
    assert given.saw.startswith("no test part is given")  # and nothing of the column
    assert torch.equal(given.train.primary, data.train.primary)


def test_a_task_that_is_given_is_taken(tmp_path: Path) -> None:
    assert one_target(tmp_path, [0, 1, 2, 5] * 20, task="regression").train.primary.dtype == torch.float32
    assert one_target(tmp_path, [v % 4 for v in AMOUNTS], task="classification").num_primary == 4
    assert one_target(tmp_path, [0, 1] * 40, task="multi-label").train.primary.shape == (64, 1)


def test_numbers_are_standardised_by_the_training_part_alone(tmp_path: Path) -> None:
    data = load(str(prices(tmp_path)), primary="price", validation_size=10, train_size=40)
    assert data.primary_names == ("price",)
    assert data.targets is not None
    z = data.train.primary.double()
    assert z.shape == (40, 1)
    torch.testing.assert_close(z.mean(), torch.zeros(()).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(correction=0), torch.ones(()).double())
    parts = [part.primary.double() for part in (data.train, data.validation, data.test) if part is not None]
    found = torch.cat(parts).squeeze(1) * data.targets.std[0] + data.targets.mean[0]
    stored = set(np.round(columns()["price"], 2).tolist())
    assert set(found.numpy().round(2).tolist()) <= stored  # in units again, to the last digit
    assert len(found) == 40 + 10 + 16


def test_large_offsets_keep_their_digits(tmp_path: Path) -> None:
    seconds = [1_700_000_000.5 + 60 * i for i in range(80)]
    data = one_target(tmp_path, seconds)
    assert data.targets is not None
    back = data.train.primary.double().squeeze(1) * data.targets.std[0] + data.targets.mean[0]
    assert set(back.numpy().round(1).tolist()) <= set(seconds)


def test_several_numbers_are_several_targets(tmp_path: Path) -> None:
    table = columns()
    kept = {name: table[name] for name in (*"abcd", "price", "depth")}
    data = load(str(write_table(tmp_path / "t.csv", kept)), primary=["price", "depth"])
    assert (data.task, data.primary_names) == ("regression", ("price", "depth"))
    assert data.saw.splitlines() == [
        "2 columns hold numbers: regression",
        "no test part is given, so 16 of 80 samples (20 %) are kept for it, drawn with seed 0 whatever --seed says",
    ]
    assert data.train.primary.shape == (64, 2)
    assert data.input_shape == (4,)  # no target is a feature


def test_columns_of_zero_and_one_are_labels(tmp_path: Path) -> None:
    data = load(str(colours(tmp_path)), primary=LABELS)
    assert (data.task, data.primary_names) == ("multi-label", LABELS)
    assert data.saw.splitlines()[0] == "3 columns hold 0 and 1: multi-label"
    assert data.train.primary.dtype == torch.int64
    assert data.train.primary.unique().tolist() == [0, 1]
    assert data.input_shape == (4,)
    # Each row keeps its own labels: they say where its features lie, and features are standardised in order.
    for c in range(3):
        has = data.train.primary[:, c] == 1
        assert data.train.x[has, c].min() > data.train.x[~has, c].max()


def test_the_test_part_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    for file, primary in ((prices(tmp_path), ["price"]), (colours(tmp_path), LABELS)):
        one, other = (load(str(file), primary=primary, seed=s, train_size=20) for s in (0, 1))
        same = load(str(file), primary=primary, seed=0, train_size=20)
        assert torch.equal(one.train.x, same.train.x)
        assert torch.equal(one.train.primary, same.train.primary)
        assert len(one.test) == len(other.test) == 16
        assert not torch.equal(one.train.x, other.train.x)


NAN, INF = float("nan"), float("inf")
REFUSED = {
    "all equal": ({"price": [5.5] * 80}, {"task": "regression"}, r"column 'price' are all 5\.5 in the training"),
    "infinite": ({"price": [*NUMBERS[1:], INF]}, {}, r"column 'price': row 79 is missing or not finite \(got inf; 1"),
    "missing": ({"price": [NAN, *NUMBERS[1:]]}, {}, r"column 'price': row 0 is missing or not finite"),
    "beyond float32": ({"price": [1e300, *NUMBERS[1:]]}, {}, r"row 0 is beyond the range of float32"),
    "text": ({"price": [*NUMBERS[1:], "a lot"]}, {"task": "regression"}, "need to be numbers; column 'price' of"),
    "unknown task": ({}, {"task": "regresion"}, r"--task .*regresion"),
    "floats as classes": ({}, {"task": "classification"}, r"no class .* or predict the number itself \(--task reg"),
    "a slip among classes": ({"price": [0.5, *[0, 1] * 39, 0]}, {}, r"row 0 is not a whole number, so it is no class"),
    "human": ({"kind": ["x", "y"] * 40}, {"human": "kind"}, "--human needs primary classes.*regression has none"),
    "one column twice": ({}, {"primary": ["price", "price"]}, "--primary needs different columns; got price, price"),
    "no column": ({}, {"primary": ["price", "prize"]}, "no column 'prize'; did you mean 'price'"),
    "text among several": ({"kind": ["x", "y"] * 40}, {"primary": ["price", "kind"]}, "'kind' of .* holds text"),
    "several classes": ({}, {"primary": ["a", "price"], "task": "classification"}, "needs one column as --primary"),
    "too few to test on": ({}, {"validation_size": 1}, "column 'price' are all .* in the validation part"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_numbers_that_cannot_be_predicted_are_refused(name: str, tmp_path: Path) -> None:
    changes, options, message = REFUSED[name]
    file = prices(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load(str(file), **{"primary": "price", **options})


BLUE = columns()["blue"]
REFUSED_LABELS = {
    "another number": (
        {"blue": [2, *BLUE[1:]]},
        r"column 'blue': row 0 is neither 0 nor 1 \(got 2; 1 such rows",
    ),
    "a fraction": ({"blue": [*BLUE[1:], 0.5]}, r"column 'blue': row 79 is neither 0 nor 1 \(got 0\.5"),
    "missing": ({"blue": ["", *BLUE[1:]]}, r"column 'blue': row 0 is neither 0 nor 1 \(got nan"),
    "text": ({"blue": ["no", "yes"] * 40}, r"'blue' of .* holds text: name one column, or leave it out"),
    "other numbers": ({"blue": NUMBERS}, r"'red' holds 0 and 1, 'blue' of .* other numbers: leave one out"),
    "none": (
        dict.fromkeys(LABELS, [0] * 80),
        "no sample of the training part .* has one of red, green, blue",
    ),
}


@pytest.mark.parametrize("name", REFUSED_LABELS)
def test_labels_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED_LABELS[name]
    with pytest.raises(ValueError, match=message):
        load(str(colours(tmp_path, **changes)), primary=LABELS)


def test_text_as_a_label_is_refused_where_the_task_is_given(tmp_path: Path) -> None:
    file = colours(tmp_path, blue=["no", "yes"] * 40)
    with pytest.raises(ValueError, match=r"need to be 0 or 1; column 'blue' of .* holds text"):
        load(str(file), primary=LABELS, task="multi-label")


def test_a_row_of_another_width_is_refused(tmp_path: Path) -> None:
    file = colours(tmp_path)
    file.write_text(file.read_text() + "\n0.1,0.2,0.3,0.4,1,0")
    with pytest.raises(ValueError, match=r"cannot be read as a csv file: .*Expected 7 columns, got 6"):
        load(str(file), primary=LABELS)


def test_targets_of_a_split_are_of_their_shapes() -> None:
    x = torch.zeros(4, 2)
    for primary in (
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(4, 3, dtype=torch.int64),
        torch.zeros(4, 1),
    ):
        split = Split(x, primary)
        assert len(split.select(torch.tensor([1, 3])).primary) == 2
        assert split.strata.shape == (4,)
    for primary in (torch.zeros(4), torch.zeros(3, 1), torch.zeros(4, 1, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"Split\.primary must be int64"):
            Split(x, primary)
    with pytest.raises(ValueError, match=r"Split\.human must be int64"):
        Split(x, torch.zeros(4, dtype=torch.int64), torch.zeros(4, 3, dtype=torch.int64))
