"""What a handful of seeds can and cannot tell: intervals, paired comparisons and their words.

Accuracies are shares in [0, 1]; verdicts on them speak in points (hundredths), those on another measure in its own
unit. All intervals describe the randomness
of training, that is, of the seeds; the test set is the same for all of them and its sampling is not included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maxl.experiments.runs.measures import ACCURACY, Measure, main_measure, task_of
from maxl.experiments.studies.variants import base_method, same_setting

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of every interval, or of all intervals together where they are simultaneous
SIGNIFICANCE = 0.05  # of every test, after correction
RELEVANT = 0.01  # the smallest difference in accuracy worth acting on, one point; of R² and mAP as well
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
        low, high: Its interval: 95 % for all ``comparisons`` together. NaN below two seeds, and where all seeds
            agree on a difference but are too few to claim it.
        p: Two-sided p-value of "no difference" by itself; NaN below two seeds.
        wins, losses, ties: Seeds in which a is above, below or equal to b.
        n: Seeds that both have.
        comparisons: How many differences are looked at together, this one included.
    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int
    n: int
    comparisons: int = 1

    @property
    def p_corrected(self) -> float:
        """p after Bonferroni's correction for all comparisons."""
        return min(1.0, self.comparisons * self.p) if not math.isnan(self.p) else math.nan

    @property
    def claimed(self) -> bool:
        """Whether the interval excludes zero, and so the corrected p is below 0.05; the two are one decision."""
        return self.low > 0 or self.high < 0

    @property
    def detectable(self) -> float:
        """Half the interval's width, with this spread the smallest mean that would have been claimed."""
        return (self.high - self.low) / 2


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


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], comparisons: int = 1
) -> PairedDifference:
    """a − b over the seeds in both: t interval and paired t-test.

    Where every seed gives the same difference, the t-test would divide by zero and report certainty. Such
    ties come from the coarse steps of an accuracy, so the exact sign-flip test answers instead: p = 2 / 2ⁿ,
    the smallest that n signs can give (and 1 where all differences are zero).

    Args:
        a, b: Seed to result.
        comparisons: How many differences are looked at together; widens the interval (Bonferroni).

    Raises:
        ValueError: if a result of a common seed is not finite, or there is no comparison.
    """
    from scipy import stats

    if comparisons < 1:
        raise ValueError(f"comparisons needs to be at least 1; got {comparisons}")
    seeds = sorted(set(a) & set(b))
    # Rounded far below any accuracy's step, so that equal differences stay equal in floating point.
    differences = [round(a[seed] - b[seed], 12) for seed in seeds]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    n = len(seeds)
    counts = (wins, losses, n - wins - losses, n, comparisons)
    if n == 0:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan, *counts)
    interval = mean_interval(differences, 1 - SIGNIFICANCE / comparisons)
    low, high = interval.low, interval.high
    if n == 1:
        p = math.nan
    elif len(set(differences)) == 1:
        p = 1.0 if differences[0] == 0 else 2.0 ** (1 - n)
        # The values that the sign-flip test does not reject: all of them, or this one alone.
        told = differences[0] == 0 or comparisons * p < SIGNIFICANCE
        low = high = differences[0] if told else math.nan
    else:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return PairedDifference(interval.mean, low, high, p, *counts)


def paired_differences(
    pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]],
) -> list[PairedDifference]:
    """``paired_difference`` of several pairs that are looked at together.

    The intervals hold all at once with 95 % or more, and each says what its corrected p says. Pairs without two
    common seeds are no comparison and do not count as one.
    """
    tested = sum(len(set(a) & set(b)) > 1 for a, b in pairs)
    return [paired_difference(a, b, max(1, tested)) for a, b in pairs]


