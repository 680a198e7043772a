"""When a study has learned nothing: no better than one answer for all samples."""

from __future__ import annotations

import math

import pytest

from maxl.experiments.studies.statistics import nothing_learned


@pytest.mark.parametrize(
    ("aurocs", "told"),
    [((), True), ((None, math.nan), True), ((0.5, 0.52), True), ((0.8, 0.79, None), False)],
)
def test_a_rare_class_that_is_told_apart_is_something_learned(
    aurocs: tuple[float | None, ...], told: bool
) -> None:
    assert nothing_learned(0.92, 0.93, aurocs) == told
    assert not nothing_learned(0.95, 0.93, aurocs)
    assert not nothing_learned(0.92, None, aurocs)
