"""The decision on top of a report: does it help, by how much, against what, at what cost, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maxl.experiments.report.commands import compare, fresh, use
from maxl.experiments.report.costs import cost_text, minutes_of
from maxl.experiments.report.labels import informative, labelled
from maxl.experiments.report.runs import Results, Setting, size_text
from maxl.experiments.report.training import past_its_best
from maxl.experiments.runs.measures import Measure
from maxl.experiments.runs.methods import EMPTY_METHODS, JUDGED_METHODS, LEARNED_METHODS, NOISE_METHODS
from maxl.experiments.studies.decisions import CONTROL_OF
from maxl.experiments.studies.intervals import POWER, seeds_to_detect
from maxl.experiments.studies.resolution import excludes, lacking, shows
from maxl.experiments.studies.statistics import REFERENCES, RELEVANT, intervals_text, minor, nothing_learned
from maxl.experiments.studies.variants import base_method

CONTROLS = tuple(name for name in REFERENCES if name != "single")
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
    """

    setting: str
    answer: str
    headline: str
    facts: list[tuple[str, str]]
    advice: str
    command: str | None


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
    """The decision in one setting."""
    table, measure = setting.comparisons, setting.measure
    base = reference_of(setting)
    if base is None or table.empty:
        return _nothing(setting)
    rows = [dict(row) for _, row in against(setting, base).iterrows()]
    samples, constant = setting.test_samples, setting.constant
    shown = any(row["low"] > 0 or row["high"] < 0 for row in rows)
    if constant is not None and nothing_learned(setting.best, constant) and not shown:
        return _nothing_learned(setting, base, rows, constant)
    better = [row for row in rows if row["low"] > 0 and shows(samples, row["difference"])]
    lucky = [row for row in rows if row["low"] > 0 and row not in better]
    worse = [row for row in rows if row["high"] < 0]
    # Not excluded: a gain of a point. A difference without an interval (one seed, or too few that agree) excludes nothing.
    unsure = [row for row in rows if not row["high"] < RELEVANT and not row["low"] > 0 and not _all_tied(row)]
    if better:
        return _helps(setting, base, rows, better)
    if samples is not None and rows and (lucky or not (unsure or excludes(samples, RELEVANT))):
        return _too_small(setting, base, rows, lucky, samples)
    if unsure or not rows:
        return _cannot_tell(setting, base, rows, unsure)
    if worse:
        first, *others = (f"by {measure.difference_text(-r['difference'])}" for r in worse)
        told = f"{worse[0]['method']} is worse than {_named(base)} {first}"
        told += "".join(f", {r['method']} {by}" for r, by in zip(worse[1:], others, strict=True))
        rest = "" if len(worse) == len(rows) else f"; no other gains {measure.difference_text(RELEVANT)}"
        headline = f"No: {told}{rest}."
    else:
        headline = f"No: {_methods(len(rows))} {measure.difference_text(RELEVANT)} or more on {_named(base)}."
    facts = [
        ("By how much", _ranges(rows, measure)),
        ("Against what", _against(setting, base, rows)),
        ("At what cost", cost_text(setting, base)),
        *_labels(setting),
    ]
    told = f"Keep {base}: {_methods(len(rows))} {measure.difference_text(RELEVANT)}."
    return Verdict(setting.name, NO, headline, facts, *use(told, setting.methods[base]))


def reference_of(setting: Setting) -> str | None:
    """What the methods are compared with: single-task training, or the first control where that was not run."""
    for name in REFERENCES:
        found = [label for label in setting.methods if base_method(label) == name]
        if found:
            return found[0]
    return None


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


def _helps(setting: Setting, base: str, rows: list[dict[str, Any]], better: list[dict[str, Any]]) -> Verdict:
    measure = setting.measure
    top = max(better, key=lambda row: float(row["difference"]))
    winner, chosen = str(top["method"]), top
    helping = {str(row["method"]): row for row in better}
    unbeaten = unbeaten_controls(setting, winner)
    as_good = [name for name in unbeaten if name in helping]
    amount = f"better than {_named(str(top['reference']))} by {measure.difference_text(top['difference'])}"
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
            ("By how much", _interval(chosen, measure)),
            ("Against what", _against(setting, base, rows)),
            ("At what cost", cost_text(setting, base, [method, winner])),
            *[("But", told) for told in (past_its_best(setting),) if told is not None],
            *_labels(setting),
        ],
        advice,
        command,
    )


