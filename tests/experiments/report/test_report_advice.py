"""What the report of an advice begins with: an answer, what it rests on, and a command that can be typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maxl.experiments.cli import parser
from maxl.experiments.report import write_report
from maxl.experiments.report.advised import decision, differences
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.measures import main_measure
from maxl.experiments.studies.intervals import smallest_detectable

ACCURACY = main_measure("classification")
KEPT = ("single", "kmeans", "kmeans-shuffled")
Advice = dict[str, Any]


def advice(**changes: Any) -> Advice:
    return {
        **{"verdict": "cannot tell", "aim": "accuracy", "method": "kmeans", "against": "single"},
        **{"difference": 0.004, "interval": [-0.01, 0.018], "seeds": 5, "detectable": 0.02},
        **{"spread": 0.011, "test_samples": 2000, "cost": 2.0, "minutes": 3.0, "predicted_minutes": 4.0},
        "control": {"against": "kmeans-shuffled", "difference": 0.001, "interval": [-0.02, 0.02]},
        **{"learning_rate": 0.003, "sentences": ["cannot tell.", "Learned labels were left out."]},
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished advice, as far as its report looks at it."""
    monkeypatch.chdir(tmp_path)
    out = Path("advice")
    for method in KEPT:
        run = out / "final" / "runs" / method / "seed3000"
        run.mkdir(parents=True)
        RunConfig(method=method).write(run / "config.yaml")
        (run / "model.safetensors").write_bytes(b"")
    return out


def plan(**changes: Any) -> Advice:
    config = RunConfig(data="table.csv", **changes).to_dict()
    screening = {"differences": {"kmeans": {"mean": 0.01, "low": 0.0, "high": 0.02}}, "seeds": 5}
    return {
        **{"aim": "accuracy", "config": config, "final": {"methods": list(KEPT), "seeds": [3000, 3001]}},
        **{"tuning": {"means": {"0.003": 0.9}}, "learning_rate": 0.003, "candidate": "kmeans"},
        **{"screening": screening, "learned": "left out: the budget is about 3 minutes short of them"},
    }


def test_a_method_that_helps_is_to_be_used(folder: Path) -> None:
    helps = {"verdict": "helps", "difference": 0.02, "interval": [0.01, 0.03]}
    box = decision(folder, advice(**helps), plan(), ACCURACY)
    assert box.answer == "yes"
    assert box.headline == (
        "Yes: kmeans is better than tuned single-task training by 2 points. It is not shown to beat kmeans-shuffled."
    )
    assert box.advice == "Use kmeans. To train it on all samples, those kept for validation too:"
    assert box.command == (
        "maxl train --config advice/final/runs/kmeans/seed3000/config.yaml --validation-size 0 --out advice-model"
    )
    judged = decision(folder, advice(**helps), plan(keep="best", validation_size=0.2), ACCURACY)
    assert judged.advice == (
        "Use kmeans. Its model of the first seed, 3000, not chosen by its score, trained without the samples kept for "
        "validation:"
    )
    assert judged.command == (
        "maxl export advice/final/runs/kmeans/seed3000 --format safetensors --out model.safetensors"
    )
    control = {"against": "kmeans-shuffled", "difference": 0.02, "interval": [0.01, 0.03]}
    for beaten in (control, None):
        box = decision(folder, advice(**helps, control=beaten), plan(), ACCURACY)
        assert box.headline == "Yes: kmeans is better than tuned single-task training by 2 points."
    facts = dict(decision(folder, advice(**helps, control=control), plan(), ACCURACY).facts)
    assert facts["Against what"].endswith("against kmeans-shuffled: +2.0 points (+1.0 to +3.0)")
    assert facts["Besides"] == "Learned labels were left out."


def test_where_nothing_helps_single_task_training_is_kept(folder: Path) -> None:
    box = decision(folder, advice(verdict="does not help"), plan(), ACCURACY)
    assert (box.answer, box.headline) == ("no", "No: kmeans, the best candidate, gains less than 1 point.")
    gains = "Keep single, at a learning rate of 0.003: kmeans, the best candidate that was run, gains less than 1 point."
    assert box.advice.startswith(f"{gains} Learned labels were not run. To train it")
    assert "runs/single/seed3000" in str(box.command)
    box = decision(folder, advice(verdict="does not help"), {**plan(), "learned": "run"}, ACCURACY)
    assert box.advice.startswith(f"{gains} To train it")


