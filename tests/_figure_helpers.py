"""Figures of pages held against recorded runs: what the tests of them share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from maxl.experiments.studies.intervals import Interval, PairedDifference, paired_difference

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "dev" / "evidence"
Results = dict[str, dict[int, float]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a study's script anew."""
    monkeypatch.syspath_prepend(str(ROOT / "dev"))

    def imported(name: str) -> ModuleType:
        for old in ("evidence", "planned", name):
            sys.modules.pop(old, None)
        return importlib.import_module(name)

    return imported


def page(name: str) -> str:
    """A page in one line, so that no line break hides a figure."""
    return " ".join((ROOT / name).read_text().split())


def results(table: str, column: str = "test_accuracy") -> Results:
    """Results in percent by method and seed."""
    rows = pd.read_csv(EVIDENCE / f"{table}.csv")
    return {
        str(m): {int(s): 100 * float(v) for s, v in zip(g.seed, g[column], strict=True)}
        for m, g in rows.groupby("method")
    }


def shown(x: float, digits: int = 2, sign: str = "+") -> str:
    return f"{x:{sign}.{digits}f}".replace("-", "−")


def versus(d: PairedDifference | Interval, digits: int = 2) -> str:
    """ "+0.88 (+0.25 to +1.51)", as tables have it."""
    return f"{shown(d.mean, digits)} ({shown(d.low, digits)} to {shown(d.high, digits)})"


def within(d: PairedDifference) -> str:
    """ "+0.88, +0.25 to +1.51", as it stands in brackets."""
    return f"{shown(d.mean)}, {shown(d.low)} to {shown(d.high)}"


def between(d: PairedDifference | Interval, digits: int = 2) -> str:
    """ "−0.79 to −0.29"."""
    return f"{shown(d.low, digits)} to {shown(d.high, digits)}"


def plain(d: PairedDifference | Interval, digits: int = 1) -> str:
    """ "0.3 to 1.5", without signs."""
    return f"{shown(d.low, digits, '-')} to {shown(d.high, digits, '-')}"


def pair(table: str, a: str, b: str, column: str = "test_accuracy") -> PairedDifference:
    values = results(table, column)
    return paired_difference(values[a], values[b])
