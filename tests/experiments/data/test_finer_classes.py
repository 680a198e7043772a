"""Finer classes in a file of their own: they go to the rows they were made from, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maxl.experiments.data import finer_csv, load


def listed(count: int = 60) -> tuple[list[int], list[str], list[str]]:
    """Rows of digits with two finer classes a class, by whether the row's number is even."""
    train = load("digits", train_size=count).train
    assert train.rows is not None
    rows, classes = train.rows.tolist(), [str(c) for c in train.primary.tolist()]
    return rows, classes, [f"{c} {row % 2}" for row, c in zip(rows, classes, strict=True)]


def test_the_training_part_is_what_the_file_lists_with_its_classes(tmp_path: Path) -> None:
    rows, classes, finer = listed()
    file = tmp_path / "finer.csv"
    turned = [list(reversed(column)) for column in (rows, classes, finer)]
    file.write_text(finer_csv(*turned))  # type: ignore[arg-type]
    plain, whole, data = load("digits", train_size=60), load("digits"), load("digits", human=str(file))
    assert torch.equal(data.train.x, plain.train.x)
    assert torch.equal(data.test.x, whole.test.x)  # whatever the file lists, the test part is the same
    assert data.test.human is None
    assert data.human_names is not None
    assert data.train.human is not None
    assert [data.human_names[c] for c in data.train.human.tolist()] == finer
    assert f"{len(set(finer))} finer classes of 60 of {len(whole.train)} training samples" in data.saw
    part = load("digits", human=str(file), train_size=30, validation_size=10, seed=3)
    assert part.train.rows is not None
    assert part.validation is not None
    assert part.validation.rows is not None
    assert {*part.train.rows.tolist()} | {*part.validation.rows.tolist()} <= {*rows}
    known = dict(zip(rows, finer, strict=True))
    names = [data.human_names[c] for c in part.train.human.tolist()]  # type: ignore[union-attr]
    assert names == [known[row] for row in part.train.rows.tolist()]


def test_rows_are_those_of_the_table_where_a_test_part_is_cut_from_it(tmp_path: Path) -> None:
    table, file = tmp_path / "table.csv", tmp_path / "finer.csv"
    classes = ["=a" if i % 2 else "b, c" for i in range(40)]
    table.write_text("x,y,label\n" + "".join(f'{i},{i**2},"{c}"\n' for i, c in enumerate(classes)))
    file.write_text(finer_csv(range(40), classes, [f"{c} {i % 4}" for i, c in enumerate(classes)]))
    assert "'=a" in file.read_text()  # no formula, and still the class =a
    data = load(str(table), primary="label", human=str(file))
    assert data.train.rows is not None
    assert data.test.rows is not None
    assert {*data.train.rows.tolist()} | {*data.test.rows.tolist()} == {*range(40)}
    assert data.primary_names == ("=a", "b, c")
    assert data.human_names == ("'=a 1", "'=a 3", "b, c 0", "b, c 2")
    assert data.train.human is not None
    told = [int(data.human_names[c][-1]) for c in data.train.human.tolist()]
    assert told == [row % 4 for row in data.train.rows.tolist()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("finer", "fine", 1), "lacks 'finer'"),
        (lambda text: text.splitlines()[0] + "\n", "at least one row"),
        (lambda text: text + text.splitlines()[1] + "\n", "is there twice"),
        (lambda text: text + "-1,0,0 0\n", "line 62: row needs a whole number"),
        (lambda text: text + "1e3,0,0 0\n", "line 62: row needs a whole number"),
        (lambda text: text + "3,0,\n", "line 62: every row needs a class and a finer class"),
        (lambda text: text + "99999,0,0 0\n", "row 99999 is beyond the 1000 samples"),
        (
            lambda text: text.replace(",3,", ",4,"),
            "and of '3' in the data: the file was made from other data",
        ),
        (
            lambda text: text.replace("3 0\n", "one\n").replace("4 0\n", "one\n"),
            "'one' under both '3' and '4'",
        ),
    ],
)
def test_files_of_other_data_are_refused(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "finer.csv"
    file.write_text(change(finer_csv(*listed())))
    with pytest.raises(ValueError, match=message):
        load("digits", human=str(file))


def test_a_file_that_is_not_there_and_a_task_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="names a column, or a CSV file"):
        load("digits", human=str(tmp_path / "finer.csv"))
    file, table = tmp_path / "finer.csv", tmp_path / "table.csv"
    file.write_text(finer_csv(*listed()))
    table.write_text("x,y\n" + "".join(f"{i / 7},{i**2 / 3}\n" for i in range(40)))
    with pytest.raises(ValueError, match="--human needs primary classes"):
        load(str(table), primary="y", human=str(file))
