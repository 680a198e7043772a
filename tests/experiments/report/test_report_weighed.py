"""The decision on top weighs what it rests on: variants of controls, seeds that are missing, runs that diverged or collapsed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from _report_helpers import write_run
from maxl.experiments.report.forest import forest
from maxl.experiments.report.runs import Results, load_study
from maxl.experiments.report.style import looks
from maxl.experiments.report.verdict import Verdict, verdicts

SINGLE = dict(enumerate((0.800, 0.810, 0.795, 0.805, 0.802)))


def above(by: float, jitter: float = 0.001) -> dict[int, float]:
    """Accuracies that lie above single-task training's by about so much."""
    return {seed: SINGLE[seed] + by + jitter * sign for seed, sign in enumerate((1, -1, 0, 2, -2))}


def write(
    folder: Path, method: str, values: Mapping[int, float], rate: float | None = None, **summary: object
) -> None:
    """Runs of a method, or of its variant with a learning rate."""
    label = method if rate is None else f"{method} learning_rate={rate:g}"
    for seed, value in values.items():
        psi = None if method == "single" else 3
        run = write_run(
            folder / f"{label.replace(' ', '_')}_{seed}",
            **{"method": method, "seed": seed, "psi": psi, "test_accuracy": value, "seconds_total": 60.0},
            **{"bare": True, "test_size": 2000, **summary},
        )
        if rate is not None:
            changed = {**json.loads((run / "summary.json").read_text()), "method": label}
            (run / "summary.json").write_text(json.dumps(changed))
            config = {**yaml.safe_load((run / "config.yaml").read_text()), "learning_rate": rate}
            config.pop("optimizer", None)
            (run / "config.yaml").write_text(yaml.safe_dump(config))


def diverge(folder: Path, method: str, seed: int) -> None:
    """A run that ended early, beside others of its method."""
    config = yaml.safe_load((folder / f"{method}_0" / "config.yaml").read_text())
    run = folder / f"{method}_{seed}"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "method": method, "seed": seed}))
    (run / "diverged.json").write_text(json.dumps({"epoch": 3, "reason": "the loss is nan"}))


def decided(folder: Path) -> tuple[Verdict, Results]:
    study = load_study(folder)
    (found,) = verdicts(study)
    return found, study


def test_a_gain_at_one_setting_does_not_hide_a_better_control_at_another(tmp_path: Path) -> None:
    for rate, base, gain in ((0.001, 0.0, 0.05), (0.01, 0.10, 0.08)):
        write(tmp_path, "single", {seed: value + base for seed, value in SINGLE.items()}, rate)
        write(tmp_path, "maxl", above(gain), rate)
    found, _ = decided(tmp_path)
    assert found.answer == "no"
    assert found.headline == (
        "No: maxl learning_rate=0.001 is better than single learning_rate=0.001 by 5 points, and worse than single "
        "learning_rate=0.01, the best control, by 5 points."
    )
    assert found.advice.startswith("Use single learning_rate=0.01.")


def test_a_gain_that_is_not_shown_over_the_best_control_is_no_yes(tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE, 0.001)
    write(tmp_path, "single", above(0.051, 0.004), 0.01)
    write(tmp_path, "maxl", above(0.05), 0.001)
    write(tmp_path, "maxl", above(0.03), 0.01)
    found, _ = decided(tmp_path)
    assert found.answer == "cannot tell"
    assert "is not shown to beat single learning_rate=0.01, the best control" in found.headline
    assert found.method == "single learning_rate=0.01"


def test_a_gain_over_the_best_control_too_is_a_yes(tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE, 0.001)
    write(tmp_path, "single", above(0.01, 0.0005), 0.01)
    write(tmp_path, "uniform", above(0.0, 0.0005), 0.001)
    write(tmp_path, "maxl", above(0.08), 0.001)
    write(tmp_path, "maxl", above(0.0, 0.0004), 0.01)
    found, _ = decided(tmp_path)
    assert found.answer == "yes"
    assert found.headline.startswith(
        "Yes: maxl learning_rate=0.001 is better than single learning_rate=0.001"
    )


def test_what_is_worse_is_so_than_its_own_reference_and_the_best_variant_is_kept(tmp_path: Path) -> None:
    for rate, base, gain in ((0.001, 0.0, 0.0), (0.01, 0.10, 0.06)):
        write(tmp_path, "single", {seed: value + base for seed, value in SINGLE.items()}, rate)
        write(tmp_path, "uniform", above(gain, 0.0005), rate)
    found, study = decided(tmp_path)
    assert found.answer == "no"
    assert "uniform learning_rate=0.01 is worse than single learning_rate=0.01 by 4 points" in found.headline
    assert found.advice.startswith("Keep single learning_rate=0.01")
    (setting,) = study.settings
    drawn = forest(setting, looks(study.methods))
    assert "uniform learning_rate=0.01 worse than single learning_rate=0.01" in drawn.description


