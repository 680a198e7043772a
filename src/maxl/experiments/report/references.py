"""What methods are compared with in a setting, and which of several gains is the one to go by."""

from __future__ import annotations

from typing import Any

from maxl.experiments.report.runs import Setting
from maxl.experiments.studies.intervals import paired_difference
from maxl.experiments.studies.statistics import REFERENCES, best_control
from maxl.experiments.studies.variants import base_method, same_setting

CONTROLS = tuple(name for name in REFERENCES if name != "single")


def reference_of(setting: Setting) -> str | None:
    """What the methods are compared with: single-task training, or the first control where that was not run.

    Of several variants the one with the highest mean.
    """
    for name in REFERENCES:
        found = [label for label in setting.methods if base_method(label) == name]
        if found:
            return max(found, key=lambda label: mean(setting, label))
    return None


def values(setting: Setting) -> dict[str, dict[int, float]]:
    """What runs are compared by, by method and seed."""
    key = setting.measure.key
    return {
        label: {run.seed: float(run.summary[key]) for run in runs} for label, runs in setting.methods.items()
    }


def mean(setting: Setting, label: str) -> float:
    """Of what a method's runs are compared by."""
    results = values(setting)[label]
    return sum(results.values()) / len(results)


def rival(setting: Setting, method: str) -> dict[str, Any] | None:
    """How a method compares with the best control where that is at another setting, or is its own better variant; None
    where it is shown to beat that, or there is none."""
    found = values(setting)
    best, chosen_from = best_control(found, REFERENCES, setting.measure)
    if best is None or best == method or same_setting(method, best):
        return None
    difference = paired_difference(found[method], found[best], chosen_from)
    row = {"method": method, "reference": best, **vars(difference), "difference": difference.mean}
    return None if difference.low > 0 else row


def against(setting: Setting, reference: str) -> Any:
    """The comparisons with a reference at the same setting; the reference's own variants among the methods."""
    table = setting.comparisons
    same = table[table["against"] == "same setting"]
    return same[same["reference"].map(base_method) == base_method(reference)]


def unbeaten_controls(setting: Setting, method: str) -> list[str]:
    """The controls, as they are labelled, that a method was compared with and is not shown to beat."""
    table = setting.comparisons
    mine = table[(table["method"] == method) & (table["against"] == "same setting")]
    mine = mine[mine["reference"].map(base_method).isin(CONTROLS)]
    return [str(name) for name, low in zip(mine["reference"], mine["low"], strict=True) if not low > 0]


def largest(setting: Setting, better: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest gain, by the seeds that all of them have, where there are such."""
    found = values(setting)
    pairs = [(found[row["method"]], found[row["reference"]]) for row in better]
    common = set.intersection(*(a.keys() & b.keys() for a, b in pairs))
    gains = [sum(a[seed] - b[seed] for seed in common) for a, b in pairs]
    if not common:
        return max(better, key=lambda row: float(row["difference"]))
    return better[max(range(len(better)), key=gains.__getitem__)]
