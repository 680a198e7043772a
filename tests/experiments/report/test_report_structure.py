"""What features keep of a column that training was not asked for: the probe's figure, and features in its colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from _report_helpers import write_run
from maxl.experiments.report.page import page, sections
from maxl.experiments.report.parts import Figure, Row
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.structure import kept_fact
from maxl.experiments.runs.snapshot import read_snapshot

PROBED = {
    "single": [0.70, 0.72, 0.71, 0.70],
    "uniform": [0.60, 0.63, 0.61, 0.60],
    "kmeans": [0.71, 0.71, 0.72, 0.70],
    "human": [0.95, 0.96, 0.95, 0.94],
}


def study(folder: Path, probed: Mapping[str, Sequence[float]], *, inputs: float | None = 0.8) -> Path:
    """Runs whose features were probed for 'digit', four shots."""
    for method, values in probed.items():
        for seed, value in enumerate(values):
            write_run(
                folder / f"{method}{seed}",
                method=method,
                seed=seed,
                psi=None if method == "single" else 3,
                probe="digit",
                probe_shots=4,
                test_probe=value,
                test_probe_inputs=inputs,
                label_nmi=0.5 if method == "kmeans" else None,
                label_purity=None,
                snapshot=False,
            )
    return folder


def shown(folder: Path) -> Figure:
    """The figure of the section on structure."""
    (section,) = (s for s in sections(load_study(folder)) if s.title == "Structure")
    (figure,) = section.parts
    assert isinstance(figure, Figure)
    return figure


def test_who_keeps_more_and_who_less_than_single_task_training(tmp_path: Path) -> None:
    figure = shown(study(tmp_path, PROBED))
    assert figure.title == "What the features keep of digit: digits, ψ = 3"
    assert "which sees 4 training samples of each of its classes" in figure.description
    assert (
        "More than single-task training keeps: human (+24.2 points). Less than single-task training keeps: uniform"
        in figure.description
    )
    assert (
        "More than the raw inputs keep: human (+15.0 points). Less than the raw inputs keep: single"
        in figure.description
    )
    assert "Not shown to differ from the raw inputs" not in figure.description
    assert "Differences have 95 % simultaneous intervals over 3 to 4 comparisons." in figure.description
    assert "Labels by people (human) may be that very column" in figure.description
    assert {trace.y[0]: round(trace.x[0], 2) for trace in figure.plot.data} == {
        "single": 70.75,
        "uniform": 61.0,
        "kmeans": 71.0,
        "human": 95.0,
    }
    (line,) = figure.plot.layout.shapes
    assert line.x0 == pytest.approx(80.0)
    assert figure.table is not None
    by_method = figure.table.set_index("Method")
    assert by_method.loc["human", "Against single"] == "+24.25"
    assert by_method.loc["single", "Against single"] == "–"
    assert by_method.loc["kmeans", "NMI of the labels"] == "0.50"
    low, high = by_method.loc["kmeans", "Interval"].split(" to ")
    assert low.startswith("−")
    assert high.startswith("+")


def test_where_nothing_differs_it_says_so(tmp_path: Path) -> None:
    figure = shown(study(tmp_path, {name: PROBED[name] for name in ("single", "kmeans")}, inputs=None))
    assert "None keeps more or less than single-task training, as far as so many seeds" in figure.description
    assert not figure.plot.layout.shapes
    assert "raw inputs" not in figure.description


def test_where_features_keep_no_more_than_the_inputs_the_decision_says_so(tmp_path: Path) -> None:
    study(tmp_path, {"kmeans": PROBED["kmeans"], "single": PROBED["single"]}, inputs=0.705)
    [setting] = load_study(tmp_path).settings
    [(_, fact)] = kept_fact(setting)
    assert fact.endswith(" Not shown to differ from the raw inputs: single, kmeans.")
    assert "Not shown to differ from the raw inputs: single, kmeans." in shown(tmp_path).description


@pytest.mark.parametrize(
    "probed", [{"kmeans": PROBED["kmeans"]}, {"single": [0.7], "human": [0.9]}], ids=["alone", "one seed"]
)
def test_without_a_comparison_nothing_is_said_of_one(
    tmp_path: Path, probed: Mapping[str, Sequence[float]]
) -> None:
    figure = shown(study(tmp_path, probed))
    assert "single-task training keeps" not in figure.description
    assert figure.table is not None
    assert set(figure.table["Interval"]) == {"–"}


def test_without_a_probe_the_section_is_left_out_with_its_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "a", method="single", psi=None)
    html = page(load_study(tmp_path))
    assert "What the features keep" not in html
    assert "no structure, because no run was given a column to look for (--probe)" in html


def test_features_are_coloured_by_the_column_that_was_looked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", method="single", psi=None, probe="digit")
    file = run / "snapshot.npz"
    with np.load(file) as whole:
        arrays = dict(whole)
    parity = np.arange(len(arrays["features"])) % 2
    np.savez_compressed(file, **arrays, feature_probe=parity, probe_names=np.array(["even", "odd"]))
    (section,) = (s for s in sections(load_study(tmp_path)) if s.title == "Features")
    (row,) = section.parts
    assert isinstance(row, Row)
    (figure,) = row.figures
    assert [trace.name for trace in figure.plot.data] == ["even", "odd"]
    assert "60 test samples of 4 primary classes, coloured by the 2 of 'digit'" in figure.description
    assert "of those in colour" in figure.description


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"feature_probe": np.zeros(60, np.int64)}, "do not go together"),
        (
            {"feature_probe": np.full(60, 2), "probe_names": np.array(["a", "b"])},
            "feature_probe is out of range",
        ),
        (
            {"feature_probe": np.zeros(3, np.int64), "probe_names": np.array(["a"])},
            "feature_probe differ in length",
        ),
        ({"feature_probe": np.zeros(60), "probe_names": np.array(["a"])}, "feature_probe is float64"),
    ],
)
def test_classes_that_do_not_fit_the_features_are_refused(
    arrays: dict[str, np.ndarray], said: str, tmp_path: Path
) -> None:
    file = write_run(tmp_path / "a", method="single", psi=None) / "snapshot.npz"
    with np.load(file) as whole:
        kept = dict(whole)
    np.savez_compressed(file, **kept, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        read_snapshot(file)
