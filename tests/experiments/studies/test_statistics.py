"""Statistics: pinned values, what they claim, and above all what they must not claim."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maxl.experiments.studies.statistics import (
    PairedDifference,
    compare,
    holm,
    mean_interval,
    p_text,
    paired_difference,
    parse_psi,
    verdict,
)


def test_mean_interval_by_hand():
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2) times the standard error of s = 1
    assert interval.mean == 2
    assert interval.low == pytest.approx(2 - half)
    assert interval.high == pytest.approx(2 + half)
    assert interval.n == 3


def test_mean_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(0.7, 0.02, size=4), level=0.9) for _ in range(1000)]
    covered = np.mean([interval.low < 0.7 < interval.high for interval in intervals])
    assert covered == pytest.approx(0.9, abs=0.03)


def test_one_value_has_no_interval():
    interval = mean_interval([0.5])
    assert interval.mean == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_mean_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="at least one value and only finite ones"):
        mean_interval(values)


def test_level_is_a_probability():
    with pytest.raises(ValueError, match=r"such as 0\.95; got 95"):
        mean_interval([0.1, 0.2], level=95)


def test_paired_difference_is_scipys_over_common_seeds():
    a = {0: 0.80, 1: 0.83, 2: 0.79, 3: 0.85, 9: 0.1}
    b = {0: 0.78, 1: 0.80, 2: 0.80, 3: 0.81, 7: 0.9}
    difference = paired_difference(a, b)
    first, second = [a[s] for s in range(4)], [b[s] for s in range(4)]
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(0.95)
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))
    assert difference.mean == pytest.approx(0.02)
    assert (difference.wins, difference.losses, difference.ties, difference.n) == (3, 1, 0, 4)


def test_paired_difference_is_antisymmetric():
    a, b = {0: 0.8, 1: 0.7, 2: 0.9}, {0: 0.75, 1: 0.72, 2: 0.8}
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == -backward.mean
    assert forward.low == pytest.approx(-backward.high)
    assert forward.p == pytest.approx(backward.p)
    assert (forward.wins, forward.losses) == (backward.losses, backward.wins)


def test_no_difference_at_all():
    difference = paired_difference({0: 0.8, 1: 0.9}, {0: 0.8, 1: 0.9})
    assert (difference.mean, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
    assert difference.ties == 2
    assert verdict(difference, 1.0, "single") == "equal to single in all 2 seeds"


def test_equal_differences_are_no_certainty():
    # Two coarse accuracies that happen to differ by the same step: a t-test would report p = 0.
    difference = paired_difference({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.8, 1: 0.7, 2: 0.6})
    assert difference.p == 0.25
    assert "no evidence" in verdict(difference, difference.p, "single")
    assert "all 3 seeds agree on +10.0 points" in verdict(difference, difference.p, "single")
    many = paired_difference(dict.fromkeys(range(8), 0.9), dict.fromkeys(range(8), 0.8))
    assert many.p == 2 / 2**8


def test_one_common_seed_and_none():
    one = paired_difference({0: 0.9, 1: 0.8}, {0: 0.8, 5: 0.7})
    assert (one.n, one.mean, one.wins) == (1, pytest.approx(0.1), 1)
    assert math.isnan(one.p)
    assert verdict(one, one.p, "single") == "one seed: no statement possible"
    none = paired_difference({0: 0.9}, {5: 0.7})
    assert none.n == 0
    assert verdict(none, none.p, "single") == "no seed in common with single: no statement possible"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_monotone_and_never_below_the_p_value():
    p_values = np.random.default_rng(0).uniform(size=20)
    adjusted = np.asarray(holm(p_values.tolist()))
    assert (adjusted >= p_values).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


def test_holm_leaves_out_what_was_not_tested():
    adjusted = holm([0.02, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"\[0, 1\]; got 1.2"):
        holm([0.1, 1.2])


def _difference(mean: float, low: float, high: float) -> PairedDifference:
    return PairedDifference(mean, low, high, 0.5, 3, 2, 0, 5)


def test_verdicts_in_words():
    better = _difference(0.008, 0.002, 0.014)
    assert verdict(better, 0.012, "single") == "better than single by 0.8 points (p = 0.012)"
    assert verdict(_difference(-0.01, -0.02, -0.001), 0.0004, "random") == (
        "worse than random by 1 point (p < 0.001)"
    )


def test_verdict_follows_the_corrected_p_value():
    before_correction = _difference(0.008, 0.002, 0.014)
    assert verdict(before_correction, 0.06, "single").startswith("no evidence of a difference from single")


def test_verdict_tells_level_from_too_few_seeds():
    level = verdict(_difference(0.001, -0.004, 0.006), 0.4, "single")
    assert level == "level with single: the 95 % interval stays within ±1 point (p = 0.40)"
    open_question = verdict(_difference(0.01, -0.021, 0.041), 0.4, "single")
    assert open_question == (
        "no evidence of a difference from single (p = 0.40); too few seeds to exclude a relevant one: "
        "−2.1 to +4.1 points remain possible"
    )


def test_verdict_needs_the_p_value():
    with pytest.raises(ValueError, match="needs its p-value"):
        verdict(_difference(0.1, 0, 0.2), math.nan, "single")


def test_p_text():
    assert [p_text(p) for p in (0.0001, 0.0123, 0.4567)] == ["p < 0.001", "p = 0.012", "p = 0.46"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (math.nan, None),
        ("", None),
        (5, 5),
        (5.0, 5),
        ("5", 5),
        ([5, 5], 5),
        ("[5, 5]", 5),
        ((2, 2, 1), (2, 2, 1)),
        ("(2, 2, 1)", (2, 2, 1)),
        (np.array([3, 3]), 3),
    ],
)
def test_parse_psi(value, expected):
    assert parse_psi(value) == expected


def test_parse_psi_refuses_words():
    with pytest.raises(ValueError, match="psi needs to be a number or a list of numbers; got 'five'"):
        parse_psi("five")


def _results(**overrides) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    means = {"single": 0.70, "random": 0.69, "maxl": 0.76}
    rows = []
    for psi in (2, 5):
        for method, mean in means.items():
            for seed in range(5):
                if method == "single" and psi == 5:
                    continue  # single-task runs are run once and have no psi
                noise = rng.normal(0, 0.003)
                own_psi = None if method == "single" else psi
                row = {"data": "digits", "train_size": None, "psi": own_psi, "method": method, "seed": seed}
                rows.append({**row, "test_accuracy": mean + noise, **overrides})
    return pd.DataFrame(rows)


def test_compare_pairs_every_method_with_every_reference_in_each_setting():
    table = compare(_results())
    found = {(row.psi, row.method, row.reference) for row in table.itertuples()}
    pairs = {("random", "single"), ("maxl", "single"), ("single", "random"), ("maxl", "random")}
    assert found == {(psi, *pair) for psi in (2, 5) for pair in pairs}
    won = table[(table.method == "maxl") & (table.reference == "single")]
    assert (won.difference > 0.05).all()
    assert won.verdict.str.startswith("better than single by").all()
    assert (won.n == 5).all()


def test_compare_corrects_within_a_reference_and_setting():
    table = compare(_results())
    for _, family in table.groupby(["psi", "reference"]):
        assert family.p_holm.tolist() == pytest.approx(holm(family.p.tolist()))


def test_compare_reads_what_a_csv_file_gives_back(tmp_path):
    results = _results()
    results.to_csv(tmp_path / "results.csv", index=False)
    again = compare(pd.read_csv(tmp_path / "results.csv"))
    pd.testing.assert_frame_equal(again, compare(results), check_dtype=False)


def test_compare_keeps_primary_tasks_apart():
    both = pd.concat([_results(primary="coarse"), _results(primary="fine")])
    assert len(compare(both)) == 2 * len(compare(_results()))


def test_compare_without_a_reference_is_an_empty_table():
    table = compare(_results().query("method == 'maxl'"))
    assert table.empty
    assert "verdict" in table.columns


def test_compare_refuses_two_runs_of_one_seed():
    results = _results()
    with pytest.raises(ValueError, match="got two of single with seed 0"):
        compare(pd.concat([results, results]))


def test_compare_names_the_missing_column():
    with pytest.raises(ValueError, match="got none named seed"):
        compare(_results().drop(columns="seed"))


def test_pure_chance_is_seldom_called_a_difference():
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(200):
        rows = [
            {
                "data": "d",
                "train_size": 1,
                "psi": 2,
                "method": m,
                "seed": s,
                "test_accuracy": rng.normal(0.7, 0.01),
            }
            for m in ("single", "random", "frozen", "maxl")
            for s in range(3)
        ]
        verdicts = compare(pd.DataFrame(rows), references=("single",)).verdict
        claims += verdicts.str.contains("better|worse", regex=True).any()
    assert claims / 200 <= 0.08  # Holm holds the chance of any false claim at 5 %
