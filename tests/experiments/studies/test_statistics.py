"""Statistics: pinned values, what they claim, and above all what they must not claim."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maxl.experiments.studies.intervals import (
    PairedDifference,
    mean_interval,
    paired_difference,
    paired_differences,
)
from maxl.experiments.studies.statistics import compare, p_text, parse_psi, verdict


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
    assert (difference.mean, difference.p, difference.ties) == (0, 1, 2)
    assert math.isnan(difference.low)  # two seeds exclude nothing
    assert math.isnan(difference.high)
    assert verdict(difference, "single") == "tied with single: equal in all 2 seeds"
    equal = {seed: 0.8 for seed in range(6)}
    six = paired_difference(equal, equal)  # the fewest seeds whose signs can reject anything
    assert (six.mean, six.low, six.high, six.p) == (0, 0, 0, 1)
    assert math.isnan(paired_difference(equal, equal, comparisons=2).low)


def test_equal_differences_are_no_certainty():
    # Two coarse accuracies that happen to differ by the same step: a t-test would report p = 0.
    difference = paired_difference({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.8, 1: 0.7, 2: 0.6})
    assert difference.p == 0.25
    assert math.isnan(difference.low)  # no interval that excludes zero beside words that claim nothing
    assert math.isnan(difference.high)
    assert "cannot tell" in verdict(difference, "single")
    assert "all 3 seeds agree on +10.0 points" in verdict(difference, "single")
    many = paired_difference(dict.fromkeys(range(8), 0.9), dict.fromkeys(range(8), 0.8))
    assert many.p == 2 / 2**8
    assert many.claimed
    assert not paired_difference(dict.fromkeys(range(8), 0.9), dict.fromkeys(range(8), 0.8), 7).claimed


def test_one_common_seed_and_none():
    one = paired_difference({0: 0.9, 1: 0.8}, {0: 0.8, 5: 0.7})
    assert (one.n, one.mean, one.wins) == (1, pytest.approx(0.1), 1)
    assert math.isnan(one.p)
    assert verdict(one, "single") == "one seed: no statement possible"
    none = paired_difference({0: 0.9}, {5: 0.7})
    assert none.n == 0
    assert verdict(none, "single") == "no seed in common with single: no statement possible"


def test_intervals_of_several_differences_are_bonferronis():
    rng = np.random.default_rng(0)
    pairs = [
        (dict(enumerate(rng.normal(0.7 + 0.01 * k, 0.01, 5))), dict.fromkeys(range(5), 0.7)) for k in range(4)
    ]
    for (a, b), together in zip(pairs, paired_differences(pairs), strict=True):
        expected = stats.ttest_rel([a[s] for s in range(5)], [b[s] for s in range(5)])
        low, high = expected.confidence_interval(1 - 0.05 / 4)
        assert (together.low, together.high) == (pytest.approx(low), pytest.approx(high))
        assert together.p == pytest.approx(expected.pvalue)
        assert together.p_corrected == pytest.approx(min(1, 4 * expected.pvalue))
        assert together.half == pytest.approx((high - low) / 2)
        assert together.comparisons == 4


def test_what_was_not_tested_is_no_comparison():
    some, one = {0: 0.8, 1: 0.9, 2: 0.7}, {0: 0.8}
    other = {0: 0.7, 1: 0.7, 2: 0.7}
    found = paired_differences([(some, other), (one, other), (other, some)])
    assert [d.comparisons for d in found] == [2, 2, 2]
    assert math.isnan(found[1].p_corrected)
    assert found[0].low == pytest.approx(-found[2].high)
    assert paired_differences([(one, other)])[0].comparisons == 1
    assert paired_differences([]) == []


def test_a_difference_needs_a_comparison():
    with pytest.raises(ValueError, match="comparisons needs to be at least 1; got 0"):
        paired_difference({0: 0.1}, {0: 0.2}, 0)


def test_verdict_interval_and_p_never_disagree():
    """Near the line too: differences are shifted so that the interval's end falls just beside zero."""
    rng = np.random.default_rng(3)
    claims = 0
    for n, comparisons in itertools.product((2, 3, 5, 10), (1, 2, 7, 30)):
        for shift in (-1e-6, 1e-6, -0.01, 0.01):
            noise = rng.normal(0, 0.01, n)
            half = stats.t.ppf(1 - 0.025 / comparisons, n - 1) * noise.std(ddof=1) / math.sqrt(n)
            a = dict(enumerate(noise - noise.mean() + half + shift))
            difference = paired_difference(a, dict.fromkeys(range(n), 0.0), comparisons)
            words = verdict(difference, "single")
            told = words.startswith(("better than", "worse than"))
            excluded = difference.low > 0 or difference.high < 0
            assert told == excluded == difference.claimed == (difference.p_corrected < 0.05), (n, comparisons)
            p = float(re.search(r"p [=<] ([\d.]+)", words)[1])
            assert told == (p < 0.05 or "p <" in words), words
            claims += told
    assert 20 < claims < 60


def test_no_claim_stands_beside_an_interval_with_zero_in_a_whole_table():
    rng = np.random.default_rng(5)
    claims = 0
    for _ in range(100):
        rows = [
            {"data": "d", "train_size": 1, "psi": 2, "method": m, "seed": s}
            | {"test_accuracy": rng.normal(0.7 + lift, 0.01)}
            for m, lift in (("single", 0), ("random", 0.01), ("kmeans", 0.02), ("maxl", 0.03))
            for s in range(4)
        ]
        for row in compare(pd.DataFrame(rows)).itertuples():
            told = row.verdict.startswith(("better than", "worse than"))
            assert told == (row.low > 0 or row.high < 0) == (row.p_corrected < 0.05), row
            claims += told
    assert claims > 20


