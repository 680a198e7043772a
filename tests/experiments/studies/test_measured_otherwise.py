"""Comparisons by another measure than accuracy: its direction, its unit, its words."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from maxl.experiments.runs.measures import MEASURES, main_measure
from maxl.experiments.studies.statistics import compare, paired_difference, settings, verdict

R2, RMSE, MAE = MEASURES["regression"]
MAP = main_measure("multi-label")


def table(task: str, **values: dict[str, float]) -> pd.DataFrame:
    """Five seeds of single, uniform and maxl; by measure the mean of each method."""
    random = np.random.default_rng(0)
    rows = []
    for seed in range(5):
        for method in ("single", "uniform", "maxl"):
            measured = {name: mean[method] + 1e-4 * random.normal() for name, mean in values.items()}
            place = {
                "data": "t.csv",
                "task": task,
                "train_size": 64,
                "psi": None if method == "single" else 3,
            }
            rows.append({**place, "method": method, "seed": seed, **measured})
    return pd.DataFrame(rows).astype({"psi": object})


BETTER = {"single": 0.80, "uniform": 0.81, "maxl": 0.85}
WORSE = {"single": 200.0, "uniform": 190.0, "maxl": 150.0}


def said(frame: pd.DataFrame, method: str, reference: str) -> str:
    row = frame[(frame["method"] == method) & (frame["reference"] == reference)]
    return str(row["verdict"].iloc[0])


def test_regressions_are_compared_by_r2_where_more_is_better() -> None:
    frame = compare(table("regression", test_r2=BETTER, test_rmse=WORSE))
    assert re.match(r"better than single by 0\.0(5|50\d|499) R² \(p", said(frame, "maxl", "single"))
    assert re.match(r"worse than uniform by 0\.0(1|10\d*|099\d*) R² \(p", said(frame, "single", "uniform"))
    assert not frame["verdict"].str.contains("point").any()


def test_an_error_is_better_where_it_is_smaller() -> None:
    frame = compare(table("regression", test_r2=BETTER, test_rmse=WORSE), measure=RMSE)
    assert said(frame, "maxl", "single").startswith("better than single by 50 RMSE (p")
    assert said(frame, "single", "uniform").startswith("worse than uniform by 10 RMSE (p")


def test_labels_are_compared_by_map() -> None:
    frame = compare(table("multi-label", test_map=BETTER))
    assert said(frame, "maxl", "uniform").startswith("better than uniform by 0.04 mAP (p")


def test_the_best_control_is_the_one_with_the_smallest_error() -> None:
    frame = table("regression", test_rmse={"single": 200.0, "uniform": 190.0, "maxl": 150.0}, test_r2=BETTER)
    frame["method"] = frame["method"].replace(
        {"uniform": "uniform auxiliary_weight=2", "maxl": "maxl auxiliary_weight=3"}
    )
    found = compare(frame, measure=RMSE)
    best = found[found["against"] == "best control"]
    assert list(best["reference"]) == ["uniform auxiliary_weight=2"]


def test_differences_that_do_not_matter_are_level_only_where_one_knows_what_matters() -> None:
    ones = {seed: 0.9 for seed in range(6)}
    close = {seed: 0.9 + 1e-4 * (-1) ** seed for seed in range(6)}
    difference = paired_difference(close, ones)
    assert verdict(difference, "single", measure=R2).startswith("level with single: within ±")
    assert verdict(difference, "single", measure=R2).split(" (")[0].endswith("R²")
    told = verdict(difference, "single", None, RMSE)
    assert told.startswith("cannot tell whether different from single")
    assert told.endswith("RMSE or more with 80 % power")


def test_tables_of_older_versions_are_of_accuracies() -> None:
    frame = table("regression", test_accuracy=BETTER).drop(columns="task")
    assert said(compare(frame), "maxl", "single").startswith("better than single by 5 points (p")


def test_the_measure_of_the_task_is_missed_by_name() -> None:
    with pytest.raises(ValueError, match="got none named test_r2"):
        compare(table("regression", test_accuracy=BETTER))


def test_tasks_are_settings_of_their_own() -> None:
    both = pd.concat(
        [table("regression", test_r2=BETTER), table("multi-label", test_map=BETTER)], ignore_index=True
    )
    assert [setting["task"] for setting, _ in settings(both)] == ["regression", "multi-label"]
    assert set(compare(both)["task"]) == {"regression", "multi-label"}
    assert "task" not in compare(table("regression", test_r2=BETTER))
