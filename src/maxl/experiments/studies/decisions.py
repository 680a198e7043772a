"""What advice is decided by: pure functions of results, and of validation results alone until the very end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxl.experiments.runs.measures import PROBE, Measure
from maxl.experiments.runs.methods import LEARNED_METHODS
from maxl.experiments.studies.intervals import PairedDifference, paired_differences, seeds_to_detect
from maxl.experiments.studies.resolution import excludes, lacking, shows
from maxl.experiments.studies.statistics import RELEVANT, minor

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "single"
# What each source of labels has to beat for its labels' content to be what helps.
CONTROL_OF = {
    "kmeans": "kmeans-shuffled",
    "prototypes": "prototypes-shuffled",
    "human": "human-shuffled",
    **dict.fromkeys(LEARNED_METHODS, "uniform"),
}
# Compared with, never candidates.
_CONTROLS = frozenset(("kmeans-shuffled", "prototypes-shuffled", "human-shuffled", "random"))

Values = Mapping[str, Mapping[int, float]]  # of a measure, by method, then by seed


def blind(results: pd.DataFrame) -> pd.DataFrame:
    """Results without anything that was measured on the test part: what decisions are made from."""
    return results[
        [name for name in results.columns if not name.startswith("test_") and name != "worst_group"]
    ]


def by_method(results: pd.DataFrame, key: str) -> dict[str, dict[int, float]]:
    """A column of results by method and seed; runs without a value are left out."""
    values: dict[str, dict[int, float]] = {}
    for method, seed, value in zip(results["method"], results["seed"], results[key], strict=True):
        if value is not None and math.isfinite(float(value)):
            values.setdefault(str(method), {})[int(seed)] = float(value)
    return values


def diverged(values: Values, methods: Sequence[str], seeds: Sequence[int]) -> dict[str, list[int]]:
    """The seeds of which a method has no value, as its runs diverged; of methods that have such."""
    lost = {name: [seed for seed in seeds if seed not in values.get(name, {})] for name in methods}
    return {name: found for name, found in lost.items() if found}


def best_rate(values: Mapping[float, Sequence[float]], seeds: int) -> float:
    """The learning rate with the highest mean among those that no seed diverged with; the smallest where some tie.

    Args:
        values: Validation results of each rate.
        seeds: How many each should have.

    Raises:
        ValueError: if every rate diverged with a seed.
    """
    whole = {rate: found for rate, found in values.items() if len(found) == seeds}
    if not whole:
        raise ValueError(
            "single-task training needs a learning rate with which it does not diverge; none of "
            f"{', '.join(f'{rate:g}' for rate in sorted(values))} is one: lower --learning-rate"
        )
    return max(sorted(whole), key=lambda rate: sum(whole[rate]) / seeds)


def further_rate(rates: Sequence[float], best: float) -> float | None:
    """The next rate to try: beyond the best one where that is the lowest or highest; None where it is neither."""
    low, high = min(rates), max(rates)
    return rounded(low / 3) if best == low else rounded(high * 3) if best == high else None


def rounded(rate: float) -> float:
    """To three digits, as a flag would say it."""
    return float(f"{rate:.3g}")


@dataclass(frozen=True)
class Screened:
    """What validation results say of every method against the baseline.

    Attributes:
        differences: By method, with simultaneous intervals.
        samples: Of the validation part, where the task's measures count them.
    """

    differences: Mapping[str, PairedDifference]
    samples: int | None = None

    @property
    def open(self) -> bool:
        """Whether some method may help by a relevant amount and is not shown to help."""
        return any(not d.low > 0 and not d.high < RELEVANT for d in self._candidates.values())

    @property
    def no_effect(self) -> bool:
        """Whether no method can help by a relevant amount, which few samples cannot say however many seeds agree."""
        return excludes(self.samples, RELEVANT) and all(
            d.high < RELEVANT and not d.low > 0 for d in self._candidates.values()
        )

    @property
    def candidate(self) -> str:
        """The method with the largest mean difference, controls left out; the first, and so the cheapest, of equals."""
        return max(self._candidates, key=lambda name: self._candidates[name].mean)

    @property
    def _candidates(self) -> dict[str, PairedDifference]:
        return {name: d for name, d in self.differences.items() if name not in _CONTROLS}

    def seeds_needed(self, most: int, fewest: int) -> int:
        """Seeds that find a relevant difference of the candidate with 80 % power, by the spread seen here."""
        spread = self.differences[self.candidate].spread
        return max(fewest, seeds_to_detect(RELEVANT, spread, most=most)) if spread > 0 else fewest


def screen(values: Values, samples: int | None = None) -> Screened:
    """Every method against the baseline; ``samples`` as of ``Screened``.

    Raises:
        ValueError: if the baseline, or every other method, has diverged.
    """
    others = [name for name in values if name != BASELINE]
    if BASELINE not in values or not set(others) - _CONTROLS:
        raise ValueError(
            "advice needs single-task training and another method that do not diverge: lower --learning-rate"
        )
    pairs = [(values[name], values[BASELINE]) for name in others]
    return Screened(dict(zip(others, paired_differences(pairs), strict=True)), samples)


def judge(difference: PairedDifference, samples: int | None = None, relevant: float = RELEVANT) -> str:
    """The verdict on a final comparison: "helps", "does not help" or "cannot tell".

    It helps where the interval is above zero; it does not where the interval excludes a relevant gain, 1 point. Where
    ``samples`` says how many the test part has, they have to be enough to show a gain, or to exclude one (``resolution``).
    """
    if difference.low > 0:
        return "helps" if shows(samples, difference.mean) else "cannot tell"
    return "does not help" if difference.high < relevant and excludes(samples, relevant) else "cannot tell"


def span(difference: PairedDifference, measure: Measure) -> str:
    """A difference with its interval, where it has one: "+3.0 points (+2.1 to +3.9 points)"."""
    if difference.n == 0:
        return "no seed in common"
    size = measure.signed_text(difference.mean)
    if math.isnan(difference.low):
        return size
    return f"{size} ({end_text(difference.low, measure, unit=False)} to {end_text(difference.high, measure)})"


def end_text(end: float, measure: Measure, *, unit: bool = True) -> str:
    """An interval's end, with as many digits as keep it on its side of no difference and of a relevant one."""
    text = measure.signed_text(end, unit=unit)
    if not measure.points or not math.isfinite(end):
        return text
    for digits in range(1, 5):
        shown = round(100 * end, digits)
        if all(_side(shown, 100 * edge) == _side(end, edge) for edge in (0.0, RELEVANT)):
            number = f"{shown:+.{digits}f}".replace("-", "−")
            return text if digits == 1 else number + (" points" if unit else "")
    return text


