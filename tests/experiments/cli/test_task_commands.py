"""Numbers and labels to predict, from the command line: what is said, and what is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from _run_helpers import files, one_thread, runs_here
from _target_helpers import LABELS, colours, columns, prices, write_table
from maxl.experiments.cli import main

__all__ = ["one_thread"]

SMALL = "--trunk mlp --psi 3 --epochs 2 --batch-size 16 --no-tensorboard --device cpu"
PRICE = f"--data prices.csv --primary price {SMALL}"
COLOURS = f"--data colours.csv --primary {' '.join(LABELS)} {SMALL}"


def run(line: str) -> int:
    try:
        return main(line.split())
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    prices(tmp_path)
    colours(tmp_path)
    table = columns()
    kept = {name: table[name] for name in ("a", "b", "price")}
    write_table(tmp_path / "equal.csv", kept | {"price": [7.5] * 80})
    write_table(tmp_path / "infinite.csv", kept | {"price": [*kept["price"][1:], "inf"]})
    write_table(tmp_path / "missing.csv", kept | {"price": [*kept["price"][1:], ""]})
    write_table(tmp_path / "text.csv", kept | {"price": [*kept["price"][1:], "much"]})
    write_table(tmp_path / "two.csv", kept | {"red": table["red"], "blue": [2, *table["blue"][1:]]})
    (tmp_path / "ragged.csv").write_text(Path("colours.csv").read_text() + "\n1,2,3,4,0,1")
    return tmp_path


MISTAKES = {
    "targets all equal": (
        "--data equal.csv --primary price --task regression",
        "'price' are all 7.5 in the tr",
    ),
    "an infinite target": ("--data infinite.csv --primary price", "row 79 is missing or not finite .got inf"),
    "a missing target": ("--data missing.csv --primary price", "row 79 is missing or not finite .got nan"),
    "text in a number": (
        "--data text.csv --primary price --task regression",
        "need to be numbers; column 'price'",
    ),
    "a label of two": ("--data two.csv --primary red blue", "column 'blue': row 0 is neither 0 nor 1 .got 2"),
    "a row of another width": ("--data ragged.csv --primary red green blue", "Expected 7 columns, got 6"),
    "unknown task": (
        "--data prices.csv --primary price --task regres",
        "got 'regres'; did you mean 'regression'",
    ),
    "classes of floats": ("--data prices.csv --primary price --task classification", "--task regression"),
    "classes of several": (
        f"--data colours.csv --primary {' '.join(LABELS)} --task classification",
        "one column",
    ),
    "human on numbers": (f"{PRICE} --method human", "--method human needs primary classes .* is regression"),
    "prototypical on labels": (f"{COLOURS} --method prototypical", "needs primary classes .* is multi-label"),
    "finer labels of numbers": (f"{PRICE} --human a", "--human needs primary classes"),
    "psi by class on numbers": (f"{PRICE} --psi 2 3", "--psi needs one number for regression"),
    "psi of another length": (f"{COLOURS} --psi 2 3", "got 2 for 3 labels"),
}


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    name: str, command: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line, message = MISTAKES[name]
    if command == "compare":
        line = line.replace("--method ", "--methods ")
    before = files(here)
    assert run(f"{command} {line}") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("maxl: error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert files(here) == before


def test_a_regression_from_the_table_to_predictions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"train {PRICE} --method maxl --out run") == 0
    out, err = capsys.readouterr()
    assert "maxl: note: column 'price' holds 80 different numbers, not all of them whole: regression\n" in err
    for heading in ("test R²", "test RMSE", "test MAE"):
        assert heading in out
    assert "accuracy" not in out
    assert run("predict run prices.csv --out p.csv") == 0
    with (here / "p.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["row", "price"]
    assert [int(row[0]) for row in rows] == list(range(80))
    assert 500 < sum(float(row[1]) for row in rows) / 80 < 1500  # in units, not standardised
    for format, name in (("safetensors", "m.safetensors"), ("torch-export", "m.pt2")):
        assert run(f"export run --format {format} --out out/{name}") == 0
        assert (here / "out" / name).exists()


def test_labels_from_the_table_to_predictions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"train {COLOURS} --method uniform --out run") == 0
    out, err = capsys.readouterr()
    assert "maxl: note: 3 columns hold 0 and 1: multi-label\n" in err
    assert "test mAP" in out
    assert run("predict run colours.csv") == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["row", *(column for name in LABELS for column in (name, f"{name}_probability"))]
    assert len(rows) == 80
    for row in rows:
        for has, probability in zip(row[1::2], row[2::2], strict=True):
            assert has == str(int(float(probability) >= 0.5))


def test_nothing_is_said_of_a_task_that_is_given(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"train {PRICE} --task regression --method single --out run") == 0
    said = capsys.readouterr().err
    assert "regression" not in said
    assert "holds" not in said


def test_a_run_repeats_from_its_own_config(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"train {COLOURS} --method single --out run") == 0
    assert run("train --config run/config.yaml --out again") == 0
    first, second = ((here / name / "metrics.jsonl").read_text() for name in ("run", "again"))
    seconds = re.compile(r'"seconds": [^,}]+')
    assert seconds.sub("", first) == seconds.sub("", second)


def test_a_study_compares_by_the_measure_of_its_task(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_here(monkeypatch)
    assert run(f"compare {PRICE} --methods single maxl --seeds 0 1 --out study") == 0
    out, err = capsys.readouterr()
    assert err.startswith("maxl: note: column 'price' holds 80 different numbers")
    for words in ("test R²", "test RMSE", "test MAE", "against single"):
        assert words in out
    assert "points" not in out
    assert "accuracy" not in out
    results = pd.read_csv(here / "study" / "results.csv")
    assert set(results["task"]) == {"regression"}
    assert results[["test_r2", "test_rmse", "test_mae"]].notna().all(axis=None)
    comparisons = pd.read_csv(here / "study" / "comparisons.csv")
    by_seed = results.pivot(index="seed", columns="method", values="test_r2")
    assert comparisons["difference"].iloc[0] == pytest.approx((by_seed["maxl"] - by_seed["single"]).mean())
    page = (here / "study" / "report.html").read_text()
    assert "Test R² over epochs" in page
    assert "Test accuracy" not in page


def test_targets_may_vary_in_a_grid(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_here(monkeypatch)
    line = f"compare --data colours.csv --primary red {SMALL} --methods single --seeds 0 --out study"
    assert run(f"{line} --grid task=classification,multi-label,regression") == 0
    results = pd.read_csv(here / "study" / "results.csv").set_index("task")
    assert set(results.index) == {"classification", "multi-label", "regression"}
    assert results.loc["classification", "test_accuracy"] > 0
    assert results.loc["multi-label", "test_map"] > 0
    assert results.loc["regression", "test_rmse"] > 0
    out = capsys.readouterr().out
    assert all(f"task {task}" in out for task in results.index)
    assert (here / "study" / "report.html").exists()
