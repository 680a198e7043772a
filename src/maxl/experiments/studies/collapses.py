"""Runs that ended far below the others of their method: one of them moves a mean by more than any method does.

A learning rate that is tuned on a few seeds can be one at which training now and then collapses to a constant answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from maxl.experiments.runs.measures import Measure

_FEWEST = 3  # runs, of which two say where the third should be
_LEAST = 0.15  # of a measure that is at most 1, where runs agree more closely than that
_SAMPLES = 10  # that make up as much, where a measure counts them: luck with some of a handful is none
_SCATTERS = 10.0  # as many of the others' standard deviation, where they do not
_NORMAL = 1.4826  # standard deviations of normal values in a median absolute deviation


def collapsed(values: Mapping[int, float], samples: int | None = None) -> dict[int, float]:
    """Those of a method's runs that lie far below the upper half of them, by seed.

    Far is at least 0.15, ten samples, and ten times the scatter of that half, by its median absolute deviation. Where all
    collapse none is found, nor of fewer than three runs.

    Args:
        values: A measure of which more is better and 1 is most, by seed.
        samples: On which it was measured, where it counts them.
    """
    if len(values) < _FEWEST:
        return {}
    upper = sorted(values.values())[len(values) // 2 :]
    middle = statistics.median(upper)
    scatter = _NORMAL * statistics.median(abs(value - middle) for value in upper)
    far = middle - max(_LEAST, _SAMPLES / samples if samples else 0.0, _SCATTERS * scatter)
    return {seed: value for seed, value in values.items() if value <= far}


def standing(
    values: Mapping[str, Mapping[int, float]], lost: Mapping[str, Mapping[int, float]]
) -> dict[str, dict[int, float]]:
    """By method and seed, the runs that did not collapse; ``lost`` are those that did (``of_methods``)."""
    return {
        method: {seed: value for seed, value in found.items() if seed not in lost.get(method, {})}
        for method, found in values.items()
    }


def collapses_text(
    method: str, values: Mapping[int, float], lost: Mapping[int, float], measure: Measure
) -> str:
    """How many of a method's runs collapsed, and to what: "1 of 10 runs of single collapsed (−0.0050; the others have 0.7800)".

    Args:
        method: Its name.
        values: Of all its runs, by seed.
        lost: Of those that collapsed; some have.
        measure: Of both.
    """
    kept = statistics.median(value for seed, value in values.items() if seed not in lost)
    ends = dict.fromkeys((min(lost.values()), max(lost.values())))
    told = " to ".join(measure.text(value).replace("-", "−") for value in ends)
    return f"{len(lost)} of {len(values)} runs of {method} collapsed ({told}; the others have {measure.text(kept)})"


def of_methods(
    values: Mapping[str, Mapping[int, float]], samples: int | None = None
) -> dict[str, dict[int, float]]:
    """The collapsed runs of each method that has some; arguments as of ``collapsed``."""
    found = {method: collapsed(of_method, samples) for method, of_method in values.items()}
    return {method: lost for method, lost in found.items() if lost}
