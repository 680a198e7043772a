"""What commands say beside their results: progress in terminals and logs, and nothing where quiet is asked for."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _data_helpers import write_csv
from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main, parser
from maxl.experiments.cli.listen import listening, note
from maxl.experiments.cli.place import as_typed_here, command_line
from maxl.experiments.cli.show import progress_bar, run_table
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import train

SMALL = "--data digits --train-size 100 --trunk mlp --batch-size 25 --device cpu --no-tensorboard"
COMMANDS = (
    *("demo", "train", "compare", "check", "report", "evaluate", "predict", "labels", "export", "advise"),
    *("tune", "completion"),
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Lines where there is no terminal


def test_a_log_has_a_line_for_each_epoch_and_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"train {SMALL} --method single --epochs 3".split()) == 0
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if "epochs" in line]
    assert [line.split(",")[0] for line in lines] == [
        f"maxl: note: single: {epoch} of 3 epochs" for epoch in (1, 2, 3)
    ]
    assert all(re.search(r"left\s+loss \d\.\d+\s+test \d", line) for line in lines[:2])
    assert " left" not in lines[2]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", err)


def test_a_resumed_run_counts_from_where_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(row: dict[str, Any]) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny(method="single", epochs=4), here / "run", data=digits(), report=cut)
    assert main(["train", "--resume", "run"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "epochs" in line]
    assert lines[-1].startswith("maxl: note: single: 4 of 4 epochs")


def test_lines_of_a_study_keep_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("maxl.experiments.cli.show.time.monotonic", lambda: now[0])
    with listening(), progress_bar("study", 100, every=30.0) as advance:
        for done, seconds in (
            (0, 0.0),
            (1, 1.0),
            (2, 20.0),
            (3, 32.0),
            (3, 99.0),
            (100, 100.0),
            (100, 200.0),
        ):
            now[0] = seconds
            advance(done, "1/2 runs")
    said = capsys.readouterr().err.splitlines()
    assert said == [f"maxl: note: study: {n} of 100 epochs, 1/2 runs" for n in (1, 3, 100)]


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for term, bar in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stderr", screen := Terminal())
        with listening(), progress_bar("maxl", 4) as advance:
            advance(2, "loss 1.0")
        assert ("\x1b[" in screen.getvalue()) is bar
        assert ("maxl: note: maxl: 2 of 4 epochs, loss 1.0\n" in screen.getvalue()) is not bar


def test_forced_colours_put_no_bar_into_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with listening(), progress_bar("maxl", 4) as advance:
        advance(2)
    assert capsys.readouterr().err == "maxl: note: maxl: 2 of 4 epochs\n"


# Quiet and verbose


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_quiet_or_verbose(command: str) -> None:
    needed = {
        "report": ["x"],
        "predict": ["x", "y"],
        "labels": ["x", "y"],
        "export": ["x"],
        "evaluate": ["x"],
    }
    words = [command, *needed.get(command, ["bash"] if command == "completion" else [])]
    given = [parser().parse_checked([*words, *flags]) for flags in ([], ["-q"], ["--quiet"], ["-v"])]
    assert [(n.quiet, n.verbose) for n in given] == [
        (False, False),
        (True, False),
        (True, False),
        (False, True),
    ]
    with pytest.raises(SystemExit):
        parser().parse_checked([*words, "-q", "-v"])


def test_quiet_leaves_the_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(here / "t.csv")
    line = f"train {SMALL.replace('digits --train-size 100', 't.csv')} --method single --epochs 2"
    assert main([*line.split(), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Run folder: run" in out
    assert main([*line.split(), "--out", "again"]) == 0
    assert (
        "maxl: note: no test part is given, so 4 of 20 samples (20 % of each class)"
        in capsys.readouterr().err
    )
    assert main(["predict", "run", "t.csv", "-q"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("row,class,probability\n")
    assert err == ""


def test_quiet_and_verbose_run_the_same_bits(here: Path) -> None:
    for name in ("quiet", "verbose"):
        assert main(f"train {SMALL} --method maxl --psi 2 --epochs 2 --{name} --out {name}".split()) == 0
    assert metrics(here / "quiet") == metrics(here / "verbose")


def test_a_mistake_is_said_however_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "digit", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("maxl: error: unknown data set 'digit'")


def test_verbose_names_who_says_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"train {SMALL} --method single --epochs 1 -v".split()) == 0
    err = capsys.readouterr().err
    assert re.search(r"^maxl: note: maxl\.experiments\.runs\.trainer: .*mlp", err, re.MULTILINE)


def test_the_handler_goes_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("maxl")
    before = list(logger.handlers), logger.level, logger.propagate
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    assert main(f"train {SMALL} --method single --epochs 1 --verbose".split()) == 0
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    capsys.readouterr()
    note("nobody listens")
    logging.getLogger("maxl.experiments").warning("nobody listens")
    assert capsys.readouterr().err == ""


def test_messages_obey_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with listening():
        note("a\x1b[31m\nb")
        logging.getLogger("maxl.data").warning("50 %% of %s", "c\rd")
    assert capsys.readouterr().err == "maxl: note: a\\x1b[31m\nmaxl: note: b\nmaxl: note: 50 % of c\\rd\n"


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_watching_changes_no_bit(method: str, here: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = tiny(method=method)
    train(config, here / "a", data=digits())
    train(config, here / "b", data=digits(), watch=lambda *step: seen.append(step))
    assert metrics(here / "a") == metrics(here / "b")
    assert seen == [(step, 4) for step in range(1, 9)]  # two epochs of a hundred samples in batches of 25


def test_samples_that_fill_no_batch_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"train {SMALL} --method single --epochs 1".replace("--batch-size 25", "--batch-size 60")
    assert main([*line.split(), "--out", "a"]) == 0
    assert (
        "40 of 100 training samples are left out of each epoch, drawn anew, as they fill no batch of 60; --batch-size 50 takes "
        "nearly all\n"
    ) in capsys.readouterr().err
    assert main([*line.replace("--batch-size 60", "--batch-size 48").split(), "--out", "b"]) == 0
    assert "left out" not in capsys.readouterr().err  # fewer than a tenth


# Where the user stands


def test_commands_are_named_as_they_work_here(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    words = ["train", "--out", "a run"]
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name("maxl")))
    assert command_line(words) == "maxl train --out 'a run'"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert command_line(["demo"]).endswith(" -m maxl demo")
    monkeypatch.setenv("UV", "/usr/bin/uv")
    root = here / "clone"
    (root / "src" / "maxl").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "maxl-torch"\n')
    monkeypatch.setattr("maxl.experiments.cli.place._ROOT", root.resolve())
    monkeypatch.chdir(root / "src")
    assert command_line(["demo"]) == "uv run maxl demo"
    monkeypatch.chdir(here)
    assert command_line(["demo"]) == f"uv run --project {root.resolve()} maxl demo"
    (root / "pyproject.toml").unlink()
    assert command_line(["demo"]).endswith(" -m maxl demo")


def test_errors_name_a_command_that_works_here(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder(here / "run").create(tiny())
    assert main(["export", "run"]) == 2
    assert capsys.readouterr().err.endswith("continue it with maxl train --resume run\n")
    monkeypatch.setattr("maxl.experiments.cli.place._start", lambda: ["uv", "run", "maxl"])
    assert main(["export", "run"]) == 2
    assert capsys.readouterr().err.endswith("continue it with uv run maxl train --resume run\n")
    needs = 'needs onnx: pip install "maxl-torch[onnx]", or choose another'
    assert as_typed_here(needs) == "needs onnx: uv run --extra onnx maxl ..., or choose another"
    monkeypatch.setattr("maxl.experiments.cli.place._start", lambda: ["maxl"])
    assert as_typed_here(needs) == needs


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_completes_commands_flags_and_choices(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, "meta-every", "quiet", "adamw"))


def test_bash_takes_its_script(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    bash = shutil.which("bash")
    if bash is None or os.name == "nt":
        pytest.skip("there is no bash here")
    assert main(["completion", "bash"]) == 0
    (here / "maxl.bash").write_text(capsys.readouterr().out)
    lines = [
        "source maxl.bash",
        "COMP_WORDS=(maxl train --optimizer ''); COMP_CWORD=3; _shtab_maxl; echo ${COMPREPLY[@]}",
        "COMP_WORDS=(maxl tra); COMP_CWORD=1; _shtab_maxl; echo ${COMPREPLY[@]}",
    ]
    done = subprocess.run([bash, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["sgd adam adamw", "train"]


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fsh"]) == 2
    assert capsys.readouterr().err == (
        "maxl: error: SHELL needs to be one of bash, zsh, fish; got 'fsh'; did you mean 'fish'?\n"
    )


# Notebooks


def test_tables_show_as_tables_in_notebooks(here: Path) -> None:
    summary = train(tiny(method="single", epochs=1), here / "run", data=digits())
    shown = run_table(summary)._repr_mimebundle_((), ())
    assert "single" in shown["text/html"]
    assert "<pre" in shown["text/html"]
