"""The decision on top of a report: does it help, by how much, against what, at what cost, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maxl.experiments.report.commands import compare, fresh, use
from maxl.experiments.report.costs import cost_text, minutes_of
from maxl.experiments.report.lost import diverged_of, without_collapsed
from maxl.experiments.report.references import (
    CONTROLS,
    against,
    largest,
    reference_of,
    rival,
    unbeaten_controls,
)
from maxl.experiments.report.runs import Results, Setting
from maxl.experiments.report.training import past_its_best
from maxl.experiments.report.wording import (
    against_what,
    better_than,
    comparisons,
    interval,
    invented_labels,
    listed,
    named,
    none_gains,
    ranges,
    seeds,
    worse_than,
)
from maxl.experiments.runs.methods import EMPTY_METHODS, JUDGED_METHODS, NOISE_METHODS
from maxl.experiments.studies.decisions import CONTROL_OF
from maxl.experiments.studies.intervals import POWER, seeds_to_detect
from maxl.experiments.studies.resolution import excludes, lacking, shows
from maxl.experiments.studies.statistics import RELEVANT, minor, nothing_learned, rounded_up
from maxl.experiments.studies.variants import base_method

MOST_SEEDS = 100  # beyond which nobody is asked to repeat a study
USUAL_SEEDS = 5

YES, NO, UNSURE, NOTHING = "yes", "no", "cannot tell", "nothing to compare"


@dataclass(frozen=True)
class Verdict:
    """The decision in one setting.

    Attributes:
        setting: In words.
        answer: ``YES``, ``NO``, ``UNSURE`` or ``NOTHING``.
        headline: The answer in a sentence. It names a method only where one is shown to differ.
        facts: What it rests on: a question and its answer.
        advice: What to do next.
        command: A command that does it, to be typed where the report was made; None where files for it are missing.
        method: Which to use, or to keep, by this; None where nothing says so.
    """

    setting: str
    answer: str
    headline: str
    facts: list[tuple[str, str]]
    advice: str
    command: str | None
    method: str | None = None


def verdicts(study: Results) -> list[Verdict]:
    """One for each setting."""
    return [verdict_of(study, setting) for setting in study.settings]


def overall(found: Sequence[Verdict]) -> tuple[str, str]:
    """The answer and the headline over several settings, each of which was looked at by itself."""
    counts = {answer: sum(v.answer == answer for v in found) for answer in (YES, NO, UNSURE, NOTHING)}
    told = [f"{word} in {n}" for word, n in counts.items() if n]
    answer = YES if counts[YES] else UNSURE if counts[UNSURE] else NO if counts[NO] else NOTHING
    words = ", ".join(told)
    return answer, f"{words[0].upper()}{words[1:]} of {len(found)} settings, each looked at by itself."


def verdict_of(study: Results, setting: Setting) -> Verdict:
    """The decision in one setting: that of all its runs, where it is the same without those that collapsed."""
    ended = diverged_of(study, setting)
    found = _decide(setting, ended)
    standing, fallen = without_collapsed(setting)
    other = _decide(standing, ended) if fallen else found
    besides = [
        f"{count} of {count + len(setting.methods[label])} runs of {label} diverged"
        for label, count in ended.items()
    ]
    if (found.answer, found.method) != (other.answer, other.method):
        found = _rests_on_collapsed(setting, found, other)
    facts = [*found.facts, *(("But", told) for told in (*besides, *fallen))]
    return replace(found, facts=facts)


def _decide(setting: Setting, ended: Mapping[str, int]) -> Verdict:
    """The decision by a setting's runs; ``ended`` says how many of which method diverged."""
    table, measure = setting.comparisons, setting.measure
    base = reference_of(setting)
    if base is None or table.empty:
        return _nothing(setting)
    rows = [dict(row) for _, row in against(setting, base).iterrows()]
    samples, constant = setting.test_samples, setting.constant
    shown = any(row["low"] > 0 or row["high"] < 0 for row in rows)
    aurocs = [run.summary.get("test_auroc") for runs in setting.methods.values() for run in runs]
    if constant is not None and nothing_learned(setting.best, constant, aurocs) and not shown:
        return _nothing_learned(setting, base, rows, constant)
    better = [row for row in rows if row["low"] > 0 and shows(samples, row["difference"])]
    lucky = [row for row in rows if row["low"] > 0 and row not in better]
    worse = [row for row in rows if row["high"] < 0]
    # Not excluded: a gain of a point. A difference without an interval (one seed, or too few that agree) excludes nothing.
    unsure = [row for row in rows if not row["high"] < RELEVANT and not row["low"] > 0]
    if better:
        whole = [row for row in better if not {row["method"], row["reference"]} & ended.keys()]
        unbeaten = [row for row in whole if rival(setting, str(row["method"])) is None]
        if unbeaten:
            return _helps(setting, base, rows, unbeaten)
        return _elsewhere(setting, rows, whole) if whole else _diverging(setting, base, rows, better)
    if samples is not None and rows and (lucky or not (unsure or excludes(samples, RELEVANT))):
        return _too_small(setting, base, rows, lucky, samples)
    if unsure or not rows:
        return _cannot_tell(setting, base, rows, unsure)
    if worse:
        rest = "" if len(worse) == len(rows) else f"; no other gains {measure.difference_text(RELEVANT)}"
        headline = f"No: {worse_than(worse, measure)}{rest}."
    else:
        on = listed(list(dict.fromkeys(named(str(row["reference"])) for row in rows)))
        headline = f"No: {none_gains(len(rows), measure)} or more on {on}."
    facts = _facts(setting, base, rows, ranges(rows, measure))
    told = f"Keep {base}: {none_gains(len(rows), measure)}."
    return Verdict(setting.name, NO, headline, facts, *use(told, setting.methods[base]), base)


