"""Predictions where samples have no single class: numbers and labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _report_helpers import write_run
from _run_helpers import one_thread, tiny
from _target_helpers import LABELS, colours, prices
from maxl.experiments.report.page import sections
from maxl.experiments.report.parts import Figure, Table
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.style import looks
from maxl.experiments.report.targets import labels, numbers
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.snapshot import read_snapshot
from maxl.experiments.runs.trainer import train

__all__ = ["one_thread"]


def trained(folder: Path, table: Path, primary: Any) -> Path:
    config = dataclasses.replace(
        tiny(method="single", epochs=2),
        data=str(table),
        primary=primary,
        trunk="mlp",
        batch_size=16,
        train_size=None,
    )
    train(config, folder)
    return folder


def test_numbers_are_those_of_the_test_part_in_their_units(tmp_path: Path) -> None:
    run = trained(tmp_path / "study" / "run", prices(tmp_path), "price")
    snapshot, summary = read_snapshot(run / "snapshot.npz"), RunFolder(run).read_summary()
    truths, predicted = snapshot.target_truths, snapshot.target_predicted
    assert truths is not None
    assert predicted is not None
    assert truths.shape == predicted.shape == (16, 1)
    assert np.abs(truths - predicted).mean() == pytest.approx(summary["test_mae"], rel=1e-5)
    study = load_study(tmp_path / "study")
    (section,) = (s for s in sections(study) if s.title == "Predictions")
    (figure,) = section.parts
    assert isinstance(figure, Figure)
    assert figure.title.startswith("Predicted price")
    line, points = figure.plot.data
    assert list(points.x) == truths[:, 0].tolist()
    assert list(points.y) == predicted[:, 0].tolist()
    assert list(line.x) == list(line.y)
    assert figure.table is not None
    assert len(figure.table) == 4


def test_each_label_is_counted(tmp_path: Path) -> None:
    run = trained(tmp_path / "study" / "run", colours(tmp_path), LABELS)
    counts, summary = read_snapshot(run / "snapshot.npz").label_counts, RunFolder(run).read_summary()
    assert counts is not None
    assert counts.shape == (3, 3)
    has, given, both = counts.sum(0)
    assert summary["test_f1_micro"] == pytest.approx(2 * both / (has + given))
    (table,) = labels(load_study(tmp_path / "study").settings[0])
    assert isinstance(table, Table)
    assert table.frame["Label"].tolist() == list(LABELS)
    assert [int(n) for n in table.frame["Test samples"]] == counts[:, 0].tolist()


def test_shares_of_nothing_are_left_empty_and_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, both in ((0, 2), (1, 4)):
        path = write_run(tmp_path / str(seed), seed=seed, primary_names=["red", "blue"]) / "snapshot.npz"
        with np.load(path) as archive:
            arrays = dict(archive)
        np.savez(path, **arrays, label_counts=np.array([[4, 8, both], [0, 0, 0]]))
    (table,) = labels(load_study(tmp_path).settings[0])
    assert isinstance(table, Table)
    first, second = table.frame.to_dict("records")
    assert first["maxl, precision (%)"] == "37.5"
    assert first["maxl, recall (%)"] == "75.0"
    assert second["maxl, F1 (%)"] == "–"


def test_other_tasks_have_neither(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (setting,) = load_study(tmp_path).settings
    assert numbers(setting, looks(list(setting.methods))) == labels(setting) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"target_truths": np.zeros((2, 1))}, "do not go together"),
        ({"target_truths": np.zeros((2, 1)), "target_predicted": np.full((2, 1), np.nan)}, "finite"),
        ({"target_truths": np.zeros((2, 1)), "target_predicted": np.zeros((2, 2))}, "finite"),
        ({"target_truths": np.zeros((0, 1)), "target_predicted": np.zeros((0, 1))}, "no number"),
        ({"label_counts": np.array([[1, 1, 2]])}, "label_counts"),
    ],
)
def test_what_cannot_be_is_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "snapshot.npz"
    with np.load(path) as archive:
        kept = dict(archive)
    np.savez(path, **kept, **arrays)
    with pytest.raises(ValueError, match=message):
        read_snapshot(path)
