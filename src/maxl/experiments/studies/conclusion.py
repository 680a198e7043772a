"""What fresh seeds say: the candidate against single-task training and its control, and what to use by that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maxl.experiments.runs.measures import PROBE_OF_INPUTS, Measure, main_measure
from maxl.experiments.runs.methods import HUMAN_METHODS
from maxl.experiments.studies.aims import Aim
from maxl.experiments.studies.collapses import collapses_text, of_methods, standing
from maxl.experiments.studies.decisions import BASELINE, Values, by_method, diverged, judge, span, words
from maxl.experiments.studies.intervals import PairedDifference, paired_difference
from maxl.experiments.studies.resolution import excludes
from maxl.experiments.studies.statistics import (
    RELEVANT,
    constant_answer,
    nothing_learned,
    nothing_learned_text,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Compared:
    """A method against single-task training, or another method.

    Attributes:
        difference: Of all runs.
        without: Of the seeds whose runs of both did not collapse; None where none did.
        samples: Of the test part, where the task's measures count them.
    """

    difference: PairedDifference
    without: PairedDifference | None
    samples: int | None

    @classmethod
    def of(
        cls, values: Values, fallen: Values, method: str, samples: int | None, other: str = BASELINE
    ) -> _Compared:
        """From all runs, and those that collapsed."""
        without = None
        if {method, other} & fallen.keys():
            kept = standing(values, fallen)
            without = paired_difference(kept[method], kept[other])
        return cls(paired_difference(values[method], values[other]), without, samples)

    @property
    def above(self) -> bool:
        """Whether it is shown to lie above, with the runs that collapsed and without them."""
        return self.difference.low > 0 and (self.without is None or self.without.low > 0)

    @property
    def verdict(self) -> str:
        """That of all runs, where it is the same without those that collapsed, else "cannot tell"."""
        told = judge(self.difference, self.samples)
        if self.without is None or judge(self.without, self.samples) == told:
            return told
        return "cannot tell"

    def sentences(self, method: str, measure: Measure) -> list[str]:
        """The difference in a sentence; where runs collapsed, another without them."""
        told = f"{words(method, self.difference, measure, self.samples)}."
        if self.without is None:
            return [told]
        if self.verdict != judge(self.difference, self.samples):
            size = f"{span(self.difference, measure)} over {self.difference.n} seeds"
            told = f"cannot tell whether {method} helps: {size}, which rests on runs that collapsed."
        if not self.without.n:
            return [told, "Without the seeds whose runs collapsed none is left in common."]
        left = f"{span(self.without, measure)} over {self.without.n}"
        return [told, f"Without the seeds whose runs collapsed it is {left}."]


def conclude(
    results: pd.DataFrame, plan: Mapping[str, Any], task: str, samples: int | None, size: int | None = None
) -> dict[str, Any]:
    """The content of ``advice.json``, but for the minutes that it took.

    Args:
        results: Of the final step, a row a run.
        plan: What ``plan.json`` holds by then.
        task: Of the data.
        samples: Of the test part, where the task's measures count them.
        size: Of the test part, where it is known.

    Returns:
        verdict, aim, method, against, measure, difference, interval, seeds, detectable, spread, test_samples, control,
        collapsed, diverged, nothing_learned, recommended, use_inputs, probe_inputs, against_inputs, primary, cost,
        learning_rate and sentences, as docs/commands.md describes them.

    Raises:
        ValueError: if every run of the candidate or of single-task training diverged.

    Where one of these diverged, or nothing is learned, the verdict is "cannot tell".
    """
    aim, methods = Aim(plan["aim"]), plan["final"]["methods"]
    measure, candidate = aim.measure(task), methods[1]
    values = by_method(results, measure.key)
    if BASELINE not in values or candidate not in values:
        raise ValueError(f"every final run of {candidate} or {BASELINE} diverged: lower --learning-rate")
    fallen = of_methods({name: values[name] for name in methods if name in values}, samples)
    compared = _Compared.of(values, fallen, candidate, samples)
    difference, verdict = compared.difference, compared.verdict
    sentences, control = compared.sentences(candidate, measure), None
    ended = diverged(values, methods, plan["final"]["seeds"])
    untrained = _untrained(results, values, difference, measure)
    if untrained or {candidate, BASELINE} & ended.keys():
        verdict = "cannot tell"
        sentences = [
            f"cannot tell whether {candidate} helps: {span(difference, measure)} over {difference.n} seeds."
        ]
    sentences += [*untrained, *_diverged_text(ended, plan["final"]["seeds"], methods)]
    recommended = candidate if verdict == "helps" else BASELINE
    sentences += [f"{collapses_text(name, values[name], lost, measure)}." for name, lost in fallen.items()]
    if len(methods) > 2 and methods[2] in values:
        other = methods[2]
        versus = _Compared.of(values, fallen, candidate, samples, other)
        rival = _Compared.of(values, fallen, other, samples)
        gain = rival.difference
        cost = _cost(results, other)
        control = {
            "against": other,
            **_numbers(versus.difference),
            "shown": versus.above,
            "gain": finite(gain.mean),
            "gain_interval": _ends(gain),
            "cost": finite(cost),
        }
        helps = rival.verdict == "helps" and not untrained and not {other, BASELINE} & ended.keys()
        if verdict == "helps" and not versus.above:
            sentences.append(aim.unproved(other))
            recommended = other if helps else recommended  # what is cheaper, and not shown to be worse
        elif verdict == "helps" and gain.high < 0:
            lost = measure.difference_text(-gain.mean)
            sentences.append(
                f"{other} is itself worse than single-task training by {lost}: to beat it says little."
            )
        if helps and (verdict != "helps" or recommended == other):
            sentences.append(f"{words(other, gain, measure, samples)}, at {cost:.1f} times its cost.")
    sentences += _not_run(aim, plan, measure, verdict)
    if samples is None and size is not None and not excludes(size, RELEVANT):
        sentences.append(
            f"The test part has {size} samples: on others {measure.title} may differ by more than between seeds."
        )
    main = main_measure(task)
    primary, told = (None, []) if measure.key == main.key else _primary(results, recommended, candidate, main)
    sentences += told
    inputs, beside = None, None
    if candidate in HUMAN_METHODS and plan["config"]["human"] == plan["config"]["probe"]:
        sentences.append(
            f"{candidate} trains on the very column that is looked for: it shows what there is to keep."
        )
    if plan["aim"] == "structure" and PROBE_OF_INPUTS in results:
        inputs, beside, said = _beside_inputs(results, values, recommended, measure)
        sentences += said
    return {
        "verdict": verdict,
        "aim": plan["aim"],
        "method": candidate,
        "against": BASELINE,
        "measure": measure.key,
        **_numbers(difference),
        "seeds": difference.n,
        "detectable": finite(difference.detectable),
        "spread": finite(difference.spread),
        "test_samples": samples,
        "control": control,
        "collapsed": {name: {str(seed): v for seed, v in lost.items()} for name, lost in fallen.items()},
        "diverged": ended,
        "nothing_learned": bool(untrained),
        "recommended": recommended,
        "use_inputs": beside is not None and keeps(beside["interval"]) != "",
        "probe_inputs": inputs,
        "against_inputs": beside,
        "primary": primary,
        "cost": finite(_cost(results, candidate)),
        "learning_rate": plan["learning_rate"],
        "sentences": sentences,
    }


def _untrained(
    results: pd.DataFrame, values: Values, difference: PairedDifference, measure: Measure
) -> list[str]:
    """That no method is above one answer for all samples, and none is shown to differ; nothing where one is."""
    constant = constant_answer(measure, results.get("test_constant", ()))
    best = max(sum(of.values()) / len(of) for of in values.values())
    if (
        constant is None
        or difference.low > 0
        or difference.high < 0
        or not nothing_learned(best, constant, results.get("test_auroc", ()))
    ):
        return []
    return [nothing_learned_text(constant, measure)]


def _diverged_text(
    ended: Mapping[str, Sequence[int]], seeds: Sequence[int], methods: Sequence[str]
) -> list[str]:
    """How many runs of which method diverged; and what is open where all of the control's did."""
    told = [f"{len(lost)} of {len(seeds)} runs of {name} diverged." for name, lost in ended.items()]
    if len(methods) > 2 and len(ended.get(methods[2], ())) == len(seeds):
        told.append(f"{methods[2]} cannot say what a gain is due to.")
    return told