def test_a_control_that_is_not_beaten_and_helps_is_to_be_used(folder: Path) -> None:
    control = {"against": "kmeans-shuffled", "difference": -0.002, "interval": [-0.01, 0.005], "cost": 1.3}
    control |= {"gain": 0.038, "gain_interval": [0.03, 0.045]}
    given = advice(
        verdict="helps",
        difference=0.036,
        interval=[0.03, 0.04],
        control=control,
        recommended="kmeans-shuffled",
    )
    box = decision(folder, given, plan(), ACCURACY)
    assert box.headline.endswith(
        "by 3.6 points. It is not shown to beat kmeans-shuffled, which is better by 3.8 points."
    )
    assert box.advice.startswith("Use kmeans-shuffled: kmeans is not shown to beat it. To train it")
    assert "final/runs/kmeans-shuffled/seed3000" in str(box.command)
    assert dict(box.facts)["At what cost"].startswith("kmeans 2.0, kmeans-shuffled 1.3 times single-task")


INPUTS = {"method": "single", "difference": -0.01, "interval": [-0.03, 0.01]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"verdict": "does not help"},
            "Where features of the task are wanted anyway, keep single, at a learning",
        ),
        ({"test_samples": 60}, "Where features of the task are wanted anyway, keep single, at a learning"),
        ({}, "Repeat it with 15 new seeds"),
    ],
)
def test_where_single_task_training_keeps_no_more_than_the_inputs_it_says_so(
    changes: Advice, told: str, folder: Path
) -> None:
    shown = advice(**changes, against_inputs=INPUTS, probe_inputs=0.6)
    box = decision(folder, shown, plan(), ACCURACY)
    first = "Use the inputs themselves: single is not shown to keep more than they do. "
    assert box.advice.startswith(first + told)
    better = {**INPUTS, "difference": 0.02, "interval": [0.01, 0.03]}
    box = decision(folder, {**shown, "against_inputs": better}, plan(), ACCURACY)
    assert "inputs" not in box.advice


def test_where_it_cannot_be_told_more_seeds_can_be_had_where_they_help(folder: Path) -> None:
    box = decision(folder, advice(), plan(), ACCURACY)
    assert (box.answer, box.headline) == (
        "cannot tell",
        "Cannot tell whether kmeans, the best candidate, helps.",
    )
    assert box.advice.startswith("Repeat it with 15 new seeds; so many show 1 point")
    assert smallest_detectable(0.011, 15, 2) <= 0.01 < smallest_detectable(0.011, 14, 2)
    words = shlex.split(str(box.command))
    typed = parser().parse_args(words[1:])
    assert words[0] == "maxl"
    assert typed.methods == list(KEPT)
    assert typed.seeds == list(range(3002, 3017))
    assert str(typed.out) == "advice-again"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test_samples": 60}, "More seeds would not help: a larger test part would."),
        (
            {"difference": 0.002, "interval": [0.0005, 0.004]},
            "More seeds would not help: a larger test part would.",
        ),
        ({"spread": 0.2}, "To find 1 point would take more than 100 seeds"),
        ({"spread": None}, "How far seeds scatter is not known"),
        ({"spread": 0.0}, "How far seeds scatter is not known"),
    ],
)
def test_where_more_seeds_do_not_help_none_are_asked_for(changes: Advice, why: str, folder: Path) -> None:
    box = decision(folder, advice(**changes), plan(), ACCURACY)
    assert why in box.advice
    assert "runs/single/seed3000" in str(box.command)


@pytest.mark.parametrize("difference", [0.0, 0.001, 0.0024, 0.0026, 0.009])
def test_where_the_interval_is_open_the_mean_alone_says_nothing(difference: float, folder: Path) -> None:
    box = decision(folder, advice(difference=difference), plan(), ACCURACY)
    assert box.advice.startswith("Repeat it with 15 new seeds")


def test_code_that_a_config_names_needs_trust_in_the_next_command_too(folder: Path) -> None:
    for told in (advice(), advice(verdict="does not help")):
        box = decision(folder, told, plan(trunk="own:make"), ACCURACY)
        assert str(box.command).endswith(" --trust")


