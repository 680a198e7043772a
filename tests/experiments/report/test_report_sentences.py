"""What the report says of comparisons in words, and how variants and settings are called."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from _report_helpers import write_run, write_study
from maxl.experiments.report import write_markdown, write_report
from maxl.experiments.report.final import accuracy_by_psi
from maxl.experiments.report.page import sections
from maxl.experiments.report.parts import Table
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.style import looks
from maxl.experiments.report.summary import found, limits
from maxl.experiments.report.verdict import verdicts


def test_a_gain_that_a_control_also_shows_is_not_credited_to_the_labels(tmp_path):
    for seed in range(5):
        write_run(tmp_path / f"s{seed}", method="single", seed=seed, psi=None, final=0.7, bare=True)
        for method in ("frozen", "maxl"):
            write_run(tmp_path / f"{method}{seed}", method=method, seed=seed, final=0.75, bare=True)
    said = " ".join(found(load_study(tmp_path).settings[0]))
    assert "maxl: better than single by" in said
    assert "maxl is not shown to beat frozen, so its gain over single may come from" in said


def test_no_method_is_named_where_nothing_is_shown_to_differ(tmp_path):
    for method in ("single", "uniform", "maxl"):
        for seed in range(3):
            write_run(tmp_path / f"{method}{seed}", method=method, seed=seed, final=0.8, bare=True)
    said = found(load_study(tmp_path).settings[0])
    assert said[0].startswith("No method stands out: mean test accuracies lie between ")
    assert not any(method in said[0] for method in ("single", "uniform", "maxl"))


def test_the_highest_mean_comes_with_the_methods_that_it_is_not_shown_to_beat(tmp_path):
    for seed in range(4):
        for method, final in (("single", 0.5), ("uniform", 0.8), ("maxl", 0.801)):
            accuracy = final + 0.01 * seed + 0.002 * ((seed + len(method)) % 3)
            write_run(
                tmp_path / f"{method}{seed}", method=method, seed=seed, test_accuracy=accuracy, bare=True
            )
    said = found(load_study(tmp_path).settings[0])
    assert re.fullmatch(
        r"Highest mean test accuracy: maxl with 81\.\d %( \(.*\)); not shown to be better than uniform\.",
        said[0],
    )


def falls(folder: Path, seed: int, loss: float, **summary: Any) -> None:
    """A single-task run of forty epochs that loses so much accuracy over the second half."""
    run = write_run(
        folder / f"s{seed}", method="single", seed=seed, psi=None, epochs=40, bare=True, **summary
    )
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["test_accuracy"] = (
            0.8 - 0.02 * max(0, 20 - line["epoch"]) - loss * max(0, line["epoch"] - 20) / 20
        )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("losses", "summary", "said"),
    [
        ((0.05, 0.03), {}, True),
        ((0.05, -0.001), {}, False),  # not in every seed
        ((0.009, 0.008), {}, False),  # less than a point
        ((0.05,), {}, False),
        ((0.05, 0.03), {"kept_epoch": 20}, False),  # training did stop
    ],
)
def test_single_task_training_that_goes_on_for_too_long_is_told(
    losses: Sequence[float], summary: dict[str, Any], said: bool, tmp_path: Path
) -> None:
    for seed, loss in enumerate(losses):
        falls(tmp_path, seed, loss, **summary)
    told = [one for one in found(load_study(tmp_path).settings[0]) if "too long" in one]
    assert len(told) == said
    if said:  # of windows of four the best is 20 to 23, 0.003 below the peak, and the last 0.037
        assert told[0].startswith(
            "single ends 3.4 points below what it had around epoch 22: it trains for too long"
        )


def test_a_gain_over_training_that_goes_on_for_too_long_says_so_beside_the_decision(tmp_path: Path) -> None:
    for seed in range(4):
        falls(tmp_path, seed, 0.05, test_accuracy=0.75 + 0.001 * seed)
        write_run(
            tmp_path / f"u{seed}", method="uniform", seed=seed, test_accuracy=0.8 + 0.002 * seed, bare=True
        )
    [verdict] = verdicts(load_study(tmp_path))
    assert verdict.answer == "yes"
    assert "trains for too long" in dict(verdict.facts)["But"]


def test_a_study_without_controls_says_so(tmp_path):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), bare=True))
    assert any("without a control (random, uniform, frozen)" in sentence for sentence in limits(study))


def test_one_seed_makes_no_claim(tmp_path):
    study = load_study(write_study(tmp_path, methods=("single", "maxl"), seeds=(0,), bare=True))
    said = " ".join(found(study.settings[0]))
    assert "maxl: one seed: no statement possible." in said
    assert "better" not in said


def test_label_verdicts_are_counted_without_their_figures(tmp_path):
    for seed, verdict in enumerate(
        ("collapsed (3 of 9 classes)", "collapsed (2 of 9 classes)", "informative")
    ):
        write_run(tmp_path / f"run{seed}", seed=seed, label_verdict=verdict, bare=True)
    said = found(load_study(tmp_path).settings[0])
    assert said[-2:] == [
        "Labels of maxl, 2 of 3 runs: collapsed.",
        "Labels of maxl, 1 of 3 runs: informative.",
    ]


def test_variants_of_a_grid_are_drawn_alike_and_compared_at_the_same_setting(tmp_path):
    for seed in range(4):
        write_run(tmp_path / f"s{seed}", method="single", seed=seed, psi=None, final=0.70, bare=True)
        for weight, lift in ((0.3, 0.0), (5.0, 0.1)):
            for method, final in (("uniform", 0.72), ("maxl", 0.71)):
                name = method if weight == 0.3 else f"{method} auxiliary_weight=5"
                folder = write_run(
                    tmp_path / f"{name}{seed}", method=name, seed=seed, final=final + lift, bare=True
                )
                config = {"method": method, "seed": seed, "auxiliary_weight": weight}
                (folder / "config.yaml").write_text(json.dumps(config))
    study = load_study(tmp_path)
    assert study.methods == [
        *("single", "uniform", "uniform auxiliary_weight=5", "maxl", "maxl auxiliary_weight=5"),
    ]
    drawn = looks(study.methods)
    assert drawn["maxl"].colour == drawn["maxl auxiliary_weight=5"].colour != drawn["uniform"].colour
    said = found(study.settings[0])
    strong = [words for words in said if words.startswith("maxl auxiliary_weight=5: ")]
    assert [re.split(r" \(p| by|: within", words)[0].split(" ")[-2:] for words in strong] == [
        ["than", "single"],
        ["uniform", "auxiliary_weight=5"],
    ]
    assert any(
        words.startswith("maxl: worse than uniform auxiliary_weight=5 (the best control) by")
        for words in said
    )
    differences = next(section.parts for section in sections(study) if section.title == "Differences")
    table = [part for part in differences if isinstance(part, Table)][1]
    assert "uniform auxiliary_weight=5 (the best control)" in set(table.frame["Compared with"])


def test_variants_in_folders_of_their_own_name_what_matters_to_both(tmp_path):
    for weight in (0.3, 5.0):
        for method in ("single", "uniform", "maxl"):
            if (method, weight) != ("single", 5.0):
                folder = write_run(tmp_path / f"{method}{weight}", method=method, bare=True)
                (folder / "config.yaml").write_text(
                    json.dumps({"method": method, "auxiliary_weight": weight})
                )
    study = load_study(tmp_path)
    assert "uniform auxiliary_weight=5" in study.methods
    assert "single" in study.methods  # to which it does not matter
    compared_with = study.settings[0].comparisons
    pairs = set(zip(compared_with["method"], compared_with["reference"], strict=True))
    assert ("maxl auxiliary_weight=5", "uniform auxiliary_weight=5") in pairs
    assert ("maxl auxiliary_weight=5", "uniform auxiliary_weight=0.3") not in pairs


def test_several_psi_and_entropy_weights(tmp_path):
    write_study(tmp_path / "with", methods=("single", "maxl"), psis=(10, 2), bare=True)
    write_study(tmp_path / "without", methods=("maxl",), psis=(10, 2), bare=True, entropy_weight=0.0)
    study = load_study(tmp_path)
    assert study.methods == ["single", "maxl entropy_weight=0", "maxl entropy_weight=0.2"]
    assert [setting.name for setting in study.settings] == ["digits, ψ = 2", "digits, ψ = 10"]
    (figure,) = accuracy_by_psi(study, looks(study.methods))
    assert [trace.name for trace in figure.plot.data] == study.methods
    assert all(list(trace.x) == [2, 10] for trace in figure.plot.data)
    single = figure.plot.data[0]
    assert single.y[0] == single.y[1]


def test_training_sizes_are_settings(tmp_path):
    write_study(tmp_path / "few", methods=("single", "maxl"), train_size=1200, bare=True)
    write_study(tmp_path / "all", methods=("single", "maxl"), train_size=None, bare=True)
    names = {setting.name for setting in load_study(tmp_path).settings}
    assert names == {"digits, 1,200 training samples, ψ = 3", "digits, all training samples, ψ = 3"}


@pytest.mark.parametrize("shown", [write_markdown, write_report])
def test_intervals_are_called_what_they_are(tmp_path, shown):
    text = shown(
        write_study(tmp_path, methods=("single", "uniform", "random", "maxl"), bare=True)
    ).read_text()
    assert "with 95 % simultaneous intervals over 3 comparisons" in text
    assert "95 % interval, uncorrected" in text
    assert "p (Bonferroni)" in text
    assert "Holm" not in text[: text.find("* plotly.js v")]
