"""What the report of an advice begins with: the decision, what to do next, and a picture of what they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from maxl.experiments.report.commands import compare_command, new_folder, train_command, use_run
from maxl.experiments.report.forest import intervals
from maxl.experiments.report.parts import Decision, Figure
from maxl.experiments.report.style import looks
from maxl.experiments.report.verdict import MOST_SEEDS, NO, UNSURE, USUAL_SEEDS, YES
from maxl.experiments.runs.measures import MEASURES, Measure
from maxl.experiments.runs.names import names_code
from maxl.experiments.studies.aims import Aim
from maxl.experiments.studies.conclusion import keeps
from maxl.experiments.studies.decisions import BASELINE, end_text, in_what
from maxl.experiments.studies.intervals import POWER, seeds_to_detect
from maxl.experiments.studies.resolution import excludes
from maxl.experiments.studies.statistics import RELEVANT, minor

_ANSWERS = {"helps": YES, "does not help": NO, "cannot tell": UNSURE}


def decision(folder: Path, advice: Mapping[str, Any], plan: Mapping[str, Any], measure: Measure) -> Decision:
    """The answer, what it rests on, and what to do next.

    Args:
        folder: Of the finished advice.
        advice: Its advice.json.
        plan: Its plan.json.
        measure: What was to get better.
    """
    method, first, more = advice["method"], *_apart(advice["sentences"])
    control = advice["control"]
    against = (
        f"single-task training, tuned (learning rate {advice['learning_rate']:g}), paired by fresh seeds"
    )
    if control is not None:
        against += f"; against {control['against']}: {_difference(control, measure)}"
    facts = [
        ("By how much", first),
        ("Against what", against),
        ("At what cost", _cost(advice)),
        *([("Besides", " ".join(more))] if more else []),
    ]
    told, command = _next(folder, advice, plan, measure)
    return Decision(_ANSWERS[advice["verdict"]], _headline(method, advice, measure), facts, told, command)


def differences(advice: Mapping[str, Any], measure: Measure) -> Figure:
    """The candidate's differences to single-task training and its control, and what is to be used beside the raw inputs."""
    method, control = str(advice["method"]), advice["control"]
    panels = {BASELINE: _row(method, advice)}
    if control is not None:
        panels[str(control["against"])] = _row(method, control)
    shown = dict.fromkeys((BASELINE, method))
    if (inputs := advice.get("against_inputs")) is not None:
        panels["the raw inputs"] = _row(inputs["method"], inputs)
        shown[inputs["method"]] = None
    return intervals(
        panels,
        looks(list(shown)),
        measure,
        title="The candidate on fresh seeds",
        intervals_are="95 % intervals, each of one comparison",
        name="candidate",
    )


def _row(method: str, compared: Mapping[str, Any]) -> pd.DataFrame:
    low, high = compared["interval"]
    numbers = {"difference": compared["difference"], "low": low, "high": high}
    return pd.DataFrame([{"method": method, **{k: math.nan if n is None else n for k, n in numbers.items()}}])


def _apart(sentences: list[str]) -> tuple[str, list[str]]:
    """The first sentence, which compares, as one of its own, and the others."""
    first, *others = sentences
    return first[0].upper() + first[1:], others


def _headline(method: str, advice: Mapping[str, Any], measure: Measure) -> str:
    control = advice["control"]
    if advice["verdict"] == "helps":
        by = measure.difference_text(advice["difference"])
        said = f"Yes: {method} is better than tuned single-task training{in_what(measure)} by {by}."
        primary = advice.get("primary")
        if primary is not None and (primary["interval"][1] or 0.0) < 0:
            main = next(m for found in MEASURES.values() for m in found if m.key == primary["measure"])
            said += (
                f" {primary['method']} loses {main.difference_text(-primary['difference'])} of {main.title}."
            )
        if control is not None and not _above_zero(control):
            said += f" It is not shown to beat {control['against']}"
            same = to_use(advice) == control["against"]
            said += f", which is better by {measure.difference_text(control['gain'])}." if same else "."
        little = minor(advice["interval"][1], measure)
        said += f" The gain is {little}." if little else ""
        said += f" {told} the raw inputs." if (told := _keeps_no_more(advice)) else ""
        return said
    if advice["verdict"] == "does not help":
        return f"No: {method}, the best candidate, gains less than {measure.difference_text(RELEVANT)}."
    return f"Cannot tell whether {method}, the best candidate, helps."


def to_use(advice: Mapping[str, Any]) -> str:
    """The method to use by an advice: the candidate, its control, or single-task training."""
    helped = advice["method"] if advice["verdict"] == "helps" else BASELINE
    return str(advice.get("recommended") or helped)  # an older version's lacks it


def _above_zero(compared: Mapping[str, Any]) -> bool:
    above = (compared["interval"][0] or 0.0) > 0
    return bool(compared.get("shown", above))  # older advice does not say


def _keeps_no_more(advice: Mapping[str, Any]) -> str:
    """That what is to be used is not shown to keep more than the inputs, up to "than"; "" where it is, or nobody asked."""
    inputs = advice.get("against_inputs")
    told = "" if inputs is None else keeps(inputs["interval"])
    return f"{inputs['method']} {told} than" if inputs and told else ""


def _difference(compared: Mapping[str, Any], measure: Measure) -> str:
    low, high = compared["interval"]
    if compared["difference"] is None:
        return "no seed in common"
    if low is None or high is None:
        return measure.signed_text(compared["difference"])
    low, high = (end_text(end, measure, unit=False) for end in (low, high))
    return f"{measure.signed_text(compared['difference'])} ({low} to {high})"