def _helps(setting: Setting, base: str, rows: list[dict[str, Any]], better: list[dict[str, Any]]) -> Verdict:
    measure = setting.measure
    top = largest(setting, better)
    winner, chosen = str(top["method"]), top
    helping = {str(row["method"]): row for row in better}
    unbeaten = unbeaten_controls(setting, winner)
    as_good = [name for name in unbeaten if name in helping]
    amount = better_than(top, measure)
    of_noise = base_method(winner) in NOISE_METHODS
    if of_noise:
        said = f"Yes: {winner} is {amount}."
        if unbeaten and base_method(winner) in JUDGED_METHODS:
            chosen = helping.get(unbeaten[0], top)
            said += f" It is not shown to beat {unbeaten[0]}, which costs a fraction and has the same trusted samples."
    elif base_method(winner) in EMPTY_METHODS:
        said = f"Yes: {winner} is {amount}. Labels that say nothing do it: it takes none that say something."
    elif as_good:
        chosen = max((helping[name] for name in as_good), key=lambda row: float(row["difference"]))
        empty = base_method(str(chosen["method"])) in EMPTY_METHODS
        said = (
            f"Yes{', but not shown to be for what its labels say' if empty else ''}: {winner} is {amount}, and is not "
            f"shown to beat {chosen['method']}, which is better by {measure.difference_text(chosen['difference'])}."
        )
    elif unbeaten:
        said = f"Yes: {winner} is {amount}. It is not shown to beat {' or '.join(unbeaten)}, so why it helps is open."
    else:
        said = f"Yes: {winner} is {amount}."
    method = str(chosen["method"])
    little = minor(chosen["high"], measure)
    said += f" The gain is {little}." if little else ""
    controlled = (
        any(base_method(label) in CONTROLS for label in setting.methods if label != winner)
        or base_method(winner) in EMPTY_METHODS
        or (of_noise and base_method(winner) not in JUDGED_METHODS)
    )
    advice, command = use(
        f"Use {method}{' where so little counts' if little else ''}.", setting.methods[method]
    )
    if not controlled and base == "single" and of_noise:
        said += " Nothing cheaper was run with the same trusted samples, and may do the same."
        advice = "See whether training on the trusted samples at the end does the same, on fresh seeds:"
        command = compare(setting, ["single", "fine-tuned", base_method(winner)], fresh(setting, USUAL_SEEDS))
    elif not controlled and base == "single":
        said += " No control was run, so labels that say nothing may do the same."
        advice = "See whether labels that say nothing do the same, on fresh seeds:"
        command = compare(setting, ["single", "uniform", base_method(winner)], fresh(setting, USUAL_SEEDS))
    return Verdict(
        setting.name,
        YES,
        said,
        [
            ("By how much", interval(chosen, measure)),
            ("Against what", against_what(setting, base, rows)),
            ("At what cost", cost_text(setting, base, [method, winner])),
            *[("But", told) for told in (past_its_best(setting),) if told is not None],
            *invented_labels(setting),
        ],
        advice,
        command,
        method,
    )


