"""``maxl evaluate`` and ``maxl predict --proba``: what is printed and written, and what is one line on stderr."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from _judged_helpers import CLASSES, colours, photographs, prices
from _run_helpers import files
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import train


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    for make in (photographs, colours, prices):
        (root / make.__name__).mkdir()
        config, _ = make(root / make.__name__)
        train(config, root / f"{make.__name__}-run")
    return root


def table(file: Path) -> tuple[list[str], list[list[str]]]:
    with file.open(newline="") as opened:
        header, *rows = csv.reader(opened)
    return header, rows


def test_what_is_printed_and_written(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = here / "photographs-run", tmp_path / "new" / "evaluation"
    assert (
        main(["evaluate", str(run), str(here / "photographs/test"), "--out", str(out), "--device", "cpu"])
        == 0
    )
    printed = capsys.readouterr().out
    for text in ("accuracy", "balanced accuracy", "precision", "taken for", *CLASSES, str(out)):
        assert text in printed
    assert files(tmp_path / "new") == [
        *("evaluation", "evaluation/confusion.csv", "evaluation/confusion.html"),
        *("evaluation/evaluation.json", "evaluation/per_class.csv"),
    ]
    told = json.loads((out / "evaluation.json").read_text())
    summary = RunFolder(run).read_summary()
    assert told["metrics"] == {
        name: summary[f"test_{name}"] for name in ("accuracy", "balanced_accuracy", "f1", "auroc", "nll")
    }
    assert (told["samples"], told["task"], told["left_out"]) == (15, "classification", [])
    header, rows = table(out / "confusion.csv")
    assert header == ["class", "'-dash", "'=formula", "cat"]  # no formulas
    assert [[int(n) for n in row[1:]] for row in rows] == told["confusion"]
    header, rows = table(out / "per_class.csv")
    assert header == ["class", "precision", "recall", "f1", "support", "predicted"]
    for row, values in zip(rows, told["per_class"], strict=True):
        assert [float(cell) if cell else None for cell in row[1:]] == pytest.approx(list(values.values())[1:])
    page = (out / "confusion.html").read_text()
    assert "=formula" in page
    assert "default-src 'none'" in page  # the browser itself refuses any request


@pytest.mark.filterwarnings("ignore:.*samples that the run was trained on")
def test_figures_of_training_samples_are_marked_in_what_is_written(here: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        run, data = str(here / "photographs-run"), str(here / "photographs" / part)
        assert main(["evaluate", run, data, "--out", str(tmp_path / part), "--device", "cpu"]) == 0
        marked = part == "train"
        assert json.loads((tmp_path / part / "evaluation.json").read_text())["trained_on"] is marked
        assert (
            "trained on some of these samples" in (tmp_path / part / "confusion.html").read_text()
        ) is marked


def test_other_tasks_have_no_confusion(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, word, column in (("colours", "label", "average_precision"), ("prices", "target", "mae")):
        assert (
            main(["evaluate", str(here / f"{case}-run"), "--out", str(tmp_path / case), "--device", "cpu"])
            == 0
        )
        assert files(tmp_path / case) == ["evaluation.json", "per_class.csv"]
        header, _ = table(tmp_path / case / "per_class.csv")
        assert header[:2] == [word, column]
    assert "R²" in capsys.readouterr().out


MISTAKES = {
    "a folder with something in it": (
        "evaluate photographs-run photographs/test --out photographs",
        "new or empty",
    ),
    "a file in place of a folder": ("evaluate colours-run --out colours/test.csv", "new or empty"),
    "no run": ("evaluate photographs photographs/test", "holds none"),
    "no data": ("evaluate colours-run nowhere.csv", "does not exist"),
    "data of another kind": ("evaluate colours-run prices/test.csv", "no column 'red'"),
    "probabilities of numbers": ("predict prices-run prices/test.csv --proba", "gives numbers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line, message = MISTAKES[name]
    monkeypatch.chdir(here)
    before = files(here)
    assert main(line.split()) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("maxl: error: ")
    assert re.search(message, err), err
    assert files(here) == before


def test_where_the_disk_is_full_nothing_is_left(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.name == "evaluation.json":
            path.write_bytes(content)
            return
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maxl.experiments.runs.files.write_at_once", full)
    assert (
        main(["evaluate", str(here / "colours-run"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    )
    assert files(tmp_path) == []


def test_all_probabilities_of_classes(here: Path, tmp_path: Path) -> None:
    run, out = here / "photographs-run", tmp_path / "p.csv"
    assert main(["predict", str(run), str(here / "photographs/test"), "--proba", "--out", str(out)]) == 0
    header, rows = table(out)
    assert header == ["file", "class", "probability", *(f"probability {name}" for name in CLASSES)]
    shares = np.array([[float(cell) for cell in row[3:]] for row in rows])
    assert shares.sum(1) == pytest.approx(1, abs=1e-6)
    assert [row[1].removeprefix("'") for row in rows] == [CLASSES[c] for c in shares.argmax(1)]
    assert [float(row[2]) for row in rows] == pytest.approx(shares.max(1), abs=1e-6)


def test_all_probabilities_of_labels(here: Path, tmp_path: Path) -> None:
    run, source = str(here / "colours-run"), str(here / "colours/test.csv")
    for flags, name in (((), "short.csv"), (("--proba",), "all.csv")):
        assert main(["predict", run, source, *flags, "--out", str(tmp_path / name)]) == 0
    _, rows = table(tmp_path / "short.csv")
    header, shares = table(tmp_path / "all.csv")
    assert header == ["row", "probability red", "probability green", "probability blue"]
    assert [[float(cell) for cell in row[1:]] for row in shares] == pytest.approx(
        np.array([[float(cell) for cell in row[2::2]] for row in rows]), abs=1e-6
    )
