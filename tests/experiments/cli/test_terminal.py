"""Names from anywhere on terminals of any kind: printed as they are, obeyed by nothing."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from _data_helpers import write_csv
from _run_helpers import files, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import train

COMMON = "--trunk mlp --method single --epochs 1 --batch-size 5 --device cpu --no-tensorboard"
SMALL = f"--data digits --train-size 20 {COMMON}"
HOSTILE = (
    '=HYPERLINK("http://x")',
    "\x1b]0;owned\x07",
    "+a",
    "-b",
    "@c",
    "\td",
    "-1.5",
    "+2e3",
    "caf\u00e9\u202e",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_hostile(folder: Path) -> Path:
    """A table whose classes are named in bad faith, four rows each."""
    names = [name for name in HOSTILE for _ in range(4)]
    with (folder / "hostile.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("a", "label"))
        writer.writerows((10 * (i // 4), name) for i, name in enumerate(names))
    return folder / "hostile.csv"


@pytest.mark.parametrize("name", ["run[/x]", "run[red]", "run[bold]x", "run:smile:"])
def test_names_are_no_markup(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / f"d{name}").mkdir(parents=True)
    write_csv(here / f"d{name}" / "t.csv")
    assert main([*["train", "--data"], f"d{name}/t.csv", *COMMON.split(), "--out", name]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].strip() == f"single on d{name}/t.csv"
    assert out.splitlines()[-1] == f"Run folder: {name}"


def test_the_folder_of_a_study_is_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 1)
    monkeypatch.setattr("maxl.experiments.report.write_report", lambda folder: folder / "report.html")
    line = f"compare {SMALL.replace('--method single ', '')} --methods single --seeds 0 --jobs 1 --out s[/z]"
    assert main(line.split()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Report: s[/z]/report.html"


def test_control_characters_are_written_out_in_errors_and_paths(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "none\x1b]0;owned\x07\u202e", "x"]) == 2
    assert main(["train", *SMALL.split(), "--out", "run\x1b[31m"]) == 0
    with pytest.raises(SystemExit):
        main(["train", "--\x1b[31m"])
    out, err = capfd.readouterr()
    assert "none\\x1b]0;owned\\x07\\u202e holds none" in err
    assert "unknown argument --\\x1b[31m" in err
    assert "Run folder: run\\x1b[31m" in out
    assert not {"\x1b", "\x07", "\u202e"} & {*out, *err}


def test_class_names_reach_neither_a_spreadsheet_as_formulas_nor_a_terminal_as_commands(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_hostile(here)
    config = tiny(
        data=str(file), train_size=None, method="single", batch_size=9, epochs=150, learning_rate=0.03
    )
    train(config, here / "run")
    assert main(["predict", "run", "hostile.csv", "--device", "cpu", "--out", "p.csv"]) == 0
    assert capfd.readouterr().out.endswith("predictions in p.csv\n")
    assert main(["predict", "run", "hostile.csv", "--device", "cpu"]) == 0
    text = (here / "p.csv").read_text("utf-8")
    assert capfd.readouterr().out == text
    assert not {"\x1b", "\x07", "\u202e"} & {*text}
    written = {
        *("'" + HOSTILE[0], "\\x1b]0;owned\\x07", "'+a", "'-b", "'@c", "'\td"),
        *("-1.5", "+2e3", "caf\u00e9\\u202e"),
    }
    found = {row["class"] for row in csv.DictReader(text.splitlines())}
    assert found <= written
    assert len(found) > 5  # the model tells most of the classes apart


def test_names_of_files_are_no_formulas(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from _data_helpers import pixels, write_image

    train(tiny(epochs=1), here / "run")
    write_image(here / "=cmd().png", pixels(1, 8, 8, 1)[0])
    assert main(["predict", "run", "=cmd().png", "--device", "cpu"]) == 0
    assert capfd.readouterr().out.splitlines()[1].startswith("'=cmd().png,")


def command(*arguments: str, pipe: bool = False, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`maxl` in a process of its own; `pipe` gives it an output that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from maxl.experiments.cli import main; sys.exit(main())",
                *arguments,
            ],
            stdout=write if pipe else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            timeout=120,
        )
    finally:
        os.close(write)


def test_a_terminal_that_knows_ascii_alone_gets_plainer_characters(here: Path) -> None:
    write_csv(here / "caf\u00e9.csv", label=["caf\u00e9", "th\u00e9"] * 10)
    done = command(
        *f"train --data caf\u00e9.csv {COMMON} --out r\u00e9sultat".split(),
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="1",
    )
    assert (done.returncode, RunFolder(here / "r\u00e9sultat").finished) == (0, True), done.stderr
    assert b"Run folder: r\\xe9sultat" in done.stdout
    done.stdout.decode("ascii")
    done.stderr.decode("ascii")
    predicted = command(
        *["predict", "résultat", "café.csv", "--device", "cpu"], PYTHONIOENCODING="ascii", PYTHONUTF8="1"
    )
    classes = {line.split(",")[1] for line in predicted.stdout.decode("ascii").splitlines()[1:]}
    assert classes <= {"caf\\xe9", "th\\xe9"}


def test_plus_minus_has_a_plain_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import BytesIO, TextIOWrapper

    from maxl.experiments.cli.terminal import shown

    assert shown("1 ± 2") == "1 ± 2"
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), "ascii"))
    assert shown("1 ± 2") == "1 +/- 2"


@pytest.mark.parametrize(
    "line", [f"train {SMALL} --out run", "train --help-all", "check --trunk mlp --shape 8"]
)
def test_output_that_nobody_reads_ends_the_command_quietly(here: Path, line: str) -> None:
    done = command(*line.split(), pipe=True)
    assert done.returncode in (0, 1)
    assert b"Error" not in done.stderr
    assert b"error" not in done.stderr
    assert RunFolder(here / "run").finished == ("--out run" in line)


@pytest.mark.parametrize(
    "line",
    [
        "export run --out run/model.safetensors",
        "export other --out run/model.safetensors",
        "export run --out run/sub/../model.safetensors",
        "export run --out link/model.safetensors",
        "predict run t.csv --out run/summary.json",
        "predict run t.csv --out run/checkpoint/state.pt",
        "predict run t.csv --out t.csv",
        "labels run t.csv --out run/summary.json",
        "labels run t.csv --out t.csv",
        "report run --out run/config.yaml",
    ],
)
def test_nothing_replaces_a_file_of_a_run_or_the_source(
    here: Path, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_csv(here / "t.csv")
    for name in ("run", "other"):
        train(tiny(data="t.csv", train_size=None, batch_size=8, epochs=1, method="single"), here / name)
    (here / "link").symlink_to("run")
    (here / "run" / "sub").mkdir()
    before = {name: (here / name).read_bytes() for name in files(here) if (here / name).is_file()}
    assert main(line.split()) == 2
    err = capfd.readouterr().err
    assert err.startswith("maxl: error: --out ")
    assert err.count("\n") == 1
    assert {name: (here / name).read_bytes() for name in files(here) if (here / name).is_file()} == before
    assert main(["export", "run", "--out", "run/mine.safetensors"]) == 0
