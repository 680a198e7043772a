"""The time that the steps of advice take: as many runs at a time as there are, and what is left of those that were begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _advice_helpers import Runs, config, folder
from _advice_helpers import pretend as pretend
from _run_helpers import tiny
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.studies.advice import advise
from maxl.experiments.studies.pace import time_runs
from maxl.experiments.studies.reckoning import Reckoning
from maxl.experiments.studies.remaining import COST, part_done
from maxl.experiments.studies.workers import runs_at_a_time

TEN = Reckoning(per_run=10.0, startup=5.0, places=2)


def test_runs_share_the_places() -> None:
    assert TEN.seconds(["single"]) == 10
    assert TEN.seconds(["single", "uniform"]) == 10
    assert TEN.seconds(["single", "uniform"], 3) == 30
    assert TEN.seconds(["maxl"], 2) == 10 * COST["maxl"]
    assert TEN.of([]) == 0


def test_more_places_than_runs_help_nothing() -> None:
    wide = Reckoning(per_run=10.0, startup=0.0, places=16)
    assert wide.seconds(["single"], 6) == 10
    assert wide.seconds(["single", "maxl"]) == 10 * COST["maxl"]  # as long as the longest


def test_of_a_run_that_was_begun_the_rest_counts() -> None:
    assert TEN.of([("maxl", 0.25)]) == pytest.approx(10 * COST["maxl"] / 4)
    slow = Reckoning(per_run=10.0, startup=5.0, places=2, pace=3.0)
    assert slow.of([("single", 0.5)]) == 15


@pytest.mark.parametrize(("left", "seeds"), [(4, 0), (14, 0), (15, 1), (24, 1), (25, 2), (1e9, 20)])
def test_seeds_that_the_seconds_hold(left: float, seeds: int) -> None:
    assert TEN.seeds(["single", "uniform"], left, 20) == seeds


def test_the_part_of_a_run_that_is_done(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert part_done(run, 4) == 0
    run.create(tiny())
    run.append_metrics({"epoch": 1})
    assert part_done(run, 4) == 0.25
    run.write_divergence(2, "the loss is nan")
    assert part_done(run, 4) == 1


def test_runs_at_a_time_are_reckoned_as_they_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads, expected in ((64, 1, 16), (8, 2, 4), (1, 4, 1)):
        monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda cores=cores: cores)
        assert runs_at_a_time([tiny(threads=threads)]) == expected


def test_a_run_that_cannot_be_timed_is_an_error_in_words() -> None:
    with pytest.raises(ValueError, match="a run that was to be timed diverged: the training loss"):
        time_runs(tiny(optimizer="sgd", learning_rate=1e30))


def test_a_larger_budget_later_predicts_what_it_would_have_from_the_start(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    base = config(folder(tmp_path / "data"))
    runs = pretend(gains={}, noise=0.004, seconds=60)
    runs.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        advise(base, tmp_path / "out", budget=60, jobs=1)
    runs.stop_after = None
    given = advise(base, tmp_path / "out", budget=1e6, jobs=1)
    pretend(gains={}, noise=0.004, seconds=60)
    whole = advise(base, tmp_path / "whole", budget=1e6, jobs=1)
    assert given["predicted_minutes"] == whole["predicted_minutes"] > 60


def test_a_process_that_is_killed_has_noted_its_time(pretend: Callable[..., Runs], tmp_path: Path) -> None:
    runs, unnoted = pretend(gains={}, noise=0.004, seconds=30), []

    def see(step: str, *_: Any) -> None:
        noted = json.loads((tmp_path / "out" / "plan.json").read_text())["seconds"]
        unnoted.append(runs.now - noted)

    advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6, jobs=1, progress=see)
    assert len(unnoted) > 20
    assert max(unnoted) <= 30 * max(COST.values())
