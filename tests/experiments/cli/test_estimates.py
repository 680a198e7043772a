"""How long it will take, as commands say before and while they work."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import digits, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.studies import remaining
from maxl.experiments.studies.remaining import COST, Remaining, StepClock, duration_text, time_single
from maxl.experiments.studies.study import Study

SMALL = "--data digits --train-size 100 --trunk mlp --batch-size 25 --device cpu --no-tensorboard"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies run in this process."""
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.report.write_report", lambda folder: folder / "report.html")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *(
            (0.2, "1 second"),
            (40.4, "40 seconds"),
            (89, "89 seconds"),
            (120, "2 minutes"),
            (5399, "90 minutes"),
        ),
        *((5400, "1 h 30 min"), (36000, "10 h 00 min"), (7199.9, "2 h 00 min")),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def clock_at(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    times = iter(seconds)
    monkeypatch.setattr(remaining.time, "monotonic", lambda: next(times))


def test_a_run_is_estimated_by_its_steps_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    clock_at(monkeypatch, [10.0, *(10.0 + 0.5 * i for i in range(1, 30))])
    clock = StepClock(3, told.append)
    for step in range(1, 20):
        clock(step, 100)
    assert told == [pytest.approx(0.5 * 100 * 3)]  # once


def test_slow_steps_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    clock_at(monkeypatch, [0.0, 60.0])
    clock = StepClock(2, told.append)
    clock(1, 100)
    clock(2, 100)
    assert told == [pytest.approx(60.0 * 100 * 2)]


def test_timing_leaves_random_numbers_and_folders_alone(here: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    seconds = time_single(tiny(method="maxl", epochs=100), digits())
    assert torch.equal(torch.get_rng_state(), before)
    assert seconds is not None
    assert seconds > 0
    assert list(here.iterdir()) == []
    assert time_single(tiny(method="single", learning_rate=1e30, batch_size=100), digits()) is None


def test_runs_with_a_warm_up_longer_than_an_epoch_are_timed() -> None:
    assert time_single(tiny(epochs=5, warmup=2.0), digits()) is not None


def slow_ends(monkeypatch: pytest.MonkeyPatch) -> list[RunFolder]:
    """Epochs whose end takes a twentieth of a second, noted."""
    ends: list[RunFolder] = []
    append = RunFolder.append_metrics

    def slowly(self: RunFolder, row: dict[str, Any]) -> None:
        ends.append(self)
        time.sleep(0.05)
        append(self, row)

    monkeypatch.setattr(RunFolder, "append_metrics", slowly)
    return ends


def test_what_the_ends_of_short_epochs_take_is_in_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_ends(monkeypatch)
    seconds = time_single(tiny(epochs=200), digits())
    assert seconds is not None
    assert seconds >= 200 * 0.05


def test_a_long_epoch_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = slow_ends(monkeypatch)
    monkeypatch.setattr(remaining, "_LONG", 0.0)  # every epoch is
    assert time_single(tiny(epochs=200), digits()) is not None
    assert ends == []


def finished(folder: Path, config: RunConfig, seconds: float) -> None:
    """A run that has ended after so long."""
    run = RunFolder(folder)
    run.create(config)
    run.write_summary({"method": config.method})
    at = run.config.stat().st_mtime + seconds
    os.utime(run.summary, (at, at))


def test_methods_differ_in_what_they_cost_until_one_has_ended(here: Path) -> None:
    planned = Study(tiny(epochs=10), ["single", "maxl"], [0, 1]).plan()
    one, two = Remaining(here, planned, 1), Remaining(here, planned, 2)
    assert one.expected() is None
    assert one.left() is None
    assert one.expected(7.0) == pytest.approx(7.0 * 2 * (1 + COST["maxl"]))
    assert two.expected(7.0) == pytest.approx(7.0 * (1 + COST["maxl"]))
    finished(here / planned[0].path, planned[0].config, 12.0)  # single, seed 0
    assert Remaining(here, planned, 1).expected(7.0) == pytest.approx(12.0 * (1 + 2 * COST["maxl"]))
    finished(here / planned[1].path, planned[1].config, 30.0)  # maxl, seed 0
    assert Remaining(here, planned, 1).expected() == pytest.approx(12.0 + 30.0)


def test_time_left_is_told_by_the_pace_of_this_call(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Study(tiny(epochs=4), ["single", "maxl"], [0]).plan()
    now = [100.0]
    monkeypatch.setattr(remaining.time, "monotonic", lambda: now[0])
    rest = Remaining(here, planned, 1)
    run = RunFolder(here / planned[0].path)
    run.create(planned[0].config)
    now[0] = 150.0  # processes have started
    run.append_metrics({"epoch": 1})
    assert rest.left() is None
    now[0] = 153.0
    for epoch in (2, 3):
        run.append_metrics({"epoch": epoch})
    # half a run of cost 1 took 3 seconds; a quarter of it and a run of cost 4 are left
    assert rest.left() == pytest.approx(3.0 / 0.5 * (0.25 + COST["maxl"]))


def test_compare_says_how_long_it_takes_before_it_starts(
    here: Path, one_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"compare {SMALL} --methods single uniform --seeds 0 --epochs 2 --jobs 1"
    assert main(line.split()) == 0
    err = capsys.readouterr().err.splitlines()
    first = next(
        i
        for i, one in enumerate(err)
        if re.fullmatch(r"maxl: note: about \d+ seconds? for 2 runs, once processes have started", one)
    )
    assert any(one.startswith("maxl: note: study: 4 of 4 epochs") for one in err[first:])
    assert main([*line.split(), "--methods", "single", "uniform", "random"]) == 0
    assert re.search(r"about \d+ seconds? for 1 run, once processes have started\n", capsys.readouterr().err)
    assert main([*line.split(), "--quiet"]) == 0
    out, err_text = capsys.readouterr()
    assert "against single" in out
    assert err_text == ""
