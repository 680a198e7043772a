"""Phrases of a verdict: what is compared, by how much, and with what is left open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from maxl.experiments.report.labels import informative, labelled
from maxl.experiments.report.runs import Setting, size_text
from maxl.experiments.runs.measures import Measure
from maxl.experiments.runs.methods import LEARNED_METHODS
from maxl.experiments.studies.decisions import end_text
from maxl.experiments.studies.statistics import RELEVANT, intervals_text
from maxl.experiments.studies.variants import base_method


def named(label: str) -> str:
    """A reference as a reader knows it."""
    return "single-task training" if label == "single" else label


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def none_gains(count: int, measure: Measure) -> str:
    """That no method gains enough to count, up to what it is a gain on."""
    who = "the other method does not gain" if count == 1 else f"none of {count} methods gains"
    return f"{who} {measure.difference_text(RELEVANT)}"


def better_than(row: dict[str, Any], measure: Measure) -> str:
    """ "better than single-task training by 2 points"."""
    return f"better than {named(str(row['reference']))} by {measure.difference_text(abs(row['difference']))}"


def worse_than(rows: Sequence[dict[str, Any]], measure: Measure) -> str:
    """Which methods are worse, each than its own reference: "a is worse than single-task training by 2 points, b by 1 point"."""
    told, last = [], None
    for row in rows:
        reference = named(str(row["reference"]))
        than = "" if reference == last else f"{'is ' if last is None else ''}worse than {reference} "
        told.append(f"{row['method']} {than}by {measure.difference_text(-row['difference'])}")
        last = reference
    return ", ".join(told)


def interval(row: dict[str, Any], measure: Measure) -> str:
    """One difference with its interval, and of how many seeds it is."""
    low, high = (end_text(row[end], measure, unit=False) for end in ("low", "high"))
    return (
        f"{measure.signed_text(row['difference'])} ({low} to {high}), "
        f"{intervals_text([row['comparisons']])}, {row['n']} seeds"
    )


def ranges(rows: Sequence[dict[str, Any]], measure: Measure) -> str:
    """Where all differences lie, without a name to any that has an interval."""
    known = [row for row in rows if not math.isnan(row["low"])]
    rest = [row for row in rows if math.isnan(row["low"]) and not math.isnan(row["difference"])]
    if not known and not rest:
        return "no seed in common"
    means = [float(row["difference"]) for row in known or rest]
    lowest, highest = measure.signed_text(min(means), unit=False), measure.signed_text(max(means))
    told = f"mean differences {lowest} to {highest}" if len(means) > 1 else f"mean difference {highest}"
    if not known:
        return f"{told}, without an interval"
    low = end_text(min(float(row["low"]) for row in known), measure, unit=False)
    high = end_text(max(float(row["high"]) for row in known), measure)
    told += f"; anything from {low} to {high} remains possible"
    for row in rest:
        told += f"; {row['method']} {measure.signed_text(row['difference'])} without an interval ({seeds(row['n'])})"
    return told


def seeds(count: int) -> str:
    """ "1 seed", "5 seeds"."""
    return f"{count} seed{'' if count == 1 else 's'}"


def comparisons(rows: Sequence[dict[str, Any]]) -> str:
    """How many were made at once."""
    count = max(int(row["comparisons"]) for row in rows)
    return f"{count} comparison{'s' if count > 1 else ''} at once"


def against_what(setting: Setting, base: str, rows: Sequence[dict[str, Any]]) -> str:
    """What the methods are compared with, by how many seeds."""
    references = list(dict.fromkeys(str(row["reference"]) for row in rows)) or [base]
    others = [label for label in setting.methods if label not in references]
    size = size_text(setting.facts.get("train_size"))
    counts = sorted({int(row["n"]) for row in rows}) or [0]
    pairs = seeds(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {seeds(counts[-1])}"
    at = ", each at its own setting" if len(references) > 1 else ""
    return (
        f"{listed([named(label) for label in references])}{at}, paired by {pairs}, with {size} training samples; compared: "
        f"{', '.join(others) or 'nothing else'}"
    )


def invented_labels(setting: Setting) -> list[tuple[str, str]]:
    """Whether invented labels say anything, where labels were invented."""
    labels = [label for label in labelled(setting) if base_method(label) in LEARNED_METHODS]
    learned = [run for label in labels for run in setting.methods[label]]
    if not learned:
        return []
    telling = sum(map(informative, learned))
    count = f"{telling} of {len(learned)} runs" if len(learned) > 1 else "the one run"
    if not telling:
        return [("The invented labels", "say nothing of their samples")]
    return [("The invented labels", f"say something of their samples in {count}")]
