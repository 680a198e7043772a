"""Dates with a time zone and dates without are hours apart: they are not taken for each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from _column_helpers import rows, write
from maxl.experiments.data import Columns, load, read_table


def stamps(zone: str, count: int) -> list[str]:
    return [f"2024-06-{1 + i % 28:02d} {i % 24:02d}:30:00{zone}" for i in range(count)]


PAIRS = pytest.mark.parametrize(("train", "other"), [("", "+02:00"), ("Z", ""), ("", "Z")])


@PAIRS
@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_part_with_another_notion_of_zones_is_refused(
    tmp_path: Path, part: str, train: str, other: str
) -> None:
    write(tmp_path / "train.csv", rows(), joined=stamps(train, 60))
    for name in ("test", "validation"):
        write(tmp_path / f"{name}.csv", rows(4), joined=stamps(other if name == part else train, 4))
    with pytest.raises(
        ValueError, match=rf"time zone in all tables or in none; column 'joined' of '.*{part}"
    ):
        load(str(tmp_path))


def test_zones_of_several_parts_may_differ_and_dates_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows(), joined=stamps("+02:00", 60))
    found = []
    for zoned in (stamps("+02:00", 4), stamps("+0200", 4), [""] * 4):
        write(tmp_path / "test.csv", rows(4), joined=zoned)
        found.append(load(str(tmp_path)).test.x)
    assert torch.equal(torch.as_tensor(found[0]), torch.as_tensor(found[1]))


@PAIRS
def test_a_run_remembers_whether_its_dates_had_a_zone(tmp_path: Path, train: str, other: str) -> None:
    data = load(write(tmp_path / "t.csv", rows(), joined=stamps(train, 60)))
    assert data.columns is not None
    (tmp_path / "kept.skops").write_bytes(data.columns.to_bytes())
    kept = Columns.read(tmp_path / "kept.skops")
    kept.check_zones(read_table(tmp_path / "t.csv"))
    new = write(tmp_path / "new.csv", rows(), joined=stamps(other, 60))
    with pytest.raises(ValueError, match=r"column 'joined' of '.*new.csv' has"):
        kept.check_zones(read_table(Path(new)))
    with pytest.raises(ValueError, match=r"'.*new.csv' differs in 'joined': write its dates as they were"):
        load(new, like=kept)
    older = Columns(kept.kinds, kept.transformer)  # of a run that did not say
    older.check_zones(read_table(Path(new)))
    assert len(load(new, like=older).train) == 48
