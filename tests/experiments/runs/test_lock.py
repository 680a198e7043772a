"""One process at a time writes into a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from _run_helpers import digits, files, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.runs.lock import locked, require_unlocked
from maxl.experiments.runs.trainer import resume, train

HOLD = """import sys, time
from pathlib import Path
from maxl.experiments.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_at_once_and_the_first_is_named(tmp_path: Path) -> None:
    train(tiny(epochs=1), tmp_path / "run", data=digits())
    (tmp_path / "run" / "summary.json").unlink()  # interrupted at the last moment
    process = holder(tmp_path / "run")
    try:
        for begin in (
            lambda: resume(tmp_path / "run", data=digits()),
            lambda: train(tiny(), tmp_path / "run", data=digits()),
            lambda: require_unlocked(tmp_path / "run"),
        ):
            start = time.monotonic()
            with pytest.raises(ValueError, match=f"run is in use by process {process.pid}: wait"):
                begin()
            assert time.monotonic() - start < 2
    finally:
        process.kill()
        process.communicate()
    resume(tmp_path / "run", data=digits())  # a lock ends with its process, however that ends


def test_a_holder_that_ends_soon_is_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.communicate()
    with locked(tmp_path, wait=10), pytest.raises(ValueError, match=f"process {os.getpid()}"):
        require_unlocked(tmp_path)
    assert files(tmp_path) == [".lock"]


def test_a_look_at_the_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    require_unlocked(tmp_path)
    require_unlocked(tmp_path / "none")
    assert files(tmp_path) == []


def test_of_two_that_begin_together_one_trains(tmp_path: Path) -> None:
    other: list[str] = []

    def second(row: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="is in use by process") as refused:
            train(tiny(), tmp_path, data=digits())
        other.append(str(refused.value))

    train(tiny(), tmp_path, data=digits(), report=second)
    assert len(other) == 2
