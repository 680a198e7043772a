"""Runs that collapsed decide nothing, and are told of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from _advice_helpers import Runs, config, folder
from _advice_helpers import pretend as pretend
from maxl.experiments.report.advice import write_advice
from maxl.experiments.runs.measures import ACCURACY, main_measure
from maxl.experiments.studies.advice import FINAL_SEEDS, SCREENING_SEEDS, advise
from maxl.experiments.studies.collapses import collapsed, collapses_text, of_methods, standing
from maxl.experiments.studies.conclusion import conclude
from maxl.experiments.studies.decisions import screen

R2 = main_measure("regression")


def runs(mean: float, count: int = 10, scatter: float = 0.005, seed: int = 0) -> dict[int, float]:
    random = np.random.default_rng(seed)
    return {s: mean + scatter * float(random.standard_normal()) for s in range(count)}


def test_a_run_far_below_the_others_is_found_and_no_ordinary_one() -> None:
    values = runs(0.78) | {4: -0.005, 7: 0.2}
    assert collapsed(values) == {4: -0.005, 7: 0.2}
    assert collapsed({s: v for s, v in values.items() if s < 2}) == {}  # which of two is not known
    assert collapsed({1: 0.7, 2: 0.71, 3: 0.1}) == {3: 0.1}
    assert collapsed(dict.fromkeys(range(10), 0.05)) == {}
    luck = {1: 0.83, 2: 0.83, 3: 0.5}  # of six samples, two
    assert collapsed(luck) == {3: 0.5}
    assert [bool(collapsed(luck, samples)) for samples in (6, 30, 31, 1000)] == [False, False, True, True]
    half = {s: (0.8 if s % 2 else 0.1) + s / 1000 for s in range(10)}
    assert set(collapsed(half)) == {0, 2, 4, 6, 8}


@pytest.mark.parametrize("count", [3, 5, 10, 20])
def test_normal_scatter_is_no_collapse(count: int) -> None:
    """Of methods that scatter by a fifth of a point to four points fewer than one in a hundred."""
    for scatter in (0.002, 0.02, 0.04):
        found = sum(bool(collapsed(runs(0.8, count, scatter, seed))) for seed in range(1000))
        assert found < 10


def test_screening_goes_by_the_runs_that_stand() -> None:
    single, helped = runs(0.78), {s: v + 0.02 for s, v in runs(0.78).items()}
    worse = {s: v - 0.02 for s, v in runs(0.78, seed=1).items()}
    broken = {"single": single | {4: 0.0}, "uniform": worse, "kmeans": helped | {3: 0.0}}
    found = screen(standing(broken, of_methods(broken)))
    assert found.candidate == "kmeans"
    assert found.differences["kmeans"].mean == pytest.approx(0.02)
    assert found.differences["kmeans"].n == 8
    assert screen(broken).differences["uniform"].mean > 0.05  # what one run makes of it


def table(of: dict[str, dict[int, float]], measure: str = "test_r2") -> pd.DataFrame:
    return pd.DataFrame(
        {"method": m, "seed": s, measure: v, "seconds_total": 1.0}
        for m, vs in of.items()
        for s, v in vs.items()
    )


def plan(*methods: str, seeds: int = 20) -> dict[str, Any]:
    final = {"methods": list(methods), "seeds": list(range(seeds))}
    return {
        **{"aim": "accuracy", "final": final, "config": {"cluster_features": "input"}},
        **{"screening": {"no_effect": False}, "learned": "run", "learning_rate": 0.01},
    }


def test_a_gain_that_rests_on_a_run_that_collapsed_is_not_claimed() -> None:
    single = runs(0.78, 20, 0.001) | {s: 0.5 for s in range(8)}
    kmeans = runs(0.78, 20, 0.001, seed=1)
    advice = conclude(
        table({"single": single, "kmeans": kmeans}), plan("single", "kmeans"), "regression", None
    )
    assert advice["interval"][0] > 0
    assert (advice["verdict"], advice["recommended"]) == ("cannot tell", "single")
    assert advice["collapsed"] == {"single": {str(s): 0.5 for s in range(8)}}
    first, beside, lost = advice["sentences"]
    assert first.startswith("cannot tell whether kmeans helps: +0.112 R² (")
    assert first.endswith("over 20 seeds, which rests on runs that collapsed.")
    assert beside.startswith("Without the seeds whose runs collapsed it is +0.0005 R² (−0.0001 ")
    assert beside.endswith(" over 12.")
    assert lost.startswith("8 of 20 runs of single collapsed (0.5000; the others have 0.77")


def test_a_gain_with_and_without_them_is_claimed_and_they_are_told_of() -> None:
    single = runs(0.78, 20)
    kmeans = {s: v + 0.05 for s, v in single.items()} | {3: 0.2}
    wide = conclude(table({"single": single, "kmeans": kmeans}), plan("single", "kmeans"), "regression", None)
    assert wide["verdict"] == "cannot tell"  # by all runs, whatever the others say
    broken = single | {3: 0.6}
    advice = conclude(
        table({"single": broken, "kmeans": {s: v + 0.05 for s, v in single.items()}}),
        plan("single", "kmeans"),
        "regression",
        None,
    )
    assert (advice["verdict"], advice["recommended"]) == ("helps", "kmeans")
    assert advice["sentences"][0].startswith("kmeans beats tuned single-task training by +0.0")
    assert advice["sentences"][1].startswith("Without the seeds whose runs collapsed it is +0.05 R²")
    assert advice["sentences"][2].startswith("1 of 20 runs of single collapsed (0.6000; the others have 0.77")


def test_a_control_is_not_recommended_for_a_run_of_the_baseline_that_collapsed() -> None:
    single = runs(0.78, 20, 0.001)
    helped = {s: v + 0.02 for s, v in single.items()}
    broken = single | {s: 0.5 for s in range(8)}
    level = runs(0.79, 20, 0.06, seed=1)  # not shown to be below kmeans, nor above single
    of = {"single": broken, "kmeans": helped, "kmeans-shuffled": level}
    advice = conclude(table(of), plan(*of), "regression", None)
    assert (advice["verdict"], advice["recommended"]) == ("helps", "kmeans")
    assert advice["control"]["gain_interval"][0] > 0
    assert "It is not shown to beat kmeans-shuffled" in " ".join(advice["sentences"])


def test_of_a_control_that_collapsed_it_is_told_and_the_comparison_stands() -> None:
    single = runs(0.78)
    helped = {s: v + 0.02 for s, v in single.items()}
    of = {"single": single, "kmeans": helped, "kmeans-shuffled": single | {4: 0.1}}
    advice = conclude(table(of), plan(*of, seeds=10), "regression", None)
    assert (advice["verdict"], advice["collapsed"]) == ("helps", {"kmeans-shuffled": {"4": 0.1}})
    assert advice["sentences"][1].startswith("1 of 10 runs of kmeans-shuffled collapsed (0.1000; ")


def test_without_one_nothing_changes() -> None:
    of = {"single": runs(0.78), "kmeans": runs(0.8, seed=1)}
    advice = conclude(table(of), plan(*of, seeds=10), "regression", None)
    assert advice["collapsed"] == {}
    assert len(advice["sentences"]) == 1


def test_words_have_the_unit_of_the_measure() -> None:
    values = runs(0.9, scatter=0.0) | {1: 0.1}
    assert (
        collapses_text("uniform", values, {1: 0.1}, ACCURACY)
        == "1 of 10 runs of uniform collapsed (10.00 %; the others have 90.00 %)"
    )
    assert collapses_text("single", values | {2: 0.5}, {1: -0.25, 2: 0.5}, R2) == (
        "2 of 10 runs of single collapsed (−0.2500 to 0.5000; the others have 0.9000)"
    )


def test_advice_tells_of_runs_that_collapsed_and_chooses_nothing_by_them(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    """The best method's one run would make it the worst, and the baseline's one run any method the best."""
    screened = {"kmeans": {SCREENING_SEEDS[0]}, "single": {SCREENING_SEEDS[1]}}
    final = {"single": {FINAL_SEEDS[0]}}
    lost = {name: screened.get(name, set()) | final.get(name, set()) for name in ("single", "kmeans")}
    pretend(gains={"kmeans": 0.03, "uniform": -0.05}, collapsed=lost)
    told: list[str] = []
    out = tmp_path / "out"
    advice = advise(config(folder(tmp_path / "data")), out, budget=1e6, tell=told.append)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["collapsed"] == {name: list(seeds) for name, seeds in screened.items()}
    assert advice["method"] == "kmeans"
    warning = f"1 of {plan['screening']['seeds']} runs of single collapsed at a learning rate of "
    assert f"{warning}{plan['learning_rate']:g}: they choose nothing" in told
    assert advice["collapsed"] == {"single": {str(FINAL_SEEDS[0]): 0.2}}
    page = write_advice(out).read_text()
    assert f"runs that collapsed are left out: kmeans {SCREENING_SEEDS[0]}; single" in page.replace(
        f"single {SCREENING_SEEDS[1]}; kmeans {SCREENING_SEEDS[0]}", f"kmeans {SCREENING_SEEDS[0]}; single"
    )
    assert "runs of single collapsed (20.00 %; the others have" in page