def _facts(
    setting: Setting, base: str, rows: Sequence[dict[str, Any]], how_much: str
) -> list[tuple[str, str]]:
    """What a decision on several methods rests on."""
    return [
        ("By how much", how_much),
        ("Against what", against_what(setting, base, rows)),
        ("At what cost", cost_text(setting, base)),
        *invented_labels(setting),
    ]


def _elsewhere(setting: Setting, rows: list[dict[str, Any]], better: list[dict[str, Any]]) -> Verdict:
    """Gains at a setting beside which a control at another is as good or better."""
    measure, top = setting.measure, largest(setting, better)
    beside = rival(setting, str(top["method"]))
    assert beside is not None  # else it helps
    best = str(beside["reference"])
    gain = f"{top['method']} is {better_than(top, measure)}"
    loses = beside["high"] < 0
    by = measure.difference_text(-beside["difference"])
    said = (
        f"No: {gain}, and worse than {best}, the best control, by {by}."
        if loses
        else f"Cannot tell: {gain}, but is not shown to beat {best}, the best control."
    )
    facts = _facts(setting, best, rows, f"against {named(best)}: {interval(beside, measure)}")
    told = f"Use {best}." if loses else f"Use {best}, which has the highest mean of the controls."
    return Verdict(
        setting.name, NO if loses else UNSURE, said, facts, *use(told, setting.methods[best]), best
    )


def _diverging(
    setting: Setting, base: str, rows: list[dict[str, Any]], better: list[dict[str, Any]]
) -> Verdict:
    """Gains over the runs that are left where others diverged."""
    measure, top = setting.measure, largest(setting, better)
    gain = f"{top['method']} is {better_than(top, measure)}"
    facts = _facts(setting, base, rows, interval(top, measure))
    told = (
        f"Keep {base}. More seeds would not help where training diverges: try it at a lower --learning-rate."
    )
    said = f"Cannot tell: {gain} over the {seeds(top['n'])} that did not diverge."
    return Verdict(setting.name, UNSURE, said, facts, told, None, base)


def _rests_on_collapsed(setting: Setting, found: Verdict, other: Verdict) -> Verdict:
    """That a decision holds only with, or only without, runs that collapsed."""
    said = [v.headline.removesuffix(".") for v in (found, other)]
    told = "More seeds would not help where training collapses: try it at a lower --learning-rate."
    headline = f"Cannot tell, as runs collapsed. With them: {said[0]}. Without them: {said[1]}."
    return Verdict(setting.name, UNSURE, headline, found.facts, told, None, None)