def finite(value: float) -> float | None:
    """A number that JSON has."""
    return float(value) if math.isfinite(value) else None


def _not_run(aim: Aim, plan: Mapping[str, Any], measure: Measure, verdict: str) -> list[str]:
    """That nothing tried can help by validation results, and what was not run."""
    skipped = plan["learned"] != "run"
    if plan["screening"]["no_effect"]:
        none = "on validation data none that was tried can gain"
        # What the test part shows is said before, and not taken back.
        none = f"O{none[1:]}" if verdict == "helps" else f"{aim.no_effect} show no effect here: {none}"
        without = f"; {aim.of_generators.lower()} were not run" if skipped else ""
        return [f"{none} {measure.difference_text(RELEVANT)}{without}."]
    return [f"{aim.of_generators} were {plan['learned']}."] if skipped else []


def _beside_inputs(
    results: pd.DataFrame, values: Values, method: str, measure: Measure
) -> tuple[float | None, dict[str, Any] | None, list[str]]:
    """The probe of the inputs, mean over the seeds; how a method compares with it; and that in a sentence."""
    inputs = by_method(results, PROBE_OF_INPUTS).get(method)
    if not inputs:  # some have no numbers to be probed, such as tokens
        return None, None, []
    mean = sum(inputs.values()) / len(inputs)
    versus = paired_difference(values[method], inputs)
    name = "single-task training" if method == BASELINE else method
    if less := keeps(_ends(versus)):
        said = f"{name} {less} than the raw inputs, whose probe has {measure.text(mean, 1)}:"
    else:
        said = f"The probe of the raw inputs has {measure.text(mean, 1)}: {name} keeps more, by"
    return mean, {"method": method, **_numbers(versus)}, [f"{said} {span(versus, measure)}."]