def verdict(
    difference: PairedDifference,
    reference: str,
    relevant: float | None = RELEVANT,
    measure: Measure = ACCURACY,
) -> str:
    """One comparison in words, for a reader who will read nothing else.

    A difference is claimed where the interval excludes zero. Where none is claimed, the words say whether the
    interval excludes a relevant difference (then the two are level) or not (then too few seeds were run, and
    what they could have shown is said); "no evidence of a difference" alone would let a reader take the second
    for the first.

    Args:
        difference: Of the method to the reference.
        reference: Name of the method compared with.
        relevant: Smallest difference that matters, as a share: 0.01 is one point. None where nobody can say, such as
            of an error in units: then the two are never called level.
        measure: What the difference is one of; its direction says which of the two is better.
    """
    if difference.n == 0:
        return f"no seed in common with {reference}: no statement possible"
    if difference.n == 1:
        return "one seed: no statement possible"
    p = p_text(difference.p_corrected)
    if difference.claimed:
        word = "better" if (difference.mean > 0) == measure.higher_is_better else "worse"
        return f"{word} than {reference} by {measure.difference_text(abs(difference.mean))} ({p})"
    if difference.wins == difference.losses == 0:
        return f"equal to {reference} in all {difference.n} seeds"
    unknown = f"cannot tell whether different from {reference} ({p})"
    if math.isnan(difference.low):  # all seeds agree, but are too few
        agreed = measure.signed_text(difference.mean)
        return f"{unknown}: all {difference.n} seeds agree on {agreed}, but they are too few"
    widest = max(-difference.low, difference.high)
    if relevant is not None and widest < relevant:
        return f"level with {reference}: within ±{measure.difference_text(_rounded_up(widest))} ({p})"
    low, high = measure.signed_text(difference.low, unit=False), measure.signed_text(difference.high)
    detectable = difference.detectable if relevant is None else _rounded_up(difference.detectable)
    shown = measure.difference_text(detectable)
    return f"{unknown}: {low} to {high} remain possible; {difference.n} seeds could have shown no less than {shown}"


