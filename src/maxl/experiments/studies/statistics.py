"""What a handful of seeds can and cannot tell: methods compared setting by setting, and words for it.

Accuracies are shares in [0, 1]; verdicts on them speak in points (hundredths), those on another measure in its own
unit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maxl.experiments.runs.measures import ACCURACY, Measure, main_measure, task_of
from maxl.experiments.studies.intervals import (
    POWER,
    SIGNIFICANCE,
    Interval,
    PairedDifference,
    interval_text,
    paired_difference,
    paired_differences,
)
from maxl.experiments.studies.variants import base_method, same_setting

if TYPE_CHECKING:
    import pandas as pd

RELEVANT = 0.01  # the smallest difference in accuracy worth acting on, one point; of R² and mAP as well
REFERENCES = (
    *("single", "random", "uniform", "frozen"),
    *("kmeans-shuffled", "contrastive", "prototypes-shuffled", "human-shuffled", "fine-tuned"),
)

Psi = int | tuple[int, ...] | None
_RANKED = 0.6  # mean area under the ROC curve above which classes are told apart


def minor(high: float | None, measure: Measure) -> str:
    """That a gain is too little to act on, where even the upper end of its interval says so; "" otherwise."""
    if high is None or not high < RELEVANT:
        return ""
    return f"less than {measure.difference_text(RELEVANT)}, too little to act on"


def constant_answer(measure: Measure, known: Iterable[float | None]) -> float | None:
    """What an answer that is the same for all samples gets by a measure; None where that is not known.

    Args:
        measure: Accuracy or R²; of others nothing is known.
        known: ``test_constant`` of runs, of which older ones have none.
    """
    if measure.name == "r2":
        return 0.0
    found = [float(value) for value in known if value is not None and math.isfinite(value)]
    return max(found, default=None) if measure.name == "accuracy" else None


def nothing_learned(best: float, constant: float | None, aurocs: Iterable[float | None] = ()) -> bool:
    """Whether the highest mean is hardly above what one answer for all samples gets: by a point, or a tenth of the rest.

    Not so where classes of very different sizes are told apart all the same, though the rarer is seldom the likeliest.

    Args:
        best: The highest mean accuracy of a method.
        constant: What one answer for all samples gets; None where that says nothing.
        aurocs: Of the runs, where there are such.
    """
    ranked = [value for value in aurocs if value is not None and not math.isnan(value)]
    if ranked and sum(ranked) / len(ranked) > _RANKED:
        return False
    return constant is not None and best < constant + min(RELEVANT, (1 - constant) / 10)


def nothing_learned_text(constant: float, measure: Measure) -> str:
    """That, as a sentence."""
    return f"Nothing is learned yet: no method gets more than one answer for all samples gets ({measure.text(constant)})."


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
        return f"tied with {reference}: equal in all {difference.n} seeds"
    unknown = f"cannot tell whether different from {reference} ({p})"
    if math.isnan(difference.low):  # all seeds agree, but are too few
        agreed = measure.signed_text(difference.mean)
        return f"{unknown}: all {difference.n} seeds agree on {agreed}, but they are too few"
    widest = max(-difference.low, difference.high)
    if relevant is not None and widest < relevant:
        return f"level with {reference}: within ±{measure.difference_text(rounded_up(widest))} ({p})"
    low, high = measure.signed_text(difference.low, unit=False), measure.signed_text(difference.high)
    remaining = f"{unknown}: {low} to {high} remain possible"
    if math.isnan(difference.detectable):
        return remaining
    detectable = difference.detectable if relevant is None else rounded_up(difference.detectable)
    shown = measure.difference_text(detectable)
    return f"{remaining}; {difference.n} seeds find {shown} or more with {100 * POWER:.0f} % power"


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
        same reference in the setting; with the best control all that it was the best of), wins, losses, ties, n,
        spread (standard deviation of the paired differences), detectable (the smallest difference that so many seeds
        find with 80 % power at the corrected level) and verdict. Empty, with these columns, where nothing can be compared.

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
    columns += ["low", "high", "p", "p_corrected", "comparisons", "wins", "losses", "ties", "n", "spread"]
    columns += ["detectable", "verdict"]
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


def best_control(
    values: Mapping[str, Mapping[int, float]], references: Sequence[str], measure: Measure
) -> tuple[str | None, int]:
    """The reference, or variant of one, with the best mean; None where there is none.

    Args:
        values: Of the measure, by method, then by seed.
        references: Names of methods.
        measure: Says which mean is the best.

    Returns:
        Its name, and for how many comparisons one with it has to be corrected: for it was chosen by the results that are
        compared, every other method with every reference.
    """
    controls = [name for name in values if base_method(name) in references]
    sign = 1 if measure.higher_is_better else -1
    best = max(controls, key=lambda name: sign * sum(values[name].values()) / len(values[name]), default=None)
    return best, len(controls) * max(1, len(values) - len(controls))


def _best_control(values: _Values, references: Sequence[str], measure: Measure) -> list[_Compared]:
    """The methods that are no reference against the best variant of all, where it is of another setting."""
    best, count = best_control(values, references, measure)
    if best is None:
        return []
    return [
        (name, best, paired_difference(values[name], values[best], count))
        for name in values
        if base_method(name) not in references and not same_setting(name, best)
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
        | {
            "p_corrected": difference.p_corrected,
            "detectable": difference.detectable,
            "verdict": _verdict(difference, named, measure),
        }
    )


def _verdict(difference: PairedDifference, named: str, measure: Measure) -> str:
    share = (measure.low, measure.high) == (0, 1) or measure.high == 1  # R² has no lower end
    return verdict(difference, named, RELEVANT if share else None, measure)


def headline(intervals: Mapping[str, Interval], comparisons: pd.DataFrame, measure: Measure) -> str:
    """Which method has the highest mean, if that is more than chance; a tie is called one.

    Args:
        intervals: Of each method, values times the measure's scale. Higher is better for whatever a task is compared by.
        comparisons: What ``compare`` gives of the same runs.
        measure: What they are values of.
    """
    digits = 1 if measure.points else 3
    best = best_methods({label: interval.mean for label, interval in intervals.items()})
    of_best = interval_text(intervals[best[0]], digits, measure.unit)
    if len(intervals) == 1:
        return f"{best[0]}: test {measure.title} {of_best}."
    shown = [_shown_below(label, comparisons) for label in best]
    below = set.intersection(*shown)
    # At other settings only the best control is compared with.
    beside = _beside(best, comparisons) | {a for a in intervals if any(same_setting(a, b) for b in best)}
    # Means of other seeds are no pairs: a method may be shown to beat another and not have the highest mean.
    differ = bool(((comparisons["low"] > 0) | (comparisons["high"] < 0)).any())
    if intervals.keys() - set(best) <= beside and not below and not differ:
        lowest = min(interval.mean for interval in intervals.values())
        highest = intervals[best[0]].mean
        means = "accuracies lie" if measure.title == ACCURACY.title else f"{measure.title} lies"
        return (
            f"No method stands out: mean test {means} between {lowest:.{digits}f} and {highest:.{digits}f}{measure.unit}, "
            "and none is shown to differ from the highest."
        )
    rest = [label for label in intervals if label in beside - below and label not in best]
    unsure = f"; not shown to be better than {', '.join(rest)}" if rest else ""
    if len(best) > 1:
        mean = f"{intervals[best[0]].mean:.{digits}f}{measure.unit}"
        return f"Highest mean test {measure.title}: a tie of {' and '.join(best)} at {mean}{unsure}."
    return f"Highest mean test {measure.title}: {best[0]} with {of_best}{unsure}."


def _beside(labels: Sequence[str], table: pd.DataFrame) -> set[str]:
    """What some methods were compared with."""
    found = set(table.loc[table["method"].isin(labels), "reference"])
    return found | set(table.loc[table["reference"].isin(labels), "method"])


def best_methods(means: Mapping[str, float]) -> list[str]:
    """The methods with the highest mean: several where they tie, to the rounding of sums."""
    highest = max(means.values())
    return [label for label, mean in means.items() if math.isclose(mean, highest, rel_tol=1e-9)]


def _shown_below(label: str, table: pd.DataFrame) -> set[str]:
    """The methods that one is shown to beat."""
    below = set(table.loc[(table["method"] == label) & (table["low"] > 0), "reference"])
    return below | set(table.loc[(table["reference"] == label) & (table["high"] < 0), "method"])


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


def rounded_up(share: float) -> float:
    """To a tenth of a point, or a hundredth where it is less than that."""
    step = 0.001 if share > 0.001 else 0.0001
    return math.ceil(share / step - 1e-6) * step
