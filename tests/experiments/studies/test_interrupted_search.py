"""A search that is killed anywhere goes on as if it had not been."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from _run_helpers import one_thread as one_thread
from _run_helpers import tiny
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.studies.space import Between
from maxl.experiments.studies.tuning import tune

optuna = pytest.importorskip("optuna", reason="the extra tune is not installed")
BASE = tiny(method="single", epochs=4)
RATES = {"learning_rate": Between(1e-5, 3e-1, log=True)}
TRIALS = 9


class Killed(BaseException):
    """Stands for a kill."""


def searched(out: Path) -> pd.DataFrame:
    tune(BASE, out, trials=TRIALS, space=RATES)
    return pd.read_csv(out / "trials.csv")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    found = searched(tmp_path_factory.mktemp("whole"))
    assert {"finished", "pruned"} <= set(found.state)
    return found


def kill_once(monkeypatch: pytest.MonkeyPatch, of: Any, name: str, when: int, *, after: bool) -> None:
    """The ``when``-th call of a method is the last thing that a process does, or all but done."""
    original, calls = getattr(of, name), [0]

    def wrapped(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == when and not after:
            raise Killed
        result = original(*args, **options)
        if calls[0] == when:
            raise Killed
        return result

    monkeypatch.setattr(of, name, wrapped)


@pytest.mark.parametrize("when", [1, 2, 5, 7])
@pytest.mark.parametrize(
    ("of", "name", "after"),
    [
        (optuna.Study, "tell", False),
        (RunFolder, "write_summary", False),
        (RunFolder, "write_summary", True),
    ],
    ids=["before it is told", "before the result", "after the result"],
)
def test_a_search_that_was_killed_has_the_trials_of_one_that_was_not(
    of: Any, name: str, after: bool, when: int, whole: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        kill_once(patched, of, name, when, after=after)
        with contextlib.suppress(Killed):
            searched(tmp_path)
    pd.testing.assert_frame_equal(searched(tmp_path), whole)


def test_one_that_was_killed_between_epochs_prunes_where_it_would_have(
    whole: pd.DataFrame, tmp_path: Path
) -> None:
    """After an epoch was written and before anyone asked whether to go on."""
    killed = 0
    for when in (3, 11, 17, 23):
        with pytest.MonkeyPatch.context() as patched:
            kill_once(patched, optuna.Trial, "should_prune", when, after=False)
            try:
                searched(tmp_path / str(when))
            except Killed:
                killed += 1
        pd.testing.assert_frame_equal(searched(tmp_path / str(when)), whole)
    assert killed >= 3
