"""Advice: what a gain is held against: the control, the inputs themselves, what is cheaper."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from _advice_helpers import Runs, config, folder, values
from _advice_helpers import pretend as pretend
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.report.advice import write_advice
from maxl.experiments.studies.advice import FINAL_SEEDS, SCREENING_SEEDS, advise
from maxl.experiments.studies.conclusion import conclude


def test_a_gain_that_the_control_shows_too_is_not_credited_to_the_labels(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(
        gains={"maxl": 0.06, "uniform": 0.03, "kmeans-shuffled": 0.08},
        test_gains={"maxl": 0.04, "uniform": 0.04},
    )
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6)
    assert (given["verdict"], given["method"], given["control"]["against"]) == ("helps", "maxl", "uniform")
    assert "not shown to beat uniform" in " ".join(given["sentences"])
    assert given["cost"] == 4.0
    assert (given["recommended"], given["control"]["cost"]) == ("uniform", 1.0)
    assert given["control"]["gain_interval"][0] > 0
    assert given["sentences"][2].startswith("uniform beats tuned single-task training by +4.0 points (+3.4")
    assert given["sentences"][2].endswith("seeds, at 1.0 times its cost.")


@pytest.mark.parametrize(
    ("uniform", "wide", "recommended"),
    [
        (0.04, False, "uniform"),
        (0.06, False, "uniform"),
        (0.0, False, "maxl"),
        (0.03, False, "maxl"),
        (0.01, True, "maxl"),
    ],
    ids=["level", "better", "no gain", "beaten", "unclear"],
)
def test_the_control_is_recommended_where_it_helps_and_is_not_beaten(
    uniform: float, wide: bool, recommended: str
) -> None:
    of = {
        "single": values(0, 2),
        "maxl": values(0.04, -1),
        "uniform": {seed: v + 30 * wide * (v - 0.8 - uniform) for seed, v in values(uniform).items()},
    }
    given = conclude(final_results(of), final_plan(list(of)), "classification", 1000)
    assert (given["verdict"], given["method"], given["recommended"]) == ("helps", "maxl", recommended)
    beaten = given["control"]["interval"][0] > 0
    assert ("not shown to beat uniform" in " ".join(given["sentences"])) == (not beaten)
    of = {name: of[name] for name in ("single", "uniform")}
    assert (
        conclude(final_results(of), final_plan(["single", "uniform"]), "classification", 1000)["control"]
        is None
    )


def test_where_single_task_training_diverged_nothing_is_said_to_beat_it() -> None:
    of = {"single": values(0, 2), "maxl": values(0.001, -1), "uniform": values(0.04)}
    given = conclude(final_results(of), final_plan(list(of)), "classification", 1000)
    assert any(said.startswith("uniform beats tuned single-task") for said in given["sentences"])
    del of["single"][4]
    given = conclude(final_results(of), final_plan(list(of)), "classification", 1000)
    assert (given["verdict"], given["diverged"]) == ("cannot tell", {"single": [4]})
    assert not any(" beats " in said for said in given["sentences"])


def test_the_cost_counts_what_is_trained_for_clusters_once() -> None:
    of = {"single": values(0, 2), "kmeans": values(0.04, -1)}
    results, plan = final_results(of), final_plan(list(of))
    plan["config"]["cluster_features"] = "trunk"
    results.loc[results["method"] == "kmeans", "seconds_total"] = (
        2.9  # which holds the time of its first network
    )
    assert conclude(results, plan, "classification", 1000)["cost"] == pytest.approx(2.9)


@pytest.mark.parametrize("probe", ["breed", "coat"])
def test_labels_that_are_what_is_looked_for_are_named(probe: str) -> None:
    of = {"single": values(0, 2), "human": values(0.04, -1)}
    results, plan = final_results(of), final_plan(list(of))
    results["test_probe"] = results["test_accuracy"]
    plan |= {"aim": "structure", "config": {"human": "breed", "probe": probe}}
    said = conclude(results, plan, "classification", 1000)["sentences"]
    assert any("trains on the very column that is looked for" in s for s in said) == (probe == "breed")


def final_results(of: dict[str, dict[int, float]]) -> pd.DataFrame:
    rows = [
        {"method": m, "seed": s, "test_accuracy": v, "seconds_total": 1.0}
        for m, vs in of.items()
        for s, v in vs.items()
    ]
    return pd.DataFrame(rows)


def final_plan(methods: list[str]) -> dict[str, Any]:
    screening = {"screening": {"no_effect": False}, "learned": "run", "learning_rate": 0.01}
    return {
        "aim": "accuracy",
        "final": {"methods": methods, "seeds": list(range(5))},
        "config": {"cluster_features": "input", "human": None, "probe": None},
        **screening,
    }


@pytest.mark.parametrize(
    ("inputs", "said", "do"),
    [
        (
            0.01,
            "The probe of the raw inputs has 71.8 %: kmeans keeps more, by +2.8 points (+2.6",
            "Next: Use kmeans. ",
        ),
        (
            0.0385,
            "kmeans is not shown to keep more than the raw inputs, whose probe has 74.6 %: ",
            "Next: Use the inputs themselves: kmeans is not shown to keep more than they do.",
        ),
        (
            0.2,
            "kmeans keeps less than the raw inputs, whose probe has 90.8 %: −16.2 points (−16.4",
            "Next: Use the inputs themselves: kmeans keeps less than they do.",
        ),
    ],
)
def test_structure_is_held_against_the_inputs_themselves(
    inputs: float,
    said: str,
    do: str,
    pretend: Callable[..., Runs],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(gains={"kmeans": 0.04}, inputs=inputs)
    data, out = str(folder(tmp_path / "data")), tmp_path / "out"
    flags = ["--data", data, "--primary", "label", "--probe", "breed", "--aim", "structure", "--trunk", "mlp"]
    flags += ["--cluster-features", "input", "--epochs", "1", "--budget", "1e6", "--jobs", "1"]
    assert main(["advise", *flags, "--out", str(out)]) == 0
    told = re.sub(r"[\s│|]+", " ", capsys.readouterr().out)
    given = json.loads((out / "advice.json").read_text())
    final = pd.read_csv(out / "final" / "results.csv").query("method == 'kmeans'")
    assert (given["verdict"], given["recommended"]) == ("helps", "kmeans")
    assert given["probe_inputs"] == pytest.approx(final["test_probe_inputs"].mean())
    assert given["against_inputs"]["method"] == "kmeans"
    assert given["against_inputs"]["difference"] == pytest.approx(
        (final["test_probe"] - final["test_probe_inputs"]).mean()
    )
    assert given["sentences"][-1].startswith(said)
    assert said in told
    assert do in told
    instead = "Where features of the task are wanted anyway, use kmeans."
    assert (instead in told) == ("themselves" in do)
    page = (out / "report.html").read_text()
    assert "against the raw inputs" in page
    assert ">the raw inputs</th>" in page
    assert ("kmeans keeps less than the raw inputs." in page) == ("keeps less" in do)


def test_without_an_aim_at_structure_the_inputs_are_not_looked_at(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={"kmeans": 0.04}, inputs=0.2)
    given = advise(config(folder(tmp_path / "data"), probe="breed"), tmp_path / "out", budget=1e6)
    assert (given["probe_inputs"], given["against_inputs"]) == (None, None)


def noisy(path: Path) -> Path:
    """The table with a column of whose labels can be trusted: a third of each part."""
    for part in ("train", "test"):
        file = folder(path) / f"{part}.csv" if part == "train" else path / f"{part}.csv"
        table = pd.read_csv(file)
        table["checked"] = ["yes" if i % 3 == 0 else "no" for i in range(len(table))]
        table.drop(columns="breed").to_csv(file, index=False)
    return path


def test_wrong_labels_cheap_methods_first_and_learned_ones_against_the_best_of_them(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={"corrected": 0.08, "fine-tuned": 0.05, "gce": 0.02, "reweighted": 0.03})
    base = config(noisy(tmp_path / "data"), trusted="checked", epochs=2)
    advice = advise(base, tmp_path / "out", aim="noise", budget=900, jobs=1)
    assert (advice["verdict"], advice["method"], advice["aim"]) == ("helps", "corrected", "noise")
    assert advice["control"]["against"] == "fine-tuned"
    assert advice["control"]["interval"][0] > 0
    assert {c.method for c in runs.trained if c.seed in SCREENING_SEEDS} == {
        *("single", "small-loss", "gce", "agreement", "trusted-only", "fine-tuned", "corrected", "reweighted")
    }
    assert {c.method for c in runs.trained if c.seed in FINAL_SEEDS} == {"single", "corrected", "fine-tuned"}
    assert {c.validation_size for c in runs.trained} == {0.5}
    text = write_advice(tmp_path / "out").read_text()
    assert "Does anything help against wrong labels on data?" in text
    assert "second head" not in text


def test_a_learned_method_that_only_equals_a_cheap_one_is_said_to(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={"corrected": 0.0502, "fine-tuned": 0.05}, noise=0.01)
    base = config(noisy(tmp_path / "data"), trusted="checked", epochs=2)
    advice = advise(base, tmp_path / "out", aim="noise", budget=900, jobs=1)
    assert advice["verdict"] == "helps"
    if advice["method"] == "corrected":
        assert "It is not shown to beat fine-tuned, which costs a fraction" in " ".join(advice["sentences"])
    else:
        assert (advice["method"], advice["control"]) == ("fine-tuned", None)


def test_no_effect_of_wrong_labels_leaves_learned_ones_out(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={}, noise=0.0005)
    base = config(noisy(tmp_path / "data"), trusted="checked", epochs=2)
    advice = advise(base, tmp_path / "out", aim="noise", budget=900, jobs=1)
    assert advice["verdict"] == "does not help"
    assert not {"corrected", "reweighted"} & {c.method for c in runs.trained}
    assert "Methods for wrong labels show no effect here" in " ".join(advice["sentences"])
