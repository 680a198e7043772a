"""What features keep is compared at the same setting, and with the raw inputs of the same runs."""

from __future__ import annotations

import numpy as np
import pytest

from maxl.experiments.studies.structure import against_inputs, against_single, kept_text

SEEDS = range(6)


def about(value: float) -> dict[int, float]:
    """The probe's accuracy in percent, by seed."""
    noise = np.random.default_rng(round(100 * value)).normal(scale=0.1, size=len(SEEDS))
    return {seed: value + noise[seed] for seed in SEEDS}


GRID = {
    "single learning_rate=0.01": about(50),
    "single learning_rate=0.001": about(60),
    "uniform learning_rate=0.01": about(50.01),
    "uniform learning_rate=0.001": about(60.01),
    "kmeans learning_rate=0.001": about(65),
}


def test_a_grid_is_compared_at_the_same_setting() -> None:
    found = against_single(GRID)
    assert found.keys() == {name for name in GRID if not name.startswith("single")}
    assert found["uniform learning_rate=0.001"].mean == pytest.approx(0, abs=0.2)
    assert found["kmeans learning_rate=0.001"].mean == pytest.approx(5, abs=0.2)
    told = kept_text(GRID)
    assert told.startswith("More than single-task training keeps: kmeans learning_rate=0.001 (+")
    assert "uniform" not in told


def test_fields_that_do_not_matter_to_single_task_training_do_not_part_it_from_others() -> None:
    probed = {"single": about(50), "uniform psi=2": about(40), "uniform psi=5": about(60)}
    found = against_single(probed)
    assert {name: round(d.mean) for name, d in found.items()} == {"uniform psi=2": -10, "uniform psi=5": 10}


def test_nothing_is_compared_without_single_task_training() -> None:
    assert against_single({"uniform": about(50)}) == {}
    assert kept_text({"uniform": about(50)}) == ""


def test_the_inputs_are_those_of_the_same_runs() -> None:
    probed = {"single probe_shots=1": about(40), "single probe_shots=20": about(80)}
    inputs = {"single probe_shots=1": about(30), "single probe_shots=20": about(85)}
    found = against_inputs(probed, inputs)
    assert [round(found[name].mean) for name in probed] == [10, -5]
    told = kept_text(probed, inputs)
    assert "More than the raw inputs keep: single probe_shots=1 (+" in told
    assert "Less than the raw inputs keep: single probe_shots=20 (−" in told