def _primary(
    results: pd.DataFrame, recommended: str, candidate: str, main: Measure
) -> tuple[dict[str, Any] | None, list[str]]:
    """What a method does to what its task is judged by, where something else was to get better; and that in a sentence."""
    method = candidate if recommended == BASELINE else recommended
    if main.key not in results:
        return None, []
    values = by_method(results, main.key)
    if not {method, BASELINE} <= values.keys():
        return None, []
    difference = paired_difference(values[method], values[BASELINE])
    is_so = (
        "is worse" if difference.high < 0 else "is better" if difference.low > 0 else "is not shown to differ"
    )
    than = "from" if is_so.endswith("differ") else "than"
    said = f"In {main.title} {method} {is_so} {than} single-task training: {span(difference, main)}."
    return {"method": method, "measure": main.key, **_numbers(difference)}, [said]


def keeps(interval: Sequence[float | None]) -> str:
    """What an interval of the difference to the raw inputs says where it does not lie above zero; "" where it does."""
    low, high = (0.0 if end is None else end for end in interval)
    return "" if low > 0 else "keeps less" if high < 0 else "is not shown to keep more"


def _numbers(difference: PairedDifference) -> dict[str, Any]:
    return {"difference": finite(difference.mean), "interval": _ends(difference)}


def _ends(difference: PairedDifference) -> list[float | None]:
    return [finite(difference.low), finite(difference.high)]


def _cost(results: pd.DataFrame, method: str) -> float:
    """Training time in single-task trainings, what is trained for the labels included."""
    trained = results.groupby("method")["seconds_total"].median()
    return float(trained[method]) / float(trained[BASELINE])
