"""Runs on tables as they are: predictions, judgement and what is stored of them."""

from __future__ import annotations

import json
import math
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from _column_helpers import rows, write
from maxl.experiments import load as load_run
from maxl.experiments.cli import main
from maxl.experiments.data import Columns
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.inference import Numbers, predict
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import train


def config(file: str, **changes: Any) -> RunConfig:
    values = {"data": file, "psi": [2], "epochs": 3, "batch_size": 25, "tensorboard": False, "device": "cpu"}
    return RunConfig.from_dict({**values, **changes})


@pytest.mark.parametrize("method", ["maxl", "kmeans"])
def test_predictions_are_those_of_the_run_on_the_same_rows(tmp_path: Path, method: str) -> None:
    table = rows()
    for part in ("train", "test"):
        write(tmp_path / f"{part}.csv", table)
    summary = train(config(str(tmp_path), method=method), tmp_path / "run")
    assert summary["trunk"] == "resmlp"
    assert list(summary["columns"]) == ["age", "height", "town", "joined", "note", "member"]
    shuffled = [{name: row[name] for name in reversed(row) if name != "label"} for row in table]
    predicted = predict(tmp_path / "run", Path(write(tmp_path / "new.csv", shuffled)))
    right = [p.name == row["label"] for p, row in zip(predicted, table, strict=True)]
    assert sum(right) / len(right) == pytest.approx(summary["test_accuracy"])
    model = load_model(tmp_path / "run")
    with torch.no_grad():
        logits = model(load_data(config(str(tmp_path))).test.x)
    assert [p.name for p in predicted] == [model.primary_names[c] for c in logits.argmax(1)]


def test_numbers_are_predicted_from_such_columns_and_new_categories_are_named(tmp_path: Path) -> None:
    table = rows()
    file = write(
        tmp_path / "t.csv", table, price=[float(row["height"]) * 100 + 0.5 * i for i, row in enumerate(table)]
    )
    train(config(file, primary="price", method="uniform", drop=["label"]), tmp_path / "run")
    new = write(tmp_path / "new.csv", table[:4], town=["Ulm", "Atlantis", "Oz", "Ulm"])
    with pytest.warns(UserWarning, match=r"column 'town' holds a category .* in 2 of 4 rows: 'Atlantis'"):
        predicted = predict(tmp_path / "run", Path(new))
    assert all(isinstance(p, Numbers) and math.isfinite(p.values["price"]) for p in predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(tmp_path / "run", Path(file))


def test_dates_with_a_zone_are_not_taken_for_dates_without(tmp_path: Path) -> None:
    table = rows()
    naive = [f"2024-06-{1 + i % 28:02d} 10:30:00" for i in range(60)]
    train(config(write(tmp_path / "t.csv", table, joined=naive), method="single"), tmp_path / "run")
    new = Path(write(tmp_path / "new.csv", table, joined=[f"{stamp}+02:00" for stamp in naive]))
    for ask in (lambda: predict(tmp_path / "run", new), lambda: judge(tmp_path / "run", new, device="cpu")):
        with pytest.raises(ValueError, match=r"'joined' of '.*new.csv' has a zone and had none in training"):
            ask()


def test_a_file_of_features_that_holds_code_is_not_loaded(tmp_path: Path) -> None:
    from skops import io as skops_io

    file = tmp_path / "columns.skops"
    file.write_bytes(skops_io.dumps({"kinds": {"a": "number"}, "transformer": subprocess.Popen}))
    with pytest.raises(ValueError, match="does not say how features are made of columns"):
        Columns.read(file)
    for content in (b"", b"PK", b"\x80\x04N."):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="does not say how features are made of columns"):
            Columns.read(file)
    file.write_bytes(skops_io.dumps({"kinds": {"a": "number"}, "transformer": {}}))
    with pytest.raises(ValueError, match="does not say how features are made of columns"):
        Columns.read(file)


def test_a_damaged_file_of_features_is_refused_by_its_checksum(tmp_path: Path) -> None:
    train(config(write(tmp_path / "t.csv", rows()), method="single"), tmp_path / "run")
    stored = tmp_path / "run" / "columns.skops"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    with pytest.raises(ValueError, match="does not have its checksum"):
        predict(tmp_path / "run", tmp_path / "t.csv")
    stored.unlink()
    with pytest.raises(ValueError, match="how the run makes features of columns: train the run again"):
        predict(tmp_path / "run", tmp_path / "t.csv")


def test_the_command_line_from_a_table_to_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write(tmp_path / "t.csv", rows()), str(tmp_path / "run")
    settings = ["--epochs", "2", "--batch-size", "20", "--device", "cpu", "--no-tensorboard"]
    columns = ["--drop", "note", "--types", "age=category"]
    assert main(["train", "--data", file, "--method", "uniform", "--out", out, *columns, *settings]) == 0
    said = capsys.readouterr().err
    assert "category: age (9 missing), town (12 missing)" in said
    assert "--trunk resmlp" in said
    new = write(tmp_path / "new.csv", rows(3), town=["Oz", "Ulm", "Ulm"])
    assert main(["predict", out, new, "--out", str(tmp_path / "p.csv")]) == 0
    assert "column 'town' holds a category that training has not seen" in capsys.readouterr().err
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 4
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["columns"]["age"] == "category"
    for arguments, message in (
        (("--types", "age"), "--types needs COLUMN=KIND"),
        (("--drop", "agee"), "did you mean 'age'"),
    ):
        assert main(["train", "--data", file, "--out", str(tmp_path / "no"), *arguments]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert message in error
        assert not (tmp_path / "no").exists()


def test_a_run_on_columns_is_judged_and_published_as_others_are(tmp_path: Path) -> None:
    table = rows()
    for part in ("train", "test"):
        write(tmp_path / f"{part}.csv", table)
    summary = train(config(str(tmp_path), method="maxl"), tmp_path / "run")
    judged = judge(tmp_path / "run", tmp_path / "test.csv")
    assert judged.metrics["accuracy"] == pytest.approx(summary["test_accuracy"])
    load_run(tmp_path / "run").save_pretrained(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert "columns.skops" in names
    assert "tabular-classification" in (tmp_path / "saved" / "README.md").read_text()
    again = predict(tmp_path / "saved", tmp_path / "test.csv")
    assert again == predict(tmp_path / "run", tmp_path / "test.csv")


@pytest.mark.parametrize(
    ("codes", "odd"), [(["01", "1", "02", "2"], "x"), (["01234", "04567", "71234"], "A1"), (["1", "2"], "3")]
)
def test_categories_are_read_as_in_training_whatever_a_new_file_looks_like(
    codes: list[str], odd: str, tmp_path: Path
) -> None:
    """A file without the one word among them would be read as numbers, which have no zero in front."""
    every = [*codes, odd]
    table = [
        {"code": code, "size": i % 7, "label": "even" if every.index(code) % 2 == 0 else "odd"}
        for i, code in enumerate(every * 30)
    ]
    file = write(tmp_path / "t.csv", table)
    settings = config(file, method="single", types=["code=category"], epochs=60, primary="label")
    train(settings, tmp_path / "run")
    few = [row for row in table if row["code"] != odd][:20]
    new = Path(write(tmp_path / "new.csv", few))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that a category has not been seen
        predicted = predict(tmp_path / "run", new)
    assert [p.name for p in predicted] == [row["label"] for row in few]
    assert judge(tmp_path / "run", new).metrics["accuracy"] == 1.0