def compare(
    results: pd.DataFrame, references: Sequence[str] = REFERENCES, measure: Measure | None = None
) -> pd.DataFrame:
    """Every method against every reference that was run, setting by setting.

    A setting is one data set, training size and ψ, and one primary task and trunk where ``results`` has these
    columns. Runs without ψ (single-task) serve every ψ of their data set and size. Variants of a method (a grid)
    are compared with the variants of a reference that have the same values of all fields that matter to both.
    Where the best of all references is another variant, a method that is none is compared with that one too.

    Args:
        results: One row a run: data, train_size, psi, method, seed, test_accuracy in [0, 1], or what runs of its task
            are compared by; further columns are ignored. ψ may be a number, a list, its text, or missing. A method
            may be a variant's name.
        references: Methods to compare with.
        measure: What to compare by, a column test_NAME; by default accuracy, R² or mAP, as the setting's task has it.

    Returns:
        One row a comparison, with the setting's columns, then method, reference, against ("same setting" or
        "best control"), difference, its simultaneous 95 % interval low to high, p (of this comparison alone),
        p_corrected, comparisons (how many interval and p_corrected are corrected for: all with variants of the
        same reference in the setting; with the best control all that it was the best of), wins, losses, ties, n
        and verdict. Empty, with these columns, where nothing can be compared.

    Raises:
        ValueError: if a column is missing, or a setting has two runs of one method and seed.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for setting, runs in settings(results):
        by = measure or measure_of(runs)
        values = _by_method(setting, runs, by)
        for reference in references:
            found = _same_setting(values, reference)
            rows += [setting | _row(*compared, "same setting", by) for compared in found]
        found = _best_control(values, references, by)
        rows += [setting | _row(*compared, "best control", by) for compared in found]
    columns = [*setting_columns(results), "psi", "method", "reference", "against", "difference"]
    columns += ["low", "high", "p", "p_corrected", "comparisons", "wins", "losses", "ties", "n", "verdict"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"psi": object})


_Compared = tuple[str, str, PairedDifference]  # method, reference
_Values = Mapping[str, Mapping[int, float]]  # of the measure, by method, then by seed


def measure_of(runs: pd.DataFrame) -> Measure:
    """What runs of one setting, and so of one task, are compared by."""
    return main_measure(task_of(dict(runs.iloc[0])))


def _same_setting(values: _Values, reference: str) -> list[_Compared]:
    """Every method against the variants of a reference in its own setting."""
    variants = [name for name in values if base_method(name) == reference]
    pairs = [(name, other) for other in variants for name in values if same_setting(name, other)]
    differences = paired_differences([(values[name], values[other]) for name, other in pairs])
    return [(*pair, difference) for pair, difference in zip(pairs, differences, strict=True)]


def _best_control(values: _Values, references: Sequence[str], measure: Measure) -> list[_Compared]:
    """The methods that are no reference against the best variant of all, where it is of another setting.

    The best was chosen by the results compared, so the correction is for every one that it was chosen from.
    """
    controls = [name for name in values if base_method(name) in references]
    others = [name for name in values if name not in controls]
    if not controls:
        return []
    sign = 1 if measure.higher_is_better else -1
    best = max(controls, key=lambda name: sign * sum(values[name].values()) / len(values[name]))
    count = len(others) * len(controls)
    return [
        (name, best, paired_difference(values[name], values[best], count))
        for name in others
        if not same_setting(name, best)
    ]


def _row(
    method: str, reference: str, difference: PairedDifference, against: str, measure: Measure
) -> dict[str, Any]:
    named = reference if against == "same setting" else f"{reference} (the best control)"
    numbers = {**vars(difference)}
    row = {"method": method, "reference": reference, "against": against, "difference": numbers.pop("mean")}
    return (
        row
        | numbers
        | {"p_corrected": difference.p_corrected, "verdict": _verdict(difference, named, measure)}
    )


def _verdict(difference: PairedDifference, named: str, measure: Measure) -> str:
    share = (measure.low, measure.high) == (0, 1) or measure.high == 1  # R² has no lower end
    return verdict(difference, named, RELEVANT if share else None, measure)


def settings(results: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The runs that may be compared with each other, setting by setting, in order of appearance.

    Returns:
        Pairs of the setting (data, train_size, ..., psi) and its runs, those without ψ included.

    Raises:
        ValueError: if a column is missing.
    """
    tasks = {task_of({"task": task}) for task in results["task"]} if "task" in results else {"classification"}
    needed = {"data", "train_size", "psi", "method", "seed", *(main_measure(task).key for task in tasks)}
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
    several = "task" in results and results["task"].nunique() > 1
    names = ("data", "primary", *["task"] * several, "trunk", "train_size")
    return [name for name in names if name in results.columns]


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


def intervals_text(comparisons: Iterable[int]) -> str:
    """What the intervals of differences are: "95 % simultaneous intervals over 3 comparisons".

    Args:
        comparisons: How many each of the intervals is corrected for.
    """
    counts = sorted(set(comparisons))
    if counts == [1]:
        return "95 % interval of one comparison"
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"95 % simultaneous intervals over {many} comparisons"


def p_text(p: float) -> str:
    """A p-value as it is read aloud: "p = 0.012", "p < 0.001"."""
    if SIGNIFICANCE - 0.0005 <= p < SIGNIFICANCE:
        p = SIGNIFICANCE - 0.001  # rounding is not to carry it over the line
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _by_method(
    setting: Mapping[str, Any], runs: pd.DataFrame, measure: Measure
) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for method, seed, value in zip(runs["method"], runs["seed"], runs[measure.key], strict=True):
        of_method = values.setdefault(str(method), {})
        if int(seed) in of_method:
            place = ", ".join(f"{name} {value}" for name, value in setting.items())
            raise ValueError(
                f"a setting needs one run a method and seed; got two of {method} with seed {seed} ({place}): "
                "tell variants apart in the method column"
            )
        of_method[int(seed)] = float(value)
    return values


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _rounded_up(share: float) -> float:
    """To a tenth of a point, or a hundredth where it is less than that."""
    step = 0.001 if share > 0.001 else 0.0001
    return math.ceil(share / step - 1e-6) * step
