"""`maxl labels` of runs on labels that are partly wrong: which given labels are doubted."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maxl.experiments.cli import main
from maxl.experiments.runs.doubted import doubts
from maxl.experiments.runs.files import RunWarning


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two classes, told apart by its first column, and a run of each method that doubts labels."""
    folder = tmp_path_factory.mktemp("doubted")
    numbers = np.random.default_rng(0).normal(size=(120, 2))
    label = np.where(numbers[:, 0] > 0, "right", "left")
    wrong = (numbers[:, 1] > 0.5) & (np.arange(120) % 4 != 0)
    given = np.where(wrong, np.where(label == "left", "right", "left"), label)
    checked = np.where(np.arange(120) % 4 == 0, "yes", "no")
    frame = pd.DataFrame({"a": numbers[:, 0], "b": numbers[:, 1], "label": given, "checked": checked})
    frame.to_csv(folder / "table.csv", index=False)
    for method in ("corrected", "reweighted", "fine-tuned"):
        flags = ["--data", str(folder / "table.csv"), "--primary", "label", "--trusted", "checked"]
        flags += ["--trunk", "mlp", "--epochs", "3", "--batch-size", "20", "--no-tensorboard", "--quiet"]
        assert main(["train", *flags, "--method", method, "--out", str(folder / method)]) == 0
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_corrections_of_every_sample(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", str(place / "corrected"), str(place / "table.csv"), "--proba"]) == 0
    found = rows(capsys.readouterr().out)
    given = pd.read_csv(place / "table.csv")["label"].tolist()
    assert [row["row"] for row in found] == [str(i) for i in range(120)]
    assert [row["class"] for row in found] == given
    with pytest.warns(RunWarning, match="was trained for 1 epochs after it had been taught"):
        labels = doubts(place / "corrected", place / "table.csv")
    assert labels.weights is None
    assert labels.corrected is not None
    for row, label in zip(found, labels.corrected, strict=True):
        each = {name: float(row[f"probability {name}"]) for name in ("left", "right")}
        assert row["corrected"] == max(each, key=lambda name: each[name])
        assert float(row["probability"]) == max(each.values())
        assert float(row["probability of class"]) == each[row["class"]]
        assert each["left"] == pytest.approx(float(label[0]), abs=1e-5)


def test_weights_of_every_sample(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "out" / "weights.csv"
    assert main(["labels", str(place / "reweighted"), str(place / "table.csv"), "--out", str(out)]) == 0
    assert "120 samples, of which" in capsys.readouterr().out
    found = rows(out.read_text())
    assert list(found[0]) == ["row", "class", "weight"]
    weights = [float(row["weight"]) for row in found]
    assert min(weights) > 0
    assert sum(weights) / 120 == pytest.approx(1, abs=1e-4)


def test_what_there_is_not_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(place / "table.csv")
    gallery = place / "gallery.html"
    assert main(["labels", str(place / "corrected"), table, "--gallery", str(gallery)]) == 2
    assert "has none of: leave it out" in capsys.readouterr().err
    assert not gallery.exists()
    assert main(["labels", str(place / "fine-tuned"), table]) == 2
    assert "is of method fine-tuned, which has none: it trains without a generator" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"need a run of method reweighted or corrected; .* fine-tuned"):
        doubts(place / "fine-tuned", table)


def test_a_checkpoint_that_was_changed_is_refused(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "corrected", tmp_path / "run")
    state = tmp_path / "run" / "checkpoint" / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt"):
        doubts(tmp_path / "run", place / "table.csv")
