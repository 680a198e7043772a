"""The command line: what it does, and one line for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from _data_helpers import pixels, write_csv, write_parquet
from _run_helpers import files, metrics, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main, parser
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import train
from maxl.experiments.runs.values import flag

SMALL = "--data digits --train-size 100 --trunk mlp --epochs 1 --batch-size 25 --device cpu --no-tensorboard"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> int:
    """The exit code, whichever way it comes."""
    try:
        return main(line.split())
    except SystemExit as end:
        return int(end.code or 0)


def write_inputs(folder: Path) -> None:
    """Files with one mistake each, and a run that is finished."""
    write_csv(folder / "good.csv")
    write_csv(folder / "negative.csv", label=[0, -1] * 10)
    write_csv(folder / "inf.csv", a=["inf", *range(19)])
    write_csv(folder / "words.csv", a=[*range(19), "many"])
    write_csv(folder / "one.csv", label=["only"] + ["no", "yes"] * 9 + ["no"])
    labels = {"label": [0, 1] * 10}
    write_parquet(folder / "empty.parquet", "image", pixels(20, 8, 8), labels, {"label": "abc"})
    (folder / "bad.yaml").write_text("epochs: [1")
    (folder / "list.yaml").write_text("- epochs\n")
    (folder / "unknown.yaml").write_text("epochz: 3\n")
    (folder / "text.yaml").write_text("epochs: many\n")
    (folder / "code.yaml").write_text("trunk: subprocess:call\n")
    (folder / "cycle.yaml").write_text("data: &a [*a]\n")
    (folder / "deep.yaml").write_text("psi: " + "[" * 5000 + "]" * 5000)
    (folder / "a-file").write_text("")
    (folder / "images").mkdir()
    tiny().write(folder / "taken.yaml")
    run = RunFolder(folder / "taken")
    run.create(tiny())
    run.write_summary({"method": "maxl"})


MISTAKES = {
    "unknown command": ("trian", "unknown command 'trian'; did you mean 'train'"),
    "no command": ("", "required: command"),
    "unknown flag": (f"train {SMALL} --epoch 3", "unknown argument --epoch; did you mean --epochs"),
    "unknown flag of compare": (f"compare {SMALL} --seed 3", "unknown argument --seed; did you mean --seeds"),
    "unknown data set": ("train --data digit", "unknown data set 'digit'; did you mean 'digits'"),
    "unknown method": (f"train {SMALL} --method maxxl", "got 'maxxl'; did you mean 'maxl'"),
    "unknown method of compare": (f"compare {SMALL} --methods kmean", "got 'kmean'; did you mean 'kmeans'"),
    "unknown trunk": (f"train {SMALL} --trunk vgg61", "unknown trunk 'vgg61'; did you mean 'vgg1"),
    "unknown trunk of compare": (f"compare {SMALL} --trunk convnet5", "did you mean 'convnet4'"),
    "unknown choice": (f"train {SMALL} --optimizer adm", "got 'adm'; did you mean 'adam'"),
    "value missing": (f"train {SMALL} --seed", "expected one argument"),
    "not a number": (f"train {SMALL} --epochs many", "--epochs: invalid int value: 'many'"),
    "not finite": (f"train {SMALL} --train-size nan", "--train-size needs to be a finite number"),
    "below its range": (f"train {SMALL} --epochs 0", "--epochs needs to be at least 1; got 0"),
    "missing column": ("train --data good.csv --primary labl", "no column 'labl'; did you mean 'label'"),
    "missing file": ("train --data none.csv", "no file or folder 'none.csv'"),
    "missing folder": ("train --data no/folder", "no file or folder 'no/folder'"),
    "missing data folder": ("train --data mnist --data-dir nowhere", "'nowhere' is no folder"),
    "data folder without the data": ("train --data mnist --data-dir images", "'images' holds no mnist"),
    "folder without images": ("train --data images", "has no images"),
    "negative labels": ("train --data negative.csv", "row 1 is negative"),
    "inputs that are no number": ("train --data inf.csv", "column 'a', row 0 holds inf"),
    "words among numbers": (
        "train --data words.csv",
        "numbers in all rows or in few; 'a' of 'words.csv' holds 'many' in row 19",
    ),
    "class with one sample": ("train --data one.csv", "class 'only' has 1"),
    "class without samples": ("train --data empty.parquet", "class 'c' has none"),
    "train size beyond the data": (f"train {SMALL} --train-size 5000", "train_size must lie between 0 and"),
    "psi of the wrong length": (f"train {SMALL} --psi 2 3", "--psi needs .* got 2 for 10 classes"),
    "psi of the wrong length in compare": (f"compare {SMALL} --psi 2 3", "got 2 for 10 classes"),
    "psi below one": (f"train {SMALL} --psi 0", "--psi needs whole numbers of at least 1; got 0"),
    "human labels missing": (f"train {SMALL} --method human", "name it with --human"),
    "human labels missing in compare": (f"compare {SMALL} --methods human", "name it with --human"),
    "device": (f"train {SMALL} --device cuda:99", "--device cuda:99 cannot be used here"),
    "no device": (f"train {SMALL} --device gpu", "--device gpu cannot be used here"),
    "device of compare": (f"compare {SMALL} --device cuda:99", "--device cuda:99 cannot be used here"),
    "bad YAML": ("train --config bad.yaml", "bad.yaml is not valid YAML"),
    "YAML that is a list": ("train --config list.yaml", "'name: value' a line; got list"),
    "unknown key": ("train --config unknown.yaml", "unknown key 'epochz'; did you mean 'epochs'"),
    "key of the wrong kind": ("train --config text.yaml", "text.yaml: epochs needs a value of kind int"),
    "missing YAML": ("train --config none.yaml", "none.yaml does not exist"),
    "folder taken": (f"train {SMALL} --out taken", "taken holds one: choose another"),
    "folder is a file": (f"train {SMALL} --out a-file", "--out needs a folder; a-file is a file"),
    "folder of another thing": (f"compare {SMALL} --out taken", "taken holds something else"),
    "resume of nothing": ("train --resume none", "--resume needs the folder of a run; none holds none"),
    "resume of a finished run": ("train --resume taken", "taken is finished"),
    "resume with a flag": ("train --resume taken --epochs 3", "leave out the other flags"),
    "resume with a folder": ("train --resume taken --out new", "leave out the other flags"),
    "code from a config file": (
        f"train {SMALL.replace('--trunk mlp', '')} --config code.yaml",
        "code.yaml wants to run code, trunk 'subprocess:call': .* pass --trust",
    ),
    "YAML that refers to itself": ("train --config cycle.yaml", "cycle.yaml is not valid YAML: anchors"),
    "YAML nested beyond reason": ("train --config deep.yaml", "deep.yaml is not valid YAML: nested too deep"),
    "grid with a bomb": (f"compare {SMALL} --grid psi=&a[*a]", "plain values between commas"),
    "negative seed": (f"compare {SMALL} --seeds 0 -1", "--seeds needs numbers of at least 0; got -1"),
    "no jobs": (f"compare {SMALL} --jobs 0", "--jobs needs to be at least 1; got 0"),
    "grid without values": (f"compare {SMALL} --grid psi", "--grid needs NAME=VALUE,VALUE items; got 'psi'"),
    "grid over nothing known": (f"compare {SMALL} --grid psy=2", "unknown field 'psy'; did you mean 'psi'"),
    "grid that is no YAML": (f"compare {SMALL} --grid psi=[", "plain values between commas; got 'psi=\\["),
    "part of nothing": (f"train {SMALL} --method maxl --teach-part 0", "--teach-part needs to be above 0"),
    "part of a virtual step": (
        f"train {SMALL} --method maxl --teach-part 0.5 --lookahead virtual",
        "use it with --lookahead update",
    ),
    "part of normalised weights": (
        f"train {SMALL} --method weighted --normalise-weights --teach-part 0.5",
        "--teach-part takes samples that stand for their batch",
    ),
    "part of a reweighted batch": (
        f"train {SMALL} --method reweighted --evaluate held-out --teach-part 0.5",
        "--teach-part takes samples that stand for their batch",
    ),
    "grid over methods": (f"compare {SMALL} --grid method=maxl", "vary it by --methods"),
    "device that computes nothing": (
        f"train {SMALL} --device meta",
        "--device meta cannot be used here: choose",
    ),
    "device that torch warns of": (f"train {SMALL} --device mkldnn", "--device mkldnn cannot be used here"),
    "device without its module": (f"train {SMALL} --device hpu:0", "--device hpu:0 cannot be used here"),
    "more threads than a process can have": (f"train {SMALL} --threads 1000000", "at most 1024; got 1000000"),
    "side beyond 64 bits": (f"train {SMALL} --image-size {'9' * 25}", "--image-size needs to be at most"),
    "psi beyond 64 bits": (f"train {SMALL} --psi {'9' * 25}", "--psi needs to be at most"),
    "nothing left to train on": (
        f"train {SMALL} --evaluate held-out --held-out 0.999999",
        "--held-out needs to leave a sample to train on; got 0.999999 of 100 samples",
    ),
    "hub without a name": ("train --data hf:", "named hf:owner/name or hf:owner/name:config; got 'hf:'"),
    "hub with a path": ("train --data hf:../..", "named hf:owner/name .* got 'hf:../..'"),
    "shape below one": ("check --trunk mlp --shape -1", "--shape needs whole numbers from 1 to .* got -1"),
    "shape beyond memory": (
        "check --trunk mlp --shape 1000000 1000000",
        "at most 2147483648 numbers in a sample",
    ),
    "batch below one": ("check --trunk mlp --shape 4 --batch-size -3", "--batch-size needs .* got -3"),
    "classes below one": ("check --trunk mlp --shape 4 --classes 0", "--classes needs .* got 0"),
    "seed of check": (
        "check --trunk mlp --shape 4 --seed -1",
        "--seed needs to be at least 0 and below .* got -1",
    ),
    "tune without trials": (f"tune {SMALL} --trials 0", "--trials needs to be at least 1; got 0"),
    "tune without time": (f"tune {SMALL} --budget 0", "--budget needs to be a number of minutes above 0"),
    "tune in a missing space": (
        f"tune {SMALL} --space none.yaml",
        "--space needs a file; none.yaml does not exist",
    ),
    "tune over nothing known": (
        f"tune {SMALL} --space unknown.yaml",
        "unknown field 'epochz'; did you mean 'epochs'",
    ),
    "tune with all given": (
        f"tune {SMALL} --method single --learning-rate 1 --weight-decay 0",
        "a search needs a field to vary",
    ),
    "tune where a run is": (f"tune {SMALL} --out taken", "taken holds something else"),
    "unknown tracker": (f"train {SMALL} --track wandbb", "got 'wandbb'; did you mean 'wandb'"),
    "tracker against tracker": (f"train {SMALL} --track tensorboard", "contradict each other: leave one out"),
    "report of nothing": ("report none", "needs a study or run folder; none is none"),
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    line: str, message: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_inputs(here)
    before = files(here)
    assert run(line) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("maxl: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert re.search(message, err), err
    assert files(here) == before


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            "demo",
            "train",
            "compare",
            "check",
            "report",
            "evaluate",
            "predict",
            "labels",
            "export",
            "advise",
        ),
        *("tune", "completion"),
    ],
)
def test_help_fits_a_screen_and_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(f"{command} --help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    if command:
        assert any(line.startswith("example:") for line in lines)
        assert any(line.startswith(f"  maxl {command}") for line in lines)


def test_help_all_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train --help-all") == 0
    text = capsys.readouterr().out
    assert all(f"  {flag(name)} " in text or f" {flag(name)}," in text for name in RunConfig().to_dict())


def test_flags_yaml_and_python_give_one_config(here: Path) -> None:
    from maxl.experiments.cli import read_config

    line = "train --psi 2 3 --learning-rate 1e-3 --cache-labels --no-tensorboard --train-size 0.5 --seed 4"
    flags = read_config(parser().parse_checked(line.split()))
    expected = RunConfig(
        psi=(2, 3), learning_rate=1e-3, cache_labels=True, tensorboard=False, train_size=0.5, seed=4
    )
    assert flags == expected
    expected.write(here / "c.yaml")
    assert read_config(parser().parse_checked(["train", "--config", "c.yaml"])) == expected
    overridden = read_config(parser().parse_checked(["train", "--config", "c.yaml", "--seed", "5"]))
    assert (overridden.seed, overridden.psi) == (5, (2, 3))


def test_train_writes_a_run_that_its_config_repeats(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"train {SMALL} --method maxl --psi 3 --out a") == 0
    out = capsys.readouterr().out
    assert "maxl on digits" in out
    assert "Run folder: a" in out
    assert run("train --config a/config.yaml --out b") == 0
    assert metrics(here / "a") == metrics(here / "b")


def test_a_table_has_no_figure_for_memory_where_the_system_does_not_tell(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"train {SMALL} --out linux") == 0
    monkeypatch.setattr("maxl.experiments.runs.machine.sys.platform", "darwin")
    capsys.readouterr()
    assert run(f"train {SMALL} --out elsewhere") == 0
    out = capsys.readouterr().out
    assert "peak memory" in out
    assert "GiB" not in out


def test_train_on_a_csv_file(here: Path) -> None:
    write_csv(here / "table.csv")
    assert run("train --data table.csv --trunk mlp --epochs 1 --psi 2 --device cpu --no-tensorboard") == 0
    assert RunFolder(here / "run").read_summary()["input_shape"] == [2]


def test_resume_continues_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(row: dict[str, object]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    config = tiny(epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, here / "cut", report=cut)
    assert run("train --resume cut") == 0
    train(config, here / "whole")
    assert metrics(here / "cut") == metrics(here / "whole")


def test_an_interrupt_exits_with_130_and_keeps_what_is_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maxl.experiments.runs.trainer.train", interrupted)
    assert run(f"train {SMALL}") == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"maxl: interrupted; what is finished is kept; continue with: maxl train {SMALL}"


def test_a_diverging_run_ends_in_one_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(f"train {SMALL} --method single --learning-rate 1e30") == 2
    err = capfd.readouterr().err
    assert err.startswith("maxl: error: the training loss needs to be finite")
    assert err.count("\n") == 1


def test_compare_prints_a_table_and_repeats_no_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 1)
    reported: list[Path] = []  # the page itself has tests of its own
    monkeypatch.setattr(
        "maxl.experiments.report.write_report", lambda folder: reported.append(folder) or "report.html"
    )
    line = f"compare {SMALL} --methods single uniform maxl --seeds 0 1 --grid psi=2,3"
    assert run(line) == 0
    out = capsys.readouterr().out
    assert "against single" in out
    assert "each mean alone, uncorrected" in " ".join(out.split())
    assert "95 % simultaneous intervals over 2 comparisons" in " ".join(out.split())
    verdicts = r"psi {}.*- uniform: [^-]*single.*- maxl: [^-]*single.*- maxl: [^-]*uniform"
    assert re.search(
        verdicts.format(2) + ".*" + verdicts.format(3), out, re.DOTALL
    )  # each setting has its own
    results = pd.read_csv(here / "study" / "results.csv")
    assert results.groupby("method").size().to_dict() == {"maxl": 4, "uniform": 4, "single": 2}
    assert reported == [Path("study")]
    times = {p: p.stat().st_mtime_ns for p in here.rglob("summary.json")}
    assert run(line) == 0
    assert {p: p.stat().st_mtime_ns for p in here.rglob("summary.json")} == times
    assert "Runs differ" not in capsys.readouterr().out
    assert run(line.replace("--seeds 0 1", "--seeds 0 1 4") + " --threads 2") == 0
    assert "- Runs differ in threads (1: 6 runs; 2: 3 runs)" in capsys.readouterr().out


def test_the_installed_command_in_a_process_of_its_own(here: Path) -> None:
    command = Path(sys.executable).with_name("maxl")
    if not command.exists():
        pytest.skip(f"the package is not installed as a command beside {sys.executable}")
    bad = subprocess.run([command, "train", "--epochs", "0"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
    assert bad.stderr.startswith("maxl: error: --epochs needs to be at least 1; got 0")
    assert files(here) == []