def test_simultaneous_intervals_cover_all_differences_at_once_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        b = dict(enumerate(rng.normal(0.7, 0.01, 4)))
        pairs = [(dict(enumerate(rng.normal(0.7, 0.01, 4))), b) for _ in range(6)]
        covered += all(d.low < 0 < d.high for d in paired_differences(pairs))
    assert covered / 400 >= 0.94


def _difference(mean: float, low: float, high: float, p: float = 0.4) -> PairedDifference:
    return PairedDifference(mean, low, high, p, 3, 2, 0, 5, spread=0.02)


def test_verdicts_in_words():
    better = _difference(0.008, 0.002, 0.014, 0.012)
    assert verdict(better, "single") == "better than single by 0.8 points (p = 0.012)"
    assert verdict(_difference(-0.01, -0.02, -0.001, 0.0004), "random") == (
        "worse than random by 1 point (p < 0.001)"
    )


def test_verdict_tells_level_from_too_few_seeds_and_says_what_these_could_have_shown():
    level = verdict(_difference(0.001, -0.004, 0.006), "single")
    assert level == "level with single: within ±0.6 points (p = 0.40)"
    assert verdict(_difference(0.0, -0.00042, 0.0004), "single").startswith(
        "level with single: within ±0.05 points"
    )
    assert verdict(_difference(0.002, -0.0058, 0.00983), "single").startswith(
        "level with single: within ±1 point "
    )
    open_question = verdict(_difference(0.01, -0.021, 0.041), "single")
    assert open_question == (
        "cannot tell whether different from single (p = 0.40): −2.1 to +4.1 points remain possible; 5 seeds find "
        "3.4 points or more with 80 % power"
    )


def test_p_text():
    assert [p_text(p) for p in (0.0001, 0.0123, 0.4567)] == ["p < 0.001", "p = 0.012", "p = 0.46"]
    assert [p_text(p) for p in (0.04999, 0.05, 0.0501)] == ["p = 0.049", "p = 0.050", "p = 0.050"]


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
        assert family.comparisons.tolist() == [len(family)] * len(family)
        assert family.p_corrected.tolist() == pytest.approx((len(family) * family.p).clip(upper=1).tolist())


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
    assert claims / 200 <= 0.08  # the correction holds the chance of any false claim at 5 %


def _grid(**lifts: float) -> pd.DataFrame:
    """Four seeds of each variant, named as a study does (a dash for a space), at 70 % plus its lift in points."""
    rng = np.random.default_rng(0)
    rows = []
    for name, lift in lifts.items():
        method = name.replace("__", " ").replace("_is_", "=")
        for seed in range(4):
            accuracy = 0.7 + lift / 100 + 0.01 * seed + rng.normal(0, 0.001)
            row = {"data": "d", "train_size": 1, "psi": None, "method": method, "seed": seed}
            rows.append({**row, "test_accuracy": accuracy})
    return pd.DataFrame(rows)


def _pairs(table: pd.DataFrame, against: str) -> set[tuple[str, str]]:
    rows = table[table["against"] == against]
    return set(zip(rows["method"], rows["reference"], strict=True))


def test_a_grid_is_compared_at_the_same_setting():
    table = compare(
        _grid(single=0, uniform=1, uniform__auxiliary_weight_is_5=6, maxl=1, maxl__auxiliary_weight_is_5=5)
    )
    strong = "auxiliary_weight=5"
    found = _pairs(table, "same setting")
    assert found == {
        *(
            ("uniform", "single"),
            (f"uniform {strong}", "single"),
            ("maxl", "single"),
            (f"maxl {strong}", "single"),
        ),
        *(("single", "uniform"), ("maxl", "uniform")),
        *(("single", f"uniform {strong}"), (f"maxl {strong}", f"uniform {strong}")),
    }
    said = table.set_index(["method", "reference"])["verdict"]
    assert said[(f"maxl {strong}", f"uniform {strong}")].startswith(
        f"worse than uniform {strong} by 0.9 points"
    )
    assert (table.loc[table["against"] == "same setting", "comparisons"] == 4).all()


def test_a_method_is_also_compared_with_the_best_control_of_another_setting():
    table = compare(
        _grid(single=0, uniform=1, uniform__auxiliary_weight_is_5=6, maxl=2, maxl__auxiliary_weight_is_5=5)
    )
    best = table[table["against"] == "best control"]
    assert _pairs(table, "best control") == {
        ("maxl", "uniform auxiliary_weight=5")
    }  # the other has it already
    assert (
        best["verdict"]
        .item()
        .startswith("worse than uniform auxiliary_weight=5 (the best control) by 4 points")
    )
    assert best["comparisons"].item() == 2 * 3  # chosen among three controls, for two methods


def test_fields_that_do_not_matter_to_a_control_match():
    names = {"maxl__meta_learning_rate_is_0.01__auxiliary_weight_is_5": 3, "single": 0, "uniform": 0}
    table = compare(_grid(**names, uniform__auxiliary_weight_is_5=0, frozen__auxiliary_weight_is_5=0))
    references = {r for m, r in _pairs(table, "same setting") if m.startswith("maxl")}
    assert references == {"single", "uniform auxiliary_weight=5", "frozen auxiliary_weight=5"}


def test_without_a_grid_there_is_no_further_comparison():
    assert set(compare(_results())["against"]) == {"same setting"}
