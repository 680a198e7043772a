"""Several labels, and labels that are partly wrong, where samples are images beside columns, or texts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from _mixed_helpers import config, table, write
from _run_helpers import one_thread as one_thread
from _run_helpers import tiny
from maxl.experiments.cli import main
from maxl.experiments.runs.inference import Labels, predict
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.trainer import train

NOISY = ("corrected", "reweighted", "fine-tuned")


@pytest.mark.parametrize("method", ["uniform", "maxl"])
def test_several_labels_of_images_beside_columns(tmp_path: Path, method: str) -> None:
    labels = {"dark": [int(i < 20) for i in range(40)], "red": [int(i % 3 == 0) for i in range(40)]}
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        write(tmp_path / "data", table(40, **labels).drop(columns="kind"), name=f"{part}.csv")
    settings = config(str(tmp_path / "data"), primary=["dark", "red"], method=method, epochs=6, psi=[2, 2])
    summary = train(settings, tmp_path / "run")
    assert summary["task"] == "multi-label"
    assert summary["primary_names"] == ["dark", "red"]
    own = judge(tmp_path / "run", tmp_path / "data" / "test.csv").metrics
    assert own["map"] == pytest.approx(summary["test_map"]) == judge(tmp_path / "run").metrics["map"]
    found = predict(tmp_path / "run", tmp_path / "data" / "test.csv")
    assert len(found) == 40
    assert all(isinstance(one, Labels) and len(one.probabilities) == 2 for one in found)


@pytest.mark.parametrize("method", NOISY)
def test_wrong_labels_of_images_beside_columns(tmp_path: Path, method: str) -> None:
    frame = table(80, checked=["yes" if i % 4 == 0 else "no" for i in range(80)])
    frame.loc[::5, "kind"] = "no"
    file = write(tmp_path, frame)
    summary = train(config(file, trusted="checked", method=method), tmp_path / "run")
    assert summary["test_accuracy"] == judge(tmp_path / "run").metrics["accuracy"]
    if method != "fine-tuned":
        assert_doubts_are_written(tmp_path, file, 80)


@pytest.mark.parametrize("method", NOISY)
def test_wrong_labels_of_texts(tmp_path: Path, method: str) -> None:
    words = {"cold": ("ice", "snow", "frost"), "warm": ("sun", "fire", "oven")}
    rows = [(f"{words[name][i % 3]} number {i}", name, i % 4 < 2) for i in range(40) for name in words]
    frame = pd.DataFrame(rows, columns=["text", "label", "checked"])
    frame.loc[(frame.index % 7 == 0) & ~frame.checked, "label"] = "warm"
    file = str(tmp_path / "texts.csv")
    frame.to_csv(file, index=False)
    settings = tiny(data=file, train_size=None, trusted="checked", method=method)
    summary = train(settings, tmp_path / "run")
    assert summary["test_accuracy"] == judge(tmp_path / "run").metrics["accuracy"]
    if method != "fine-tuned":
        assert_doubts_are_written(tmp_path, file, 80)


def assert_doubts_are_written(folder: Path, file: str, count: int) -> None:
    """A row a sample, with its given class, in the order of the file."""
    main(["labels", str(folder / "run"), file, "--out", str(folder / "labels.csv")])
    written = pd.read_csv(folder / "labels.csv")
    given = pd.read_csv(file)
    column = next(name for name in ("kind", "label") if name in given)
    assert len(written) == count
    assert written["class"].tolist() == given[column].tolist()