def _cannot_tell(
    setting: Setting, base: str, rows: list[dict[str, Any]], unsure: list[dict[str, Any]]
) -> Verdict:
    measure = setting.measure
    common = max((int(row["n"]) for row in unsure), default=0)
    detectable = [row for row in unsure if not math.isnan(row["detectable"])]
    blind = [row for row in unsure if math.isnan(row["detectable"])]
    worse = [row for row in rows if row["high"] < 0]
    of_these = f" of {', '.join(str(row['method']) for row in unsure)}" if len(unsure) < len(rows) else ""
    spread = [float(row["spread"]) for row in unsure if row["spread"] > 0]
    if common < 2:
        headline = f"Cannot tell{of_these}: {'one seed says nothing of a difference' if common else 'no seed in common'}."
        found = "nothing: differences of one seed have no interval"
    elif detectable:
        least = max(detectable, key=lambda row: float(row["detectable"]))
        size = measure.difference_text(
            rounded_up(float(least["detectable"])) if measure.points else least["detectable"]
        )
        headline = f"Cannot tell{of_these}: this study would have found a difference of {size} or more, and found none."
        if blind:
            told = ", ".join(f"{row['method']} ({seeds(row['n'])})" for row in blind)
            headline += f" Of {told} nothing is known."
        found = f"{size}, with {100 * POWER:.0f} % power, {int(least['n'])} seeds and {comparisons(rows)}"
    else:
        tied = all(row["wins"] == row["losses"] == 0 for row in unsure)
        what = (
            "on no difference, but are too few to exclude one"
            if tied
            else "but are too few to claim a difference"
        )
        headline = f"Cannot tell{of_these}: {common} seeds agree{' ' if tied else ', '}{what}."
        found = f"unknown: {common} seeds without spread"
    if worse:
        others = f", and {len(worse) - 1} more are worse" if len(worse) > 1 else ""
        headline += f" {worse_than(worse[:1], measure)}{others}."
    kept = [
        base_method(label)
        for label in setting.methods
        if label == base
        or base_method(label) in ("single", "uniform")
        or base_method(label) in {CONTROL_OF.get(base_method(str(r["method"]))) for r in unsure}
        or any(label == r["method"] for r in unsure)
    ]
    kept = list(dict.fromkeys(kept))
    most = max(spread, default=math.nan)
    needed = (
        USUAL_SEEDS
        if math.isnan(most)
        else max(USUAL_SEEDS, seeds_to_detect(RELEVANT, most, max(1, len(kept) - 1), most=MOST_SEEDS + 1))
    )
    facts = [
        ("By how much", ranges([*unsure, *worse] or rows, measure)),
        ("Smallest difference to be found", found),
        ("Against what", against_what(setting, base, rows)),
        ("At what cost", cost_text(setting, base)),
        *invented_labels(setting),
    ]
    if not excludes(setting.test_samples, RELEVANT):
        told = f"Keep {base}. More seeds would not help: a larger test part would."
        return Verdict(setting.name, UNSURE, headline, facts, *use(told, setting.methods[base]), base)
    if needed > MOST_SEEDS:
        told = (
            f"Keep {base}. To find {measure.difference_text(RELEVANT)} would take more than {MOST_SEEDS} seeds: a larger "
            "test part, or more training samples, make runs agree better."
        )
        return Verdict(setting.name, UNSURE, headline, facts, *use(told, setting.methods[base]), base)
    advice = f"Repeat it with {needed} new seeds{minutes_of(setting, kept, needed)}"
    if not math.isnan(most):
        advice += f"; so many show {measure.difference_text(RELEVANT)} with {100 * POWER:.0f} % power"
    if rest := list(dict.fromkeys(b for b in map(base_method, setting.methods) if b not in kept)):
        cannot = (
            f"cannot gain {measure.difference_text(RELEVANT)} and {'are' if len(rest) > 1 else 'is'} left out"
        )
        advice += f" ({' and '.join(rest)} {cannot})"
    advice += ":"
    return Verdict(
        setting.name, UNSURE, headline, facts, advice, compare(setting, kept, fresh(setting, needed))
    )


def _too_small(
    setting: Setting, base: str, rows: list[dict[str, Any]], lucky: list[dict[str, Any]], samples: int
) -> Verdict:
    """Seeds that agree on a test part that cannot show it; ``lucky`` are gains that they are sure of."""
    measure = setting.measure
    top = max(lucky or rows, key=lambda row: float(row["difference"]))
    by = f"{top['method']} is {better_than(top, measure)} in these seeds, but "
    facts = _facts(setting, base, rows, f"{ranges(rows, measure)}, on these test samples")
    why = lacking(samples, float(top["difference"]), measure.difference_text(RELEVANT))
    said = f"Cannot tell: {by if lucky else ''}{why}."
    told = f"Keep {base}. More seeds would not help: a larger test part would."
    return Verdict(setting.name, UNSURE, said, facts, *use(told, setting.methods[base]), base)


def _nothing_learned(setting: Setting, base: str, rows: list[dict[str, Any]], constant: float) -> Verdict:
    gets = f"one answer for all samples gets ({setting.measure.text(constant)})"
    headline = f"Cannot tell: nothing is learned yet; no method gets more than {gets}."
    facts = [("Against what", against_what(setting, base, rows)), ("At what cost", cost_text(setting, base))]
    told = "Train longer, or at another learning rate, before labels are compared."
    return Verdict(setting.name, UNSURE, headline, facts, told, None)


def _nothing(setting: Setting) -> Verdict:
    label, runs = next(iter(setting.methods.items()))
    measure, count = setting.measure, len(setting.methods)
    mean = sum(float(run.summary[measure.key]) for run in runs) / len(runs)
    what = f"{label} alone was run" if count == 1 else "neither single-task training nor a control was run"
    mean_words = f": test {measure.title} {measure.text(mean)}" if count == 1 else ""
    methods = list(dict.fromkeys(["single", "uniform", *map(base_method, setting.methods)]))
    return Verdict(
        setting.name,
        NOTHING,
        f"Nothing to compare: {what}{mean_words}.",
        [("At what cost", cost_text(setting, label)), *invented_labels(setting)],
        "Compare it with single-task training and with labels that say nothing:",
        compare(setting, methods, list(range(USUAL_SEEDS))),
    )