def _side(value: float, edge: float) -> int:
    """1 above the edge, −1 below it, 0 on it."""
    return (value > edge) - (value < edge)


def in_what(measure: Measure) -> str:
    """In what a gain is one, where that is not what the task is judged by."""
    return f" in the {measure.title}" if measure == PROBE else ""


def words(method: str, difference: PairedDifference, measure: Measure, samples: int | None = None) -> str:
    """The final comparison in a sentence."""
    told, size = judge(difference, samples), span(difference, measure)
    if difference.n == 0:
        return f"{method} cannot be told from {BASELINE}: no seed in common"
    if math.isnan(difference.low):
        agree = "1 seed says" if difference.n == 1 else f"{difference.n} seeds agree on"
        return f"{method} cannot be told from {BASELINE}: {agree} {size}, which is too few to claim it"
    interval, where = f"{size} over {difference.n} seeds", in_what(measure)
    if told == "helps":
        little = minor(difference.high, measure)
        return (
            f"{method} beats tuned single-task training{where} by {interval}{f', {little}' if little else ''}"
        )
    if told == "does not help":
        return (
            f"{method} does not help{where}: {interval} against tuned single-task training, less than "
            f"{measure.difference_text(RELEVANT)} of gain"
        )
    if samples is not None and judge(difference) != told:
        why = lacking(samples, difference.mean, measure.difference_text(RELEVANT))
        return f"cannot tell whether {method} helps{where}: {interval}, but {why}"
    found = difference.detectable
    power = (
        "" if math.isnan(found) else f"; so many seeds find {measure.difference_text(found)} with 80 % power"
    )
    return f"cannot tell whether {method} helps{where}: {interval}{power}"
