"""What a study of some size can find, and what its words say of ties and of the best method."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from maxl.experiments.cli.show import study_tables
from maxl.experiments.runs.measures import ACCURACY
from maxl.experiments.studies.intervals import (
    Interval,
    paired_difference,
    paired_differences,
    seeds_to_detect,
    smallest_detectable,
)
from maxl.experiments.studies.statistics import best_methods, compare, headline


@pytest.mark.parametrize(("n", "comparisons"), [(2, 1), (3, 4), (5, 1), (10, 7), (30, 2)])
def test_the_detectable_difference_is_found_four_times_in_five(n: int, comparisons: int) -> None:
    spread = 0.02
    difference = smallest_detectable(spread, n, comparisons)
    random = np.random.default_rng(n)
    samples = difference + spread * random.standard_normal((40_000, n))
    p = stats.ttest_1samp(samples, 0.0, axis=1).pvalue
    assert (comparisons * p < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_more_seeds_find_less_and_more_comparisons_hide_more() -> None:
    by_seeds = [smallest_detectable(1.0, n) for n in (2, 3, 5, 10, 30, 100)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert smallest_detectable(1.0, 10, 7) > smallest_detectable(1.0, 10)
    # Well known: 34 pairs find half a standard deviation.
    assert smallest_detectable(1.0, 34) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("spread", "n"), [(math.nan, 5), (0.0, 5), (0.1, 1), (0.1, 0)])
def test_nothing_is_said_of_power_where_the_spread_is_not_known(spread: float, n: int) -> None:
    assert math.isnan(smallest_detectable(spread, n))


def test_a_difference_carries_the_power_of_its_corrected_comparison() -> None:
    a, b = {s: 0.5 + 0.01 * (s % 3) for s in range(6)}, dict.fromkeys(range(6), 0.5)
    (one,), two = paired_differences([(a, b)]), paired_differences([(a, b), (a, b)])
    assert one.spread == pytest.approx(np.std([0, 1, 2, 0, 1, 2], ddof=1) / 100)
    assert one.detectable == pytest.approx(smallest_detectable(one.spread, 6))
    assert two[0].detectable == pytest.approx(smallest_detectable(one.spread, 6, 2))
    assert math.isnan(paired_difference(b, b).detectable)


def test_the_fewest_seeds_for_a_difference() -> None:
    n = seeds_to_detect(0.01, 0.01, most=50)
    assert smallest_detectable(0.01, n) <= 0.01 < smallest_detectable(0.01, n - 1)
    assert seeds_to_detect(0.001, 0.01, most=12) == 12
    assert seeds_to_detect(0.01, 0.0, most=12) == 3


def table(**means: list[float]) -> pd.DataFrame:
    rows = [
        {"data": "d", "train_size": 10, "psi": None, "method": m, "seed": s, "test_accuracy": v}
        for m, values in means.items()
        for s, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


def said(**means: list[float]) -> str:
    intervals = {m: Interval(100 * sum(v) / len(v), 0, 100, len(v)) for m, v in means.items()}
    return headline(intervals, compare(table(**means)), ACCURACY)


LOW, HIGH = [0.5, 0.51, 0.52, 0.5, 0.51], [0.81, 0.8, 0.82, 0.81, 0.8]


def test_a_tie_of_the_best_is_called_one() -> None:
    assert best_methods({"a": 0.1 + 0.2, "b": 0.3, "c": 0.2}) == ["a", "b"]
    told = said(single=LOW, uniform=HIGH, maxl=[*HIGH[2:], *HIGH[:2]])
    assert told == "Highest mean test accuracy: a tie of uniform and maxl at 80.8 %."
    equal = compare(table(uniform=HIGH, maxl=HIGH))
    assert set(equal["verdict"]) == {"tied with uniform: equal in all 5 seeds"}


def test_the_best_is_named_whichever_method_it_is() -> None:
    assert said(single=LOW, kmeans=HIGH, maxl=LOW[::-1]).startswith("Highest mean test accuracy: kmeans with")
    assert said(single=HIGH, maxl=LOW).startswith("Highest mean test accuracy: single with 80.8 %")
    assert said(single=LOW, maxl=LOW[::-1]).startswith("No method stands out")


def test_a_method_that_is_shown_to_beat_another_is_no_tie_of_all() -> None:
    """Where seeds are unequal, the better one of every pair need not have the highest mean."""
    single = [*(value - 0.02 - 0.0005 * i for i, value in enumerate(HIGH)), 0.99, 0.99, 0.99]
    told = said(single=single, uniform=HIGH)
    assert compare(table(single=single, uniform=HIGH)).iloc[0]["low"] > 0
    assert told.startswith("Highest mean test accuracy: single with")
    assert told.endswith("not shown to be better than uniform.")


def test_variants_that_nothing_was_compared_with_are_not_named() -> None:
    means = {
        "single learning_rate=0.1": LOW,
        "single learning_rate=0.2": HIGH,
        "uniform learning_rate=0.1": LOW[::-1],
        "uniform learning_rate=0.2": [v - 0.001 * (i % 2) for i, v in enumerate(HIGH)],
    }
    told = said(**means)
    assert told.startswith("Highest mean test accuracy: single learning_rate=0.2 with")
    assert told.endswith("; not shown to be better than uniform learning_rate=0.2.")


def test_words_interval_and_corrected_p_agree() -> None:
    random = np.random.default_rng(0)
    for shift in (0.0, 0.005, 0.01, 0.02, 0.05):
        base = 0.7 + 0.02 * random.standard_normal(6)
        runs = table(
            single=list(base),
            uniform=list(base + shift + 0.01 * random.standard_normal(6)),
            maxl=list(base - shift + 0.01 * random.standard_normal(6)),
        )
        for row in compare(runs).itertuples():
            claimed = bool(row.low > 0 or row.high < 0)
            assert claimed == (row.p_corrected < 0.05)
            assert claimed == (row.verdict.split(" ")[0] in ("better", "worse"))
            if "80 % power" in row.verdict:
                assert row.verdict.endswith("with 80 % power")
                assert row.detectable > 0


def test_without_a_seed_in_common_nothing_stands_in_place_of_a_difference() -> None:
    runs = pd.DataFrame(
        {"method": method, "seed": seed, "test_accuracy": 0.9 + 0.01 * seed, "seconds_per_step": 0.01}
        | {"data": "digits", "primary": "digit", "train_size": 200, "psi": None}
        for method, seeds in {"single": (0, 1), "uniform": (2, 3)}.items()
        for seed in seeds
    )
    text = io.StringIO()
    for shown, _ in study_tables(runs):
        Console(width=200, file=text).print(shown)
    assert "uniform" in text.getvalue()
    assert "nan" not in text.getvalue()
