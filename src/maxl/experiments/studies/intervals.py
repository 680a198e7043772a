"""Means of a handful of seeds, differences paired by seed, and what a study of that size can find.

All intervals describe the randomness of training, that is, of the seeds; the test set is the same for all of them and its
sampling is not included.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

LEVEL = 0.95  # of every interval, or of all intervals together where they are simultaneous
SIGNIFICANCE = 0.05  # of every test, after correction
POWER = 0.8  # with which a study is said to find a difference


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
            agree on one value, also on no difference, but are too few to exclude any other.
        p: Two-sided p-value of "no difference" by itself; NaN below two seeds.
        wins, losses, ties: Seeds in which a is above, below or equal to b.
        n: Seeds that both have.
        comparisons: How many differences are looked at together, this one included.
        spread: Standard deviation of the differences over seeds; NaN below two seeds.
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
    spread: float = math.nan

    @property
    def p_corrected(self) -> float:
        """p after Bonferroni's correction for all comparisons."""
        return min(1.0, self.comparisons * self.p) if not math.isnan(self.p) else math.nan

    @property
    def claimed(self) -> bool:
        """Whether the interval excludes zero, and so the corrected p is below 0.05; the two are one decision."""
        return self.low > 0 or self.high < 0

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def detectable(self) -> float:
        """The smallest difference that so many seeds of this spread would have found with 80 % power; see below.

        NaN where nothing is known of the spread: below two seeds, and where all seeds agree.
        """
        return smallest_detectable(self.spread, self.n, self.comparisons)


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
    spread = statistics.stdev(differences) if n > 1 else math.nan
    low, high = interval.low, interval.high
    if n == 1:
        p = math.nan
    elif len(set(differences)) == 1:
        p = 1.0 if differences[0] == 0 else 2.0 ** (1 - n)
        # The values that the sign-flip test does not reject: all of them, or this one alone.
        low = high = differences[0] if comparisons * 2.0 ** (1 - n) < SIGNIFICANCE else math.nan
    else:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return PairedDifference(interval.mean, low, high, p, *counts, spread)


def paired_differences(
    pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]],
) -> list[PairedDifference]:
    """``paired_difference`` of several pairs that are looked at together.

    The intervals hold all at once with 95 % or more, and each says what its corrected p says. Pairs without two
    common seeds are no comparison and do not count as one.
    """
    tested = sum(len(set(a) & set(b)) > 1 for a, b in pairs)
    return [paired_difference(a, b, max(1, tested)) for a, b in pairs]


def smallest_detectable(spread: float, n: int, comparisons: int = 1, power: float = POWER) -> float:
    """The smallest true mean difference that a paired t-test finds with some power.

    The power at a difference δ is P(abs(T) > t), with t the critical value at level 0.05 / comparisons and T of the
    noncentral t distribution with n − 1 degrees of freedom and noncentrality δ √n / spread.

    Args:
        spread: Standard deviation of the differences over seeds; NaN or 0 where it is not known.
        n: Seeds.
        comparisons: As for ``paired_difference``.
        power: In (0, 1).

    Returns:
        δ ≥ 0, in units of the spread's; NaN where the spread is not known, or below two seeds.
    """
    if n < 2 or not spread > 0:
        return math.nan
    return spread / math.sqrt(n) * _noncentrality(n, comparisons, power)


def seeds_to_detect(
    difference: float, spread: float, comparisons: int = 1, *, most: int, power: float = POWER
) -> int:
    """The fewest seeds, from 3 to ``most``, with which a difference would be found; ``most`` where none suffices."""
    low, high = 3, max(3, most)  # what is found falls with the number of seeds
    while low < high:
        middle = (low + high) // 2
        if smallest_detectable(spread, middle, comparisons, power) > difference:
            low = middle + 1
        else:
            high = middle
    return min(low, most)


@cache
def _noncentrality(n: int, comparisons: int, power: float) -> float:
    from scipy import integrate, optimize, stats

    degrees = n - 1
    critical = float(stats.t.ppf(1 - SIGNIFICANCE / comparisons / 2, degrees))

    def power_at(shift: float) -> float:
        # Over the sample's standard deviation, of which the true one is 1: stable where scipy's noncentral t is not.
        def density(s: float) -> float:
            beyond = stats.norm.sf(critical * s - shift) + stats.norm.cdf(-critical * s - shift)
            return float(beyond * 2 * degrees * s * stats.chi2.pdf(degrees * s * s, degrees))

        top = 1 + 10 / math.sqrt(degrees)
        return float(integrate.quad(density, 0, top, points=[min(top, shift / critical)], limit=200)[0])

    high = critical + 1
    while power_at(high) < power:
        high *= 2
    return float(optimize.brentq(lambda shift: power_at(shift) - power, 0, high, xtol=1e-6))


def interval_text(interval: Interval, digits: int = 1, unit: str = "") -> str:
    """ "81.2 (80.1 to 82.3)"; the mean alone where there is one value."""
    text = f"{interval.mean:.{digits}f}{unit}"
    if interval.n == 1:
        return text
    return f"{text} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
