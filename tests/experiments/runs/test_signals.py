"""Ctrl-C and SIGTERM: nothing that was reported is lost, and the command says how to go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.signals import HeldSignals
from maxl.experiments.runs.trainer import resume, train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="raises POSIX signals")
SMALL = "--data digits --train-size 100 --trunk mlp --epochs 4 --batch-size 25 --device cpu --no-tensorboard"


@pytest.fixture(autouse=True)
def in_a_terminal() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell has started the tests in the background and with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_held_signal_acts_when_it_is_released() -> None:
    before = signal.getsignal(signal.SIGINT)
    with HeldSignals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGINT)
        assert signals.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signals.release()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_is_not_held() -> None:
    with HeldSignals() as signals:
        signals.hold()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_without_a_hold_a_signal_acts_at_once_and_after_an_error_handlers_are_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with HeldSignals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)

    def fail() -> None:
        with HeldSignals() as signals:
            signals.hold()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_epoch_that_was_reported_is_saved_before_the_run_stops(epoch: int, tmp_path: Path) -> None:
    reported: list[int] = []

    def report(row: dict[str, Any]) -> None:
        reported.append(row["epoch"])
        if row["epoch"] == epoch:
            signal.raise_signal(signal.SIGINT)

    config = tiny(epochs=4, checkpoint_every=4)  # no checkpoint would come before the end
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", data=digits(), report=report)
    assert reported == list(range(1, epoch + 1))
    resume(tmp_path / "cut", data=digits(), report=lambda row: reported.append(row["epoch"]))
    assert reported == [1, 2, 3, 4]
    train(config, tmp_path / "whole", data=digits())
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_the_command_that_it_prints_continues_the_run(
    number: signal.Signals,
    code: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    append = RunFolder.append_metrics

    def kill(self: RunFolder, row: dict[str, Any]) -> None:
        append(self, row)
        if row["epoch"] == 2 and self.path.name == "a run":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "append_metrics", kill)
    before = signal.getsignal(signal.SIGTERM)
    line = [*f"train {SMALL} --out".split(), "a run"]
    assert main(line) == code
    assert signal.getsignal(signal.SIGTERM) is before
    last = capsys.readouterr().err.splitlines()[-1]
    start = f"maxl: {word}; what is finished is kept; continue with: maxl "
    assert last == f"{start}train --resume 'a run'"
    monkeypatch.setattr(RunFolder, "append_metrics", append)
    assert main(shlex.split(last.removeprefix(start))) == 0
    assert main([*line[:-1], "whole"]) == 0
    assert metrics(tmp_path / "a run") == metrics(tmp_path / "whole")


def test_an_interrupted_study_names_its_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def terminated(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("maxl.experiments.studies.workers.run_jobs", terminated)
    line = f"compare {SMALL} --methods single --seeds 0 --out study"
    assert main(line.split()) == 143
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"continue with: maxl {line}")


def test_a_typed_trunk_is_trusted_by_the_command_that_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    RunFolder(tmp_path / "run").create(tiny(trunk="own:make"))
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps({"epoch": 1}) + "\n")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maxl.experiments.cli._train.read_config", interrupted)
    assert main(["train", "--trunk", "own:make"]) == 130
    assert capsys.readouterr().err.endswith("continue with: maxl train --resume run --trust\n")
