"""What a handful of seeds can and cannot tell: intervals, paired comparisons and their words.

Accuracies are shares in [0, 1]; verdicts speak in points (hundredths). All intervals describe the randomness
of training, that is, of the seeds; the test set is the same for all of them and its sampling is not included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of every interval
SIGNIFICANCE = 0.05  # of every test, after correction
RELEVANT = 0.01  # the smallest difference in accuracy worth acting on: one point
REFERENCES = ("single", "random", "uniform", "frozen")

Psi = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; ``low`` and ``high`` are NaN where ``n`` is 1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a − b over the seeds that both have.

    Attributes:
        mean: Mean difference; NaN without a common seed.
        low, high: Its 95 % interval; NaN below two seeds, both the mean where all differences agree.
        p: Two-sided p-value of "no difference"; NaN below two seeds.
        wins, losses, ties: Seeds in which a is above, below or equal to b.
        n: Seeds that both have.
    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int
    n: int


def mean_interval(values: Iterable[float], level: float = LEVEL) -> Interval:
    """Mean and Student t interval.

    Args:
        values: Independent results, one a seed; at least one, all finite.
        level: Confidence level in (0, 1).

    Raises:
        ValueError: if there is no value, or one is not finite, or the level is outside (0, 1).
    """
    import numpy as np
    from scipy import stats

    numbers = np.asarray(list(values), dtype=float)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"an interval needs at least one value and only finite ones; got {numbers.tolist()}")
    if not 0 < level < 1:
        raise ValueError(f"level needs to lie between 0 and 1, such as 0.95; got {level}")
    n, mean = len(numbers), float(numbers.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    spread = float(numbers.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> PairedDifference:
    """a − b over the seeds in both: t interval and paired t-test.

    Where every seed gives the same difference, the t-test would divide by zero and report certainty. Such
    ties come from the coarse steps of an accuracy, so the exact sign-flip test answers instead: p = 2 / 2ⁿ,
    the smallest that n signs can give (and 1 where all differences are zero).

    Args:
        a, b: Seed to result.

    Raises:
        ValueError: if a result of a common seed is not finite.
    """
    from scipy import stats

    seeds = sorted(set(a) & set(b))
    # Rounded far below any accuracy's step, so that equal differences stay equal in floating point.
    differences = [round(a[seed] - b[seed], 12) for seed in seeds]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    n = len(seeds)
    counts = (wins, losses, n - wins - losses, n)
    if n == 0:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan, *counts)
    interval = mean_interval(differences)
    if n == 1:
        p = math.nan
    elif len(set(differences)) == 1:
        interval = Interval(differences[0], differences[0], differences[0], n)
        p = 1.0 if differences[0] == 0 else 2.0 ** (1 - n)
    else:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return PairedDifference(interval.mean, interval.low, interval.high, p, *counts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values, in the order given.

    NaN (a comparison that could not be tested) stays NaN and does not count as a comparison.

    Raises:
        ValueError: if a p-value is outside [0, 1].
    """
    for p in p_values:
        if not (math.isnan(p) or 0 <= p <= 1):
            raise ValueError(f"p-values need to lie in [0, 1]; got {p}")
    tested = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, running = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(tested):
        running = max(running, (len(tested) - rank) * p_values[i])
        adjusted[i] = min(1.0, running)
    return adjusted


def verdict(
    difference: PairedDifference, p_adjusted: float, reference: str, relevant: float = RELEVANT
) -> str:
    """One comparison in words, for a reader who will read nothing else.

    A difference is claimed only below p = 0.05 after correction. Where none is claimed, the words say whether
    the interval excludes a relevant difference (then the two are level) or not (then too few seeds were run);
    "no evidence of a difference" alone would let a reader take the second for the first.

    Args:
        difference: Of the method to the reference.
        p_adjusted: Its p-value after correction for the other comparisons.
        reference: Name of the method compared with.
        relevant: Smallest difference that matters, as a share: 0.01 is one point.
    """
    if difference.n == 0:
        return f"no seed in common with {reference}: no statement possible"
    if difference.n == 1:
        return "one seed: no statement possible"
    if math.isnan(p_adjusted):
        raise ValueError(f"a difference over {difference.n} seeds needs its p-value; got NaN")
    if p_adjusted < SIGNIFICANCE:
        word = "better" if difference.mean > 0 else "worse"
        return f"{word} than {reference} by {_points(abs(difference.mean))} ({p_text(p_adjusted)})"
    if difference.wins == difference.losses == 0:
        return f"equal to {reference} in all {difference.n} seeds"
    none = f"no evidence of a difference from {reference} ({p_text(p_adjusted)})"
    if difference.low == difference.high:  # all seeds agree, but are too few
        return f"{none}: all {difference.n} seeds agree on {_signed(difference.mean)}, but they are too few"
    if -relevant < difference.low and difference.high < relevant:
        within = f"the 95 % interval stays within ±{_points(relevant)}"
        return f"level with {reference}: {within} ({p_text(p_adjusted)})"
    low, high = _signed(difference.low, unit=""), _signed(difference.high)
    return f"{none}; too few seeds to exclude a relevant one: {low} to {high} remain possible"


