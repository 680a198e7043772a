"""Advice where the answer is known: the verdict alone does not make it right, and older rows stay in the table."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
BEATEN = {"against": "kmeans-shuffled", "difference": 0.05, "interval": [0.04, 0.06]}
INPUTS = {"method": "kmeans", "difference": -0.01, "interval": [-0.02, -0.001]}
NO_INPUTS = {"use_inputs": False, "against_inputs": None, "probe_inputs": None}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script."""
    monkeypatch.syspath_prepend(str(ROOT / "dev"))
    return importlib.import_module("known")


def advice(**changes: Any) -> dict[str, Any]:
    return {
        **{"verdict": "helps", "method": "kmeans", "recommended": "kmeans", "control": BEATEN},
        **{"against": "single", "measure": "test_probe", "difference": 0.06, "interval": [0.05, 0.07]},
        **{"seeds": 10, "predicted_minutes": 13.3, "minutes": 10.789, "probe_inputs": 0.6},
        **{"use_inputs": True, "against_inputs": INPUTS, **changes},
    }


@pytest.mark.parametrize(
    ("case", "changes", "right"),
    [
        ("structure", {}, True),
        ("structure", {"verdict": "cannot tell"}, False),
        ("structure", {"recommended": "kmeans-shuffled"}, False),
        ("structure", {"control": {**BEATEN, "interval": [-0.01, 0.06]}}, False),
        ("structure", {"control": {**BEATEN, "against": "uniform"}}, False),
        ("structure", {"control": None}, False),
        ("structure", {"use_inputs": False}, False),
        (
            "nothing",
            {"verdict": "does not help", "recommended": "single", "control": None, **NO_INPUTS},
            True,
        ),
        (
            "nothing",
            {"verdict": "does not help", "recommended": "uniform", "control": None, **NO_INPUTS},
            False,
        ),
        ("ruined", {"recommended": "fine-tuned", **NO_INPUTS}, True),
        ("ruined", {"recommended": "gce", **NO_INPUTS}, False),
        ("tiny", {"verdict": "cannot tell", "recommended": "single", **NO_INPUTS}, True),
        ("tiny", {"recommended": "single", **NO_INPUTS}, False),
    ],
)
def test_right_is_what_is_recommended_too(
    case: str, changes: dict[str, Any], right: bool, known: ModuleType
) -> None:
    assert known.row(case, advice(**changes))["right"] is right


def test_the_table_keeps_older_rows_as_they_are_and_has_the_control_of_new_ones(
    known: ModuleType, tmp_path: Path
) -> None:
    table = tmp_path / "advice.csv"
    table.write_bytes((ROOT / "dev" / "evidence" / "advice.csv").read_bytes())
    old = pd.read_csv(table, dtype=str, keep_default_na=False).set_index("case")
    known.keep(table, known.row("structure", advice()))
    new = pd.read_csv(table, dtype=str, keep_default_na=False).set_index("case")
    others = [case for case in old.index if case != "structure"]
    assert new.loc[others, old.columns].equals(old.loc[others])
    assert dict(
        new.loc["structure", ["recommended", "control", "control_low", "control_high", "minutes"]]
    ) == {
        **{"recommended": "kmeans", "control": "kmeans-shuffled"},
        **{"control_low": "0.04", "control_high": "0.06", "minutes": "10.79"},
    }
    assert list(new.loc["structure", ["use_inputs", "inputs_difference", "inputs_low", "inputs_high"]]) == [
        *("True", "-0.01", "-0.02", "-0.001")
    ]
    assert set(new.index) == set(known.CASES)