def _cannot_tell(
    setting: Setting, base: str, rows: list[dict[str, Any]], unsure: list[dict[str, Any]]
) -> Verdict:
    measure = setting.measure
    common = max((int(row["n"]) for row in rows), default=0)
    detectable = [row for row in unsure if not math.isnan(row["detectable"])]
    worse = [row for row in rows if row["high"] < 0]
    of_these = f" of {', '.join(str(row['method']) for row in unsure)}" if worse else ""
    spread = [float(row["spread"]) for row in unsure if row["spread"] > 0]
    if common < 2:
        headline = (
            f"Cannot tell: {'one seed says nothing of a difference' if common else 'no seed in common'}."
        )
        found = "nothing: differences of one seed have no interval"
    elif detectable:
        least = max(detectable, key=lambda row: float(row["detectable"]))
        size = measure.difference_text(least["detectable"])
        headline = f"Cannot tell{of_these}: this study would have found a difference of {size} or more, and found none."
        found = f"{size}, with {100 * POWER:.0f} % power, {int(least['n'])} seeds and {_comparisons(rows)}"
    else:
        headline = f"Cannot tell{of_these}: {common} seeds agree, but are too few to claim a difference."
        found = f"unknown: {common} seeds without spread"
    if worse:
        by = measure.difference_text(-worse[0]["difference"])
        others = f", and {len(worse) - 1} more are worse" if len(worse) > 1 else ""
        headline += f" {worse[0]['method']} is worse than {_named(base)} by {by}{others}."
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
        ("By how much", _ranges([*unsure, *worse] or rows, measure)),
        ("Smallest difference to be found", found),
        ("Against what", _against(setting, base, rows)),
        ("At what cost", cost_text(setting, base)),
        *_labels(setting),
    ]
    if needed > MOST_SEEDS:
        told = (
            f"Keep {base}. To find {measure.difference_text(RELEVANT)} would take more than {MOST_SEEDS} seeds: a larger "
            "test part, or more training samples, make runs agree better."
        )
        return Verdict(setting.name, UNSURE, headline, facts, *use(told, setting.methods[base]))
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
    by = f"{top['method']} is better than {_named(base)} by {measure.difference_text(abs(top['difference']))} in these seeds, but "
    facts = [
        ("By how much", f"{_ranges(rows, measure)}, on these test samples"),
        ("Against what", _against(setting, base, rows)),
        ("At what cost", cost_text(setting, base)),
        *_labels(setting),
    ]
    why = lacking(samples, float(top["difference"]), measure.difference_text(RELEVANT))
    said = f"Cannot tell: {by if lucky else ''}{why}."
    told = f"Keep {base}. More seeds would not help: a larger test part would."
    return Verdict(setting.name, UNSURE, said, facts, *use(told, setting.methods[base]))


def _nothing_learned(setting: Setting, base: str, rows: list[dict[str, Any]], constant: float) -> Verdict:
    gets = f"one answer for all samples gets ({setting.measure.text(constant)})"
    headline = f"Cannot tell: nothing is learned yet; no method gets more than {gets}."
    facts = [("Against what", _against(setting, base, rows)), ("At what cost", cost_text(setting, base))]
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
        [("At what cost", cost_text(setting, label)), *_labels(setting)],
        "Compare it with single-task training and with labels that say nothing:",
        compare(setting, methods, list(range(USUAL_SEEDS))),
    )


def _all_tied(row: dict[str, Any]) -> bool:
    return bool(row["n"] > 1 and row["wins"] == row["losses"] == 0)


def _named(label: str) -> str:
    """A reference as a reader knows it."""
    return "single-task training" if label == "single" else label


def _methods(count: int) -> str:
    return "the other method does not gain" if count == 1 else f"none of {count} methods gains"


def _interval(row: dict[str, Any], measure: Measure) -> str:
    low, high = (measure.signed_text(row[end], unit=False) for end in ("low", "high"))
    return (
        f"{measure.signed_text(row['difference'])} ({low} to {high}), "
        f"{intervals_text([row['comparisons']])}, {row['n']} seeds"
    )


def _ranges(rows: Sequence[dict[str, Any]], measure: Measure) -> str:
    """Where all differences lie, without a name to any."""
    known = [row for row in rows if not math.isnan(row["low"])]
    means = [float(row["difference"]) for row in rows if not math.isnan(row["difference"])]
    if not means:
        return "no seed in common"
    lowest, highest = measure.signed_text(min(means), unit=False), measure.signed_text(max(means))
    mean = (
        f"mean difference{'s' if len(means) > 1 else ''} {lowest} to {highest}"
        if len(means) > 1
        else f"mean difference {highest}"
    )
    if not known:
        return f"{mean}, without an interval"
    low = measure.signed_text(min(float(row["low"]) for row in known), unit=False)
    high = measure.signed_text(max(float(row["high"]) for row in known))
    return f"{mean}; anything from {low} to {high} remains possible"


def _comparisons(rows: Sequence[dict[str, Any]]) -> str:
    count = max(int(row["comparisons"]) for row in rows)
    return f"{count} comparison{'s' if count > 1 else ''} at once"


def _against(setting: Setting, base: str, rows: Sequence[dict[str, Any]]) -> str:
    others = [label for label in setting.methods if label != base]
    size = size_text(setting.facts.get("train_size"))
    pairs = max((int(row["n"]) for row in rows), default=0)
    return (
        f"{_named(base)}, paired by {pairs} seed{'s' if pairs != 1 else ''}, with {size} training samples; compared: "
        f"{', '.join(others)}"
    )


def _labels(setting: Setting) -> list[tuple[str, str]]:
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
