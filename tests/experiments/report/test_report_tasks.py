"""Reports of regressions and of several labels: their measures, axes and words."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from _report_helpers import write_study
from maxl.experiments.report import write_markdown, write_report
from maxl.experiments.report.classes import confusion_figure
from maxl.experiments.report.draw import heat_maps
from maxl.experiments.report.page import sections
from maxl.experiments.report.parts import Figure, Note, Points, Table
from maxl.experiments.report.runs import load_study

MEASURED = {
    "regression": ("r2", "R²", {"rmse": 120.5, "mae": 80.25}),
    "multi-label": ("map", "mAP", {"f1": 0.5}),
}


def retold(folder: Path, task: str) -> Path:
    """A study in which the accuracies are the main measure of another task."""
    name, _, others = MEASURED[task]
    for run in folder.iterdir():
        for file in (run / "metrics.jsonl", run / "summary.json"):
            text = file.read_text().replace('"test_accuracy"', f'"test_{name}"')
            if file.name == "summary.json":
                summary = json.loads(text) | {f"test_{n}": v for n, v in others.items()}
                text = json.dumps(summary | {"task": task})
            file.write_text(text)
    return folder


@pytest.mark.parametrize("task", MEASURED)
def test_a_report_speaks_of_the_measure_of_its_task(task: str, tmp_path: Path) -> None:
    _, title, _ = MEASURED[task]
    study = load_study(
        retold(write_study(tmp_path, methods=("single", "uniform", "maxl"), psis=(2, 3)), task)
    )
    parts = [part for section in sections(study) for part in section.parts]
    figures = {part.title: part for part in parts if isinstance(part, Figure)}
    curve = next(figure for name, figure in figures.items() if name.startswith(f"Test {title} over epochs"))
    assert curve.plot.layout.yaxis.title.text == f"Test {title}"
    assert max(max(trace.y) for trace in curve.plot.data if trace.y is not None) <= 1
    by_psi = next(figure for name, figure in figures.items() if "against the number of auxiliary" in name)
    assert by_psi.title.startswith(title)
    assert by_psi.plot.layout.yaxis.title.text == f"Test {title}"
    tables = {part.caption: part.frame for part in parts if isinstance(part, Table)}
    results = next(frame for name, frame in tables.items() if name.startswith(f"Test {title} after"))
    assert float(results["Mean"].iloc[0]) < 1
    assert any(name.startswith(f"Differences in {title}, paired by seed") for name in tables)
    sentences = [item for part in parts if isinstance(part, Points) for item in part.items]
    said = " ".join(sentences)
    assert f"Highest mean test {title}: maxl with 0.8" in said
    assert f"{title} (p" in said
    assert "points" not in said
    assert "ccurac" not in said
    notes = [part.text for part in parts if isinstance(part, Note)]
    assert not any("accuracy" in note for note in notes)


def test_further_measures_stand_in_the_table(tmp_path: Path) -> None:
    study = load_study(retold(write_study(tmp_path, methods=("single", "maxl"), bare=True), "regression"))
    parts = [part for section in sections(study) for part in section.parts]
    frame = next(p.frame for p in parts if isinstance(p, Table) and p.caption.startswith("Test R² after"))
    assert frame["Mean RMSE"].tolist() == ["120.5000", "120.5000"]
    assert frame["Mean MAE"].tolist() == ["80.2500", "80.2500"]


def test_both_kinds_of_report_are_written(tmp_path: Path) -> None:
    folder = retold(write_study(tmp_path, methods=("single", "maxl"), bare=True), "multi-label")
    assert "mAP" in write_report(folder).read_text()
    assert "mAP" in write_markdown(folder).read_text()


def test_names_of_classes_are_text_in_figures() -> None:
    names = ["<b>bold</b>", 'say "hi"', "salt & pepper"]
    figure = confusion_figure("taken for", names, [[2, 0, 0], [0, 2, 0], [0, 0, 2]])
    assert list(figure.plot.data[0].x) == ["&lt;b&gt;bold&lt;/b&gt;", 'say "hi"', "salt &amp; pepper"]
    table = pd.DataFrame([[0.5], [0.2], [0.3]], index=names, columns=[1])
    plot = heat_maps({"maxl": table}, colours="Cividis", low=0.0, high=1.0, title="share")
    assert list(plot.layout.yaxis.ticktext) == list(figure.plot.data[0].x)
