"""The top of the report in plain words: what was compared, what was found, what cannot be said."""

from __future__ import annotations

import pandas as pd

from maxl.experiments.report.final import measure_interval
from maxl.experiments.report.labels import label_verdicts
from maxl.experiments.report.runs import Results, Setting, size_text
from maxl.experiments.report.training import past_its_best
from maxl.experiments.runs.measures import ACCURACY
from maxl.experiments.runs.methods import LEARNED_METHODS
from maxl.experiments.studies.notes import origin_notes
from maxl.experiments.studies.resolution import SIGNS, shows
from maxl.experiments.studies.statistics import REFERENCES, best_methods, headline
from maxl.experiments.studies.variants import base_method

_CONTROLS = tuple(name for name in REFERENCES if name != "single")


def compared(study: Results) -> list[str]:
    """What was compared."""
    seeds = sorted({run.seed for run in study.runs})
    methods = ", ".join(study.methods)
    many = (
        f"{len(study.methods)} methods ({methods})" if len(study.methods) > 1 else f"one method ({methods})"
    )
    count = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"one seed ({seeds[0]})"
    said = [f"{len(study.runs)} run{'s' if len(study.runs) > 1 else ''} of {many}, {count}."]
    facts = []
    for name, word in (
        ("data", "Data"),
        ("primary", "primary task"),
        ("trunk", "trunk"),
        ("epochs", "epochs"),
    ):
        values = dict.fromkeys(
            str(run.summary[name]) for run in study.runs if run.summary.get(name) is not None
        )
        if values:
            facts.append(f"{word}: {', '.join(values)}")
    sizes = dict.fromkeys(size_text(run.summary.get("train_size")) for run in study.runs)
    facts.append(f"training samples: {'; '.join(sizes)}")
    said.append("; ".join(facts) + ".")
    if study.unfinished:
        names = ", ".join(str(path.relative_to(study.folder)) for path in study.unfinished)
        said.append(f"Left out, because they did not finish: {names}.")
    for path, reason in study.diverged.items():
        said.append(
            f"Left out, because it {reason.rstrip('.')}: {path.relative_to(study.folder)}. The means of its method "
            "are of the runs that did not diverge."
        )
    return said


def found(setting: Setting) -> list[str]:
    """What was found in one setting: the best method, the verdicts on it and on learned labels, and what else differs."""
    table, measure = setting.comparisons, setting.measure
    intervals = {label: measure_interval(runs, measure) for label, runs in setting.methods.items()}
    said = [headline(intervals, table, measure)]
    learned = [label for label in setting.methods if base_method(label) in LEARNED_METHODS]
    best = best_methods({label: interval.mean for label, interval in intervals.items()})
    subjects = list(dict.fromkeys(label for label in (*best, *learned) if label != "single"))
    if not learned:  # the others against single-task
        subjects = [label for label in setting.methods if label != "single"]
        table = table[table["reference"].map(base_method) == "single"]
    for label in subjects:
        verdicts = dict.fromkeys(table.loc[table["method"] == label, "verdict"])  # "one seed" said once
        said += [f"{label}: {words}." for words in verdicts]
    plain = table[(table["against"] == "same setting") & (table["reference"].map(base_method) == "single")]
    shown = plain[(plain["low"] > 0) | (plain["high"] < 0)]
    others = shown[~shown["method"].isin(subjects)]
    said += [f"{m}: {words}." for m, words in zip(others["method"], others["verdict"], strict=True)]
    said += [caution for label in subjects if (caution := _attribution(label, table)) is not None]
    if (samples := setting.test_samples) is not None and not all(
        shows(samples, abs(d)) for d in shown["difference"]
    ):
        said.append(
            f"Of {samples} test samples a difference on fewer than {SIGNS} may be luck with those, whatever seeds agree on."
        )
    if (caution := past_its_best(setting)) is not None:
        said.append(caution)
    return [*said, *(f"Labels of {sentence.rstrip('.')}." for sentence in label_verdicts(setting))]


def _attribution(label: str, table: pd.DataFrame) -> str | None:
    """A gain over single-task is no proof that learning the labels did it; say which controls it beat."""
    table = table[(table["method"] == label) & (table["against"] == "same setting")]
    references = table["reference"].map(base_method)
    better = set(references[table["low"] > 0])
    if base_method(label) in REFERENCES or "single" not in better:
        return None
    unbeaten = [name for name in _CONTROLS if name in set(references) - better]
    if not unbeaten:
        return None
    return (
        f"{label} is not shown to beat {' or '.join(unbeaten)}, so its gain over single may come from having "
        "any auxiliary task rather than from what its labels say."
    )


def limits(study: Results) -> list[str]:
    """How to read all numbers of the report."""
    measures = dict.fromkeys(setting.measure.title for setting in study.settings)
    accuracy = measures == {ACCURACY.title: None}
    measured, one = (
        ("Accuracy", "an accuracy") if accuracy else (" and ".join(measures), " and ".join(measures))
    )
    said = [
        "Intervals are Student t intervals over seeds: they cover the randomness of training, not that of "
        f"drawing the test set, which is the same for all runs. That of {one}, and the band of a curve, is a "
        "95 % interval of this mean alone, not corrected for their number.",
        "Intervals of differences are paired by seed and simultaneous: 95 % for all comparisons with the same "
        "reference together (Bonferroni). A difference is claimed where its interval excludes zero, which is where "
        "the corrected p is below 0.05.",
        "A method is compared with references at its own setting, the same values of all fields that matter to "
        "both, and with the best control where that is at another.",
        f"{measured} is that of the last epoch, never of the best one, which would favour noisy methods.",
        *origin_notes(run.summary for run in study.runs),
    ]
    if any(_lacks_control(setting) for setting in study.settings):
        said.append(
            "MAXL was run without a control (random, uniform, frozen): a gain over single may then come from "
            "having any auxiliary task rather than from learning its labels."
        )
    fewest = min(len(runs) for setting in study.settings for runs in setting.methods.values())
    if fewest < 5:
        said.append(
            f"Some methods have only {fewest} seed{'s' if fewest > 1 else ''}: run five or more before "
            "drawing conclusions."
        )
    return said


def _lacks_control(setting: Setting) -> bool:
    methods = {base_method(label) for label in setting.methods}
    return {"maxl", "single"} <= methods and not methods & set(_CONTROLS)
