"""The study's tables are those of its recorded runs, and its settings are valid."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from _run_helpers import one_thread as one_thread

ROOT = Path(__file__).parent.parent


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "dev"))
    sys.modules.pop("evidence", None)
    import evidence

    return evidence


def test_the_pages_show_the_recorded_runs(evidence: ModuleType) -> None:
    assert evidence.summary() in (ROOT / "README.md").read_text()
    assert evidence.tables() in (ROOT / "dev" / "evidence" / "README.md").read_text()


def test_every_setting_is_valid_and_reports_on_other_seeds_than_it_was_tuned_on(evidence: ModuleType) -> None:
    for name in evidence.SETTINGS:
        for method in evidence.METHODS:
            assert evidence.config(name, method, seed=0).method == method
        reported = set(evidence.read(evidence.HERE / f"{name}.csv").get("seed", []))
        tuned = set(evidence.read(evidence.HERE / f"{name}-tuning.csv").get("seed", []))
        assert not reported & tuned
        assert tuned <= set(evidence.TUNING_SEEDS)


def test_no_run_is_reported_twice(evidence: ModuleType) -> None:
    for file in evidence.HERE.glob("*.csv"):
        assert not evidence.read(file).duplicated(list(evidence.KEY)).any(), file


def test_differences_are_paired_and_corrected(evidence: ModuleType) -> None:
    single = {seed: 0.9 + 0.01 * seed for seed in range(5)}
    better = {seed: a + 0.02 + 0.0001 * seed for seed, a in single.items()}
    same = dict(reversed(single.items()))  # the seed pairs, not the order
    cells = evidence.differences({"single": single, "uniform": better, "maxl": same}, "single")
    assert cells["single"] == ""
    assert cells["uniform"] == "+2.02 ± 0.02 (p < 0.001)"
    assert cells["maxl"] == "+0.00 ± 0.00 (p = 1.00)"
    short = evidence.differences({"single": single, "uniform": better}, "single", short=True)
    assert short["uniform"] == "**+2.02 ± 0.02**"


def test_one_run_gives_a_row(evidence: ModuleType) -> None:
    changes = {"epochs": 1, "validation_size": 100, "look_every": 1}
    row = evidence.one("digits", "maxl", changes, 7, None)
    assert {row[k] for k in evidence.KEY} == {"maxl", "epochs=1 look_every=1", 7}
    assert 0 <= row["test_accuracy"] <= 1
    assert 0 <= row["validation_accuracy"] <= 1