def test_no_command_names_a_file_that_is_gone(folder: Path) -> None:
    def without(name: str, told: Advice, **changes: Any) -> str | None:
        for file in folder.rglob(name):
            file.unlink()
        return decision(folder, told, plan(**changes), ACCURACY).command

    assert without("model.safetensors", advice(verdict="helps"), keep="best", validation_size=0.2) is None
    assert without("config.yaml", advice()) is None
    assert without("config.yaml", advice(verdict="helps")) is None


def test_the_picture_has_the_intervals_of_the_verdict(folder: Path) -> None:
    figure = differences(advice(), ACCURACY)
    assert figure.table is not None
    assert figure.table.to_dict("records") == [
        {"Method": "kmeans", "Against": "single", "Difference": "+0.40", "Low": "−1.00", "High": "+1.80"},
        {
            **{"Method": "kmeans", "Against": "kmeans-shuffled"},
            **{"Difference": "+0.10", "Low": "−2.00", "High": "+2.00"},
        },
    ]
    beside = differences(advice(against_inputs=INPUTS), ACCURACY)
    assert beside.table is not None
    assert beside.table.to_dict("records")[2] == {
        **{"Method": "single", "Against": "the raw inputs"},
        **{"Difference": "−1.00", "Low": "−3.00", "High": "+1.00"},
    }
    unknown = differences(advice(interval=[None, None], control=None), ACCURACY)
    assert unknown.table is not None
    assert list(unknown.table["Low"]) == ["–"]


@pytest.fixture
def finished(folder: Path) -> Callable[[Advice], str]:
    """Writes what an advice leaves, and its report."""

    def write(told: Advice) -> str:
        rows = [
            {"method": m, "seed": s, "test_accuracy": 0.9 + s / 1e5, "task": "classification", "trunk": "mlp"}
            for m in KEPT
            for s in (3000, 3001)
        ]
        pd.DataFrame(rows).to_csv(folder / "final" / "results.csv", index=False)
        (folder / "advice.json").write_text(json.dumps(told))
        (folder / "plan.json").write_text(json.dumps(plan()))
        return write_report(folder).read_text()

    return write


def test_the_report_of_the_folder_is_that_of_the_advice(finished: Callable[[Advice], str]) -> None:
    text = finished(advice())
    assert "Do finer labels help on table.csv?" in text
    assert text.index('data-answer="cannot tell"') < text.index("The candidate on fresh seeds")
    assert "trunk mlp · 5 fresh seeds · aim: accuracy" in text
    control = {**advice()["control"], "gain": 0.012, "gain_interval": [0.003, 0.021]}
    text = finished(advice(control=control, probe_inputs=0.6, against_inputs=INPUTS))
    assert "+1.20 (+0.30 to +2.10) points" in text
    assert ">the raw inputs</th>" in text
    assert ">60.00</td>" in text


def test_where_runs_collapsed_a_lower_rate_is_advised_and_no_model_of_them(folder: Path) -> None:
    tuned = plan() | {"tuning": {"means": {"0.0003": 0.7, "0.001": 0.8, "0.003": 0.9, "0.009": 0.1}}}
    lost = advice(collapsed={"single": {"3000": 0.1}})
    run = folder / "final" / "runs" / "single" / "seed3001"
    run.mkdir()
    RunConfig().write(run / "config.yaml")
    box = decision(folder, lost, tuned, ACCURACY)
    assert box.advice.startswith(
        "Keep single, at a learning rate of 0.003. More seeds would not help where training collapses. Runs of it collapsed: a "
        "lower rate is safer, 0.001 is the next that was tried. To train"
    )
    assert box.command == (
        "maxl train --config advice/final/runs/single/seed3001/config.yaml --validation-size 0 --learning-rate 0.001 "
        "--out advice-model"
    )
    control = decision(folder, advice(collapsed={"kmeans-shuffled": {"3000": 0.1}}), tuned, ACCURACY)
    assert control.advice == decision(folder, advice(), tuned, ACCURACY).advice
    other = decision(folder, advice(collapsed={"kmeans": {"3000": 0.1}}), tuned, ACCURACY)
    assert "single/seed3000" in str(other.command)
    assert "--learning-rate" not in str(other.command)
