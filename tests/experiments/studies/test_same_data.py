"""Runs that are compared with each other see the same data."""

from __future__ import annotations

from pathlib import Path

import pytest

from _run_helpers import one_thread as one_thread
from _run_helpers import runs_here, tiny
from maxl.experiments.studies.study import Study


@pytest.mark.parametrize("more", [(), ("uniform",)])
def test_a_study_is_not_gone_on_with_on_other_data(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with further methods, which would be compared with those of the old data, nor as if nothing had changed."""
    runs_here(monkeypatch)
    file, out = tmp_path / "t.csv", tmp_path / "out"
    rows = [f"{'ab'[i % 2]},{i % 7},{i % 2}" for i in range(60)]
    file.write_text("\n".join(["label,x,z", *rows]) + "\n")
    of_file = {"data": str(file), "primary": "label", "train_size": None, "epochs": 1, "psi": [2]}
    Study(tiny(**of_file), ["single"], [0, 1]).run(out)
    before = (out / "results.csv").read_bytes()
    Study(tiny(**of_file), ["single"], [0, 1]).run(out)
    file.write_text(file.read_text().replace("a,0,0", "b,0,0", 1))
    with pytest.raises(ValueError, match="was begun with other data: its samples or labels changed"):
        Study(tiny(**of_file), ["single", *more], [0, 1]).run(out)
    assert (out / "results.csv").read_bytes() == before