def compare(results: pd.DataFrame, references: Sequence[str] = REFERENCES) -> pd.DataFrame:
    """Every method against every reference that was run, setting by setting.

    A setting is one data set, training size and ψ, and one primary task and trunk where ``results`` has these
    columns. Runs without ψ (single-task) serve every ψ of their data set and size.

    Args:
        results: One row a run: data, train_size, psi, method, seed, test_accuracy in [0, 1]; further columns
            are ignored. ψ may be a number, a list, its text, or missing.
        references: Methods to compare with.

    Returns:
        One row a comparison, with the setting's columns, then method, reference, difference, low, high, p,
        p_holm (Holm over all comparisons with the same reference in the setting), wins, losses, ties, n and
        verdict. Empty, with these columns, where nothing can be compared.

    Raises:
        ValueError: if a column is missing, or a setting has two runs of one method and seed.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for setting, runs in settings(results):
        accuracies = _by_method(setting, runs)
        for reference in (name for name in references if name in accuracies):
            others = [name for name in accuracies if name != reference]
            differences = [paired_difference(accuracies[name], accuracies[reference]) for name in others]
            adjusted = holm([difference.p for difference in differences])
            for name, difference, p_holm in zip(others, differences, adjusted, strict=True):
                numbers = {**vars(difference)}
                row = {**setting, "method": name, "reference": reference, "difference": numbers.pop("mean")}
                row |= numbers | {"p_holm": p_holm, "verdict": verdict(difference, p_holm, reference)}
                rows.append(row)
    columns = [*setting_columns(results), "psi", "method", "reference", "difference", "low", "high", "p"]
    columns += ["p_holm", "wins", "losses", "ties", "n", "verdict"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"psi": object})


def settings(results: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The runs that may be compared with each other, setting by setting, in order of appearance.

    Returns:
        Pairs of the setting (data, train_size, ..., psi) and its runs, those without ψ included.

    Raises:
        ValueError: if a column is missing.
    """
    needed = {"data", "train_size", "psi", "method", "seed", "test_accuracy"}
    if missing := sorted(needed - set(results.columns)):
        raise ValueError(f"results need the columns {', '.join(sorted(needed))}; got none named {missing[0]}")
    columns = setting_columns(results)
    found: list[tuple[dict[str, Any], pd.DataFrame]] = []
    for key, runs in results.groupby(columns, dropna=False, sort=False):
        psis = [parse_psi(value) for value in runs["psi"]]
        distinct: list[Psi] = list(dict.fromkeys(psi for psi in psis if psi is not None))
        values = key if isinstance(key, tuple) else (key,)
        place = {name: _plain(value) for name, value in zip(columns, values, strict=True)}
        for psi in distinct or [None]:
            chosen = [own is None or own == psi for own in psis]
            found.append(({**place, "psi": psi}, runs.loc[chosen]))
    return found


def setting_columns(results: pd.DataFrame) -> list[str]:
    """The columns that tell settings apart, ψ left out."""
    return [name for name in ("data", "primary", "trunk", "train_size") if name in results.columns]


def parse_psi(value: object) -> Psi:
    """ψ from a number, a list, its text in a CSV file or a missing value; equal entries become one number.

    Example:
        >>> parse_psi([5, 5, 5]), parse_psi("5.0"), parse_psi("[2, 2, 1]"), parse_psi(None)
        (5, 5, (2, 2, 1), None)
    """
    if isinstance(value, str):
        text = value.strip().replace("(", "[").replace(")", "]")
        try:
            value = json.loads(text) if text not in ("", "None", "nan") else None
        except json.JSONDecodeError as error:
            raise ValueError(f"psi needs to be a number or a list of numbers; got {value!r}") from error
    if value is None:
        return None
    if isinstance(value, Sequence) or (hasattr(value, "__len__") and isinstance(value, Iterable)):
        counts = tuple(int(count) for count in value)
        return counts[0] if len(set(counts)) == 1 else counts or None
    number = float(value)  # type: ignore[arg-type]
    return None if math.isnan(number) else int(number)


def p_text(p: float) -> str:
    """A p-value as it is read aloud: "p = 0.012", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _by_method(setting: Mapping[str, Any], runs: pd.DataFrame) -> dict[str, dict[int, float]]:
    accuracies: dict[str, dict[int, float]] = {}
    for method, seed, accuracy in zip(runs["method"], runs["seed"], runs["test_accuracy"], strict=True):
        of_method = accuracies.setdefault(str(method), {})
        if int(seed) in of_method:
            place = ", ".join(f"{name} {value}" for name, value in setting.items())
            raise ValueError(
                f"a setting needs one run a method and seed; got two of {method} with seed {seed} ({place}): "
                "tell variants apart in the method column"
            )
        of_method[int(seed)] = float(accuracy)
    return accuracies


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _points(share: float) -> str:
    points = round(100 * share, 1) if share >= 0.0005 else round(100 * share, 2)
    return f"{points:g} point{'s' if points != 1 else ''}"


def _signed(share: float, unit: str = " points") -> str:
    points = round(100 * share, 1)
    return (f"{points:+.1f}".replace("-", "−") if points else "0.0") + unit
