"""Processes of a study: none outlives it, and the death of one is the death of one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from _run_helpers import metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.lock import locked
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.studies.workers import execute, run_jobs

BEGIN = """import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from _run_helpers import tiny
from maxl.experiments.studies.study import Study
if __name__ == "__main__":
    Study(tiny(epochs=3000), ["single"], [0]).run(Path(sys.argv[1]), jobs=1)
"""


def children(parent: int) -> list[int]:
    """Processes of a study that train."""
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == parent and "spawn_main" in row[2]]


def running(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip()) and not found.stdout.strip().startswith("Z")


def wait_for(what: str, true: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@pytest.mark.skipif(os.name == "nt", reason="needs ps and SIGKILL")
def test_workers_end_with_a_study_that_is_killed_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "begin.py").write_text(BEGIN)
    tests = str(Path(__file__).parents[2])
    study = subprocess.Popen([sys.executable, tmp_path / "begin.py", tmp_path / "study", tests])
    run = RunFolder(tmp_path / "study/runs/single/seed0")
    try:
        wait_for("two epochs", lambda: run.metrics.exists() and len(run.read_metrics()) > 1)
        workers = children(study.pid)
        assert len(workers) == 1
    finally:
        study.send_signal(signal.SIGKILL)
        study.wait()
    wait_for("the worker ends", lambda: not running(workers[0]))
    done = len(run.read_metrics())
    assert not run.finished

    def stop(row: dict[str, object]) -> None:
        assert done - 1 <= int(str(row["epoch"])) <= done + 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # no one holds the folder, and the run goes on where it stopped
        resume(run.path, label="single", report=stop, wait=10.0)


def test_a_run_that_ended_meanwhile_is_taken_as_it_is(tmp_path: Path) -> None:
    config = tiny(epochs=1)
    train(config, tmp_path / "run")
    before = (tmp_path / "run/summary.json").stat().st_mtime_ns
    execute(config, tmp_path / "run", "maxl")
    assert (tmp_path / "run/summary.json").stat().st_mtime_ns == before


def test_a_folder_that_another_process_holds_is_named_once(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="is in use by process") as caught:
        execute(tiny(), tmp_path, "single", wait=0.1)
    assert str(caught.value).startswith(f"{tmp_path} is in use by")
    assert str(caught.value).count(str(tmp_path)) == 1


def test_a_run_with_another_trunk_than_the_study_is_not_run(tmp_path: Path) -> None:
    RunFolder(tmp_path).create(tiny(trunk="subprocess:call"))
    with pytest.raises(ValueError, match="its config names another trunk than the study"):
        execute(tiny(), tmp_path, "maxl")


@pytest.mark.skipif(os.name == "nt", reason="needs ps and SIGKILL")
def test_a_run_whose_process_dies_is_run_once_more_and_then_reported(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    jobs = [(tiny(epochs=2), good, "maxl"), (tiny(epochs=3000), bad, "maxl")]
    killed: list[int] = []

    def tick(_: int) -> None:
        if not (bad / "metrics.jsonl").exists():
            return
        for pid in children(os.getpid()):
            held = (bad / ".holder").exists() and str(pid) in (bad / ".holder").read_text()
            if held and pid not in killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    with pytest.warns(RunWarning, match=r"bad: its process died .*; it is started once more"):
        dead = run_jobs(jobs, processes=2, devices=0, tick=tick)
    assert dead == [bad]
    assert len(killed) == 2
    assert RunFolder(good).finished
    train(tiny(epochs=2), tmp_path / "alone")
    assert metrics(good) == metrics(tmp_path / "alone")
