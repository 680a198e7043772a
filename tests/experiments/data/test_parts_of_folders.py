"""Which tables of a folder are its parts, and that others are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from _data_helpers import write_csv
from maxl.experiments.data import load


def write_parts(folder: Path, *names: str) -> str:
    """A training and a test part, and other tables of 8 rows."""
    write_csv(folder / "train.csv", rows=40)
    write_csv(folder / "test.csv", rows=20)
    for name in names:
        write_csv(folder / name, rows=8)
    return str(folder)


@pytest.mark.parametrize(
    "names",
    [["validation.csv"], ["valid.csv"], ["val.csv"], ["val-00000-of-00002.csv", "val-00001-of-00002.csv"]],
)
def test_a_validation_part_goes_by_the_names_of_folders_of_images(tmp_path: Path, names: list[str]) -> None:
    data = load(write_parts(tmp_path, *names), validation_size=1.0)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 8 * len(names), 20)
    assert "its tables" not in data.saw


@pytest.mark.parametrize(
    "names", [("val.csv", "validation.csv"), ("valid.csv", "val.csv"), ("valid.csv", "validation_0.csv")]
)
def test_two_validation_parts_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="one validation part") as caught:
        load(write_parts(tmp_path, *names))
    assert all(str(tmp_path / name) in str(caught.value) for name in names)


@pytest.mark.parametrize("name", ["dev.csv", "values.csv", "sample_submission.csv", "valid_old.csv"])
def test_tables_that_are_no_part_are_named(tmp_path: Path, name: str) -> None:
    data = load(write_parts(tmp_path, name, ".hidden.csv"), validation_size=10)
    assert (len(data.train), len(data.test)) == (30, 20)
    [line] = [line for line in data.saw.splitlines() if "its tables" in line]
    assert line.endswith(f"others are none: {name}")
