"""A column that no training sample fills says nothing, whatever other samples hold in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from _column_helpers import rows, write
from maxl.experiments.data import Columns, load, read_columns, read_table

FILLED = {"numbers": ["40000", "", "-3", "0.5"], "dates": ["2024-01-01", "", "1850-02-03", "2030-12-31"]}


@pytest.mark.parametrize("values", FILLED.values(), ids=FILLED)
def test_values_of_a_column_that_is_empty_in_training_carry_nothing(
    tmp_path: Path, values: list[str]
) -> None:
    kind = "date" if "-01" in values[0] else "number"
    write(tmp_path / "train.csv", rows(), late=[""] * 60)
    for part in ("test", "validation"):
        write(tmp_path / f"{part}.csv", rows(4), late=values)
    data = load(str(tmp_path), types={"late": kind}, validation_size=4)
    assert data.columns is not None
    of_late = [i for i, name in enumerate(data.columns.transformer.get_feature_names_out()) if "late" in name]
    assert of_late
    for part in (data.train, data.test, data.validation):
        assert part is not None
        assert isinstance(part.x, torch.Tensor)
        assert not part.x[:, of_late].any()
    assert "column 'late' is missing in all training samples, and carries nothing" in data.saw.splitlines()
    # And at prediction, by what a run keeps.
    (tmp_path / "kept.skops").write_bytes(data.columns.to_bytes())
    kept = Columns.read(tmp_path / "kept.skops")
    assert kept.empty() == ["late"]
    frame = read_columns(read_table(tmp_path / "test.csv"), kept.kinds, np.arange(4))
    assert torch.equal(kept(frame), data.test.x)
    assert [line for line in kept.unseen(frame) if "late" in line] == [
        "column 'late' holds 3 values in 4 rows, and held none in training: it carries nothing"
    ]


def test_gaps_and_constants_are_no_empty_columns(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows(), once=["7", *[""] * 59], same=["5"] * 60)
    write(tmp_path / "test.csv", rows(2), once=["8", ""], same=["6", "5"])
    data = load(str(tmp_path))
    assert data.columns is not None
    assert data.columns.empty() == []
    assert "carries nothing" not in data.saw
    names = list(data.columns.transformer.get_feature_names_out())
    gaps = data.test.x[:, names.index("number__missingindicator_once")]
    assert gaps[0] < 0 < gaps[1]