def _cost(advice: Mapping[str, Any]) -> str:
    costs = {advice["method"]: advice["cost"]}
    if (control := advice["control"]) is not None and to_use(advice) == control["against"]:
        costs[control["against"]] = control["cost"]
    of_each = [
        (f"{method} " if len(costs) > 1 else "") + ("–" if cost is None else f"{cost:.1f}")
        for method, cost in costs.items()
    ]
    return (
        f"{', '.join(of_each)} times single-task training. This advice took {advice['minutes']:.1f} minutes; "
        f"{advice['predicted_minutes']:.1f} were predicted"
    )


def _next(
    folder: Path, advice: Mapping[str, Any], plan: Mapping[str, Any], measure: Measure
) -> tuple[str, str | None]:
    """What to do, and the command for it where there is one."""
    method, chosen, relevant = advice["method"], to_use(advice), measure.difference_text(RELEVANT)
    first, keep = "", f"Keep {BASELINE}, at a learning rate of {advice['learning_rate']:g}"
    if told := _keeps_no_more(advice):
        first = f"Use the inputs themselves: {told} they do. "
        keep = f"{first}Where features of the task are wanted anyway, keep{keep.removeprefix('Keep')}"
    if advice["verdict"] == "helps":
        use = f"{first}Where features of the task are wanted anyway, use" if first else "Use"
        why = "." if chosen == method else f": {method} is not shown to beat it."
        counts = " where so little counts" if minor(advice["interval"][1], measure) else ""
        return _use(folder, advice, plan, chosen, f"{use} {chosen}{counts}{why}")
    if advice["verdict"] == "does not help":
        told = f"{keep}: {method}, the best candidate that was run, gains less than {relevant}."
        if plan["learned"] != "run":
            told += f" {Aim(advice['aim']).of_generators} were not run."
        return _use(folder, advice, plan, BASELINE, told)
    if advice.get("nothing_learned"):
        return "Train longer, or at another learning rate, before labels are compared.", None
    if {BASELINE, method} & advice.get("diverged", {}).keys():
        return (
            f"{keep}. More seeds would not help where training diverges: try it at a lower --learning-rate.",
            None,
        )
    if {BASELINE, method} & advice.get("collapsed", {}).keys():
        return _use(
            folder, advice, plan, BASELINE, f"{keep}. More seeds would not help where training collapses."
        )
    samples, spread, low = advice.get("test_samples"), advice.get("spread"), advice["interval"][0]
    if not excludes(samples, RELEVANT) or (low is not None and low > 0):  # seeds agree, on too few samples
        return _use(
            folder, advice, plan, BASELINE, f"{keep}. More seeds would not help: a larger test part would."
        )
    methods = [BASELINE, method, *([advice["control"]["against"]] if advice["control"] else [])]
    needed = (
        max(USUAL_SEEDS, seeds_to_detect(RELEVANT, spread, len(methods) - 1, most=MOST_SEEDS + 1))
        if spread
        else 0
    )
    if not needed:
        return _use(folder, advice, plan, BASELINE, f"{keep}. How far seeds scatter is not known from these.")
    if needed > MOST_SEEDS:
        why = f"To find {relevant} would take more than {MOST_SEEDS} seeds"
        better = "a larger test part, or more samples, make runs agree better"
        return _use(folder, advice, plan, BASELINE, f"{keep}. {why}: {better}.")
    told = (
        f"{first}Repeat it with {needed} new seeds; so many show {relevant} with {100 * POWER:.0f} % power:"
    )
    return told, _compare(folder, plan, methods, needed)


def _use(
    folder: Path, advice: Mapping[str, Any], plan: Mapping[str, Any], method: str, told: str
) -> tuple[str, str | None]:
    """Training on all samples; where validation is a part of training, the model that is there."""
    config, lost = plan["config"], advice.get("collapsed", {}).get(method, {})  # older advice has none
    seed = min(seed for seed in plan["final"]["seeds"] if str(seed) not in lost)
    run = _run(folder, method, seed)
    if config.get("keep") == "best" or config.get("patience") is not None:
        trained = ", trained without the samples kept for validation"
        return use_run(told, run, seed, _trust(plan), trained=trained)
    if not (run / "config.yaml").is_file():
        return told, None
    changes = ["--validation-size", "0"]
    lower = [rate for rate in map(float, plan["tuning"]["means"]) if rate < advice["learning_rate"]]
    if lost and lower:
        told += f" Runs of it collapsed: a lower rate is safer, {max(lower):g} is the next that was tried."
        changes += ["--learning-rate", f"{max(lower):g}"]
    command = train_command(run / "config.yaml", new_folder(folder, "model"), changes, _trust(plan))
    return f"{told} To train it on all samples, those kept for validation too:", command


def _compare(folder: Path, plan: Mapping[str, Any], methods: list[str], count: int) -> str | None:
    file = _run(folder, methods[1], min(plan["final"]["seeds"])) / "config.yaml"
    if not file.is_file():
        return None
    first = 1 + max(plan["final"]["seeds"])
    seeds = range(first, first + count)
    return compare_command(file, methods, seeds, new_folder(folder, "again"), _trust(plan))


def _run(folder: Path, method: str, seed: int) -> Path:
    return folder / "final" / "runs" / method / f"seed{seed}"


def _trust(plan: Mapping[str, Any]) -> list[str]:
    return ["--trust"] * names_code(plan["config"])
