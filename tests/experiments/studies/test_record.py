"""What a study's folder says of its runs holds for all calls on it, one after another and at once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from _run_helpers import one_thread as one_thread
from _run_helpers import runs_here, tiny
from maxl.experiments.report import write_report
from maxl.experiments.studies.record import identity, read_record, write_record
from maxl.experiments.studies.study import Study


def test_variants_of_a_grid_come_to_a_table_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_here(monkeypatch)
    grid = {"entropy_weight": [0.0, 0.2], "learning_rate": [0.001, 0.02]}
    results = Study(tiny(epochs=1, learning_rate=0.001), ["single", "maxl"], [0, 1], grid).run(tmp_path)
    assert set(results.method) == {
        *("single", "single learning_rate=0.02"),
        *("maxl", "maxl learning_rate=0.02", "maxl entropy_weight=0"),
        "maxl entropy_weight=0 learning_rate=0.02",
    }
    write_report(tmp_path)
    assert "single learning_rate=0.02" in (tmp_path / "report.html").read_text()


def test_methods_at_another_base_are_not_the_same_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a grid of one method, others at its best value would stand beside those of the first base."""
    runs_here(monkeypatch)
    first = tiny(epochs=1, learning_rate=0.001)
    Study(first, ["single"], [0, 1], {"learning_rate": [0.001, 0.02]}).run(tmp_path)
    before = (tmp_path / "comparisons.csv").read_bytes()
    with pytest.raises(ValueError, match=r"was made with learning_rate 0.001, not 0.02"):
        Study(tiny(epochs=1, learning_rate=0.02), ["uniform"], [0, 1]).run(tmp_path)
    assert (tmp_path / "comparisons.csv").read_bytes() == before
    Study(first, ["single", "uniform"], [0, 1], {"learning_rate": [0.02]}).run(tmp_path)
    table = pd.read_csv(tmp_path / "comparisons.csv")
    [row] = table[table.method == "uniform learning_rate=0.02"].to_dict("records")
    assert row["reference"] == "single learning_rate=0.02" or row["reference"] == "single"


def test_a_call_that_began_meanwhile_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    one, other = identity(tiny(epochs=1)), identity(tiny(epochs=3))
    known = {"classes": ["a"], "samples": 3, "digest": "x", "sketch": [0.0], "norm": 1.0}
    data = {"key": known}
    write_record(tmp_path, one, data)
    for own, prints, words in (
        (other, data, "was made with epochs 1, not 3"),
        (one, {"key": {**known, "samples": 4}}, "was begun with other data"),
    ):
        with pytest.raises(ValueError, match=words):
            write_record(tmp_path, own, prints)
    assert read_record(tmp_path)["epochs"] == 1
    write_record(tmp_path, one, {"another": known})
    assert '"key"' in (tmp_path / "data.json").read_text()