@pytest.mark.parametrize("spread", [0.0, 0.0006])
def test_a_method_with_fewer_seeds_is_told_apart(spread: float, tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE)
    write(tmp_path, "uniform", above(0.0 if spread else 0.004, spread))
    write(tmp_path, "maxl", {0: 0.85})
    found, _ = decided(tmp_path)
    facts = dict(found.facts)
    assert found.answer == "cannot tell"
    if spread:
        assert found.headline == "Cannot tell of maxl: one seed says nothing of a difference."
    else:  # five seeds agree on half a point, and one is alone
        assert found.headline.startswith("Cannot tell: 5 seeds agree")
    assert "paired by 1 to 5 seeds" in facts["Against what"]


def test_a_range_holds_the_means_that_it_stands_beside(tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE)
    write(tmp_path, "uniform", above(0.004, 0.012))
    write(tmp_path, "maxl", {0: 0.85})
    found, _ = decided(tmp_path)
    told = dict(found.facts)["By how much"]
    assert "mean difference +0.4 points; anything from" in told
    assert "Of maxl (1 seed) nothing is known." in found.headline


def test_the_largest_gain_is_that_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    seeds = range(8)
    single = {seed: 0.70 if seed > 5 else 0.80 + 0.001 * (seed % 3) for seed in seeds}
    maxl = {seed: 0.84 + 0.0013 * (seed % 4) for seed in seeds}
    uniform = {seed: 0.83 + 0.0007 * (seed % 2) for seed in seeds if seed > 3}
    for method, values in (("single", single), ("uniform", uniform), ("maxl", maxl)):
        write(tmp_path, method, values)
    found, study = decided(tmp_path)
    rows = study.settings[0].comparisons.set_index(["method", "reference"])["difference"]
    assert rows["uniform", "single"] > rows["maxl", "single"]  # on its own seeds
    assert found.headline.startswith("Yes: maxl is better") or found.answer != "yes"


def test_a_gain_over_runs_that_did_not_diverge_is_no_yes(tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE)
    write(tmp_path, "uniform", above(0.0))
    write(tmp_path, "maxl", {0: 0.85, 1: 0.861, 2: 0.846})
    whole, _ = decided(tmp_path)
    assert whole.answer == "yes"
    for seed in (3, 4):
        diverge(tmp_path, "maxl", seed)
    found, _ = decided(tmp_path)
    assert found.answer == "cannot tell"
    assert found.headline == (
        "Cannot tell: maxl is better than single-task training by 5.1 points over the 3 seeds that did not diverge."
    )
    assert ("But", "2 of 5 runs of maxl diverged") in found.facts
    assert "lower --learning-rate" in found.advice


def test_a_gain_that_rests_on_collapsed_runs_is_no_yes(tmp_path: Path) -> None:
    seeds = range(15)
    single = {
        seed: 0.2 + 0.0001 * seed if seed in (1, 4, 6, 9, 13) else 0.80 + 0.003 * (seed % 3) for seed in seeds
    }
    write(tmp_path, "single", single)
    write(tmp_path, "maxl", {seed: 0.80 + 0.003 * ((seed + 1) % 3) for seed in seeds})
    found, _ = decided(tmp_path)
    assert found.answer == "cannot tell"
    assert found.headline.startswith("Cannot tell, as runs collapsed. With them: Yes: maxl")
    assert "Without them: " in found.headline
    assert any(
        told.startswith("5 of 15 runs of single collapsed")
        for question, told in found.facts
        if question == "But"
    )


def test_a_gain_beside_collapsed_runs_stands_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE)
    write(tmp_path, "uniform", above(0.0))
    write(tmp_path, "random", {**above(-0.01), 4: 0.2})
    write(tmp_path, "maxl", above(0.06))
    found, _ = decided(tmp_path)
    assert found.headline.startswith("Yes: maxl is better than single-task training by 6 points.")
    assert any(question == "But" and "runs of random collapsed" in told for question, told in found.facts)


def test_more_seeds_are_not_asked_for_where_the_test_part_is_too_small(tmp_path: Path) -> None:
    write(tmp_path, "single", SINGLE, test_size=120)
    write(tmp_path, "maxl", above(0.005, 0.012), test_size=120)
    found, _ = decided(tmp_path)
    assert found.answer == "cannot tell"
    assert found.advice.startswith("Keep single. More seeds would not help: a larger test part would.")
