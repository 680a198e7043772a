"""The report's sections, in the order a reader asks for them: the decision first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path

from maxl.experiments.report.browser import browsable, browser_scripts, of_run
from maxl.experiments.report.classes import by_class, mask_gallery
from maxl.experiments.report.facts import made, what_it_was
from maxl.experiments.report.final import accuracy_by_psi, cost
from maxl.experiments.report.forest import forest
from maxl.experiments.report.html import document
from maxl.experiments.report.labels import label_diagnostics, labels_by_class
from maxl.experiments.report.parts import Browser, Decision, Note, Part, Points, Section
from maxl.experiments.report.references import CONTROLS
from maxl.experiments.report.runs import Results, Setting, data_name
from maxl.experiments.report.samples import features, gallery
from maxl.experiments.report.structure import kept_fact, structure
from maxl.experiments.report.style import Look, looks, templates
from maxl.experiments.report.summary import compared, found, limits
from maxl.experiments.report.tables import accuracy_table, comparison_table, outcome_table
from maxl.experiments.report.targets import labels, numbers
from maxl.experiments.report.training import accuracy_over_epochs, cosine_over_epochs
from maxl.experiments.report.verdict import Verdict, overall, verdicts
from maxl.experiments.runs.measures import task_of
from maxl.experiments.runs.methods import NOISE_METHODS
from maxl.experiments.studies.variants import base_method

VERDICT = "Verdict"
_MOST_BROWSERS = 4  # a page of hundreds of pictures each


def page(study: Results, found: list[Section] | None = None, file: Path | None = None) -> str:
    """The whole report as HTML.

    Args:
        study: The runs.
        found: Its sections, if they are there already.
        file: Where the report is written.
    """
    return document(title(study), found or sections(study, file), scripts(), subtitle=what_it_was(study))


def scripts() -> list[str]:
    """What draws the figures of a page."""
    from plotly.offline import get_plotlyjs

    drawn = resources.files("maxl.experiments.report").joinpath("report.js").read_text(encoding="utf-8")
    looks_of_both = f"const MAXL_TEMPLATES = {json.dumps(templates())};"
    return [get_plotlyjs(), looks_of_both, drawn, *browser_scripts()]


def title(study: Results) -> str:
    """Data set, task and method: "Do maxl labels help on digits (classification)?", or of one method "maxl on digits ..."."""
    data = ", ".join(dict.fromkeys(data_name(run.summary["data"]) for run in study.runs))
    task = ", ".join(dict.fromkeys(task_of(run.summary) for run in study.runs))
    methods = list(dict.fromkeys(base_method(label) for label in study.methods))
    if len(methods) == 1:
        seed = f", seed {study.runs[0].seed}" if len(study.runs) == 1 else ""
        return f"{study.methods[0] if len(study.methods) == 1 else methods[0]} on {data} ({task}){seed}"
    asked = [name for name in methods if name != "single" and name not in CONTROLS] or [
        name for name in methods if name != "single"
    ]
    if {*methods} <= {"single", *NOISE_METHODS}:
        return f"Does anything help against wrong labels on {data} ({task})?"
    who = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])} or {asked[-1]}"
    return f"Do {who} labels help on {data} ({task})?"


def sections(study: Results, file: Path | None = None) -> list[Section]:
    """All sections, figures included; one in which there is nothing to see is left out, and the last says why."""
    look = looks(study.methods)
    made_of = [
        decision(study),
        Section(
            "Differences",
            "What each method gains or loses, seed against the same seed.",
            [part for setting in study.settings for part in _differences(setting, look)],
        ),
        Section(
            "Structure",
            "What the features keep of finer classes that the task does not ask for.",
            [structure(setting, look) for setting in study.settings],
        ),
        Section(
            "Learning curves",
            "The band is the 95 % interval over seeds, of each mean alone.",
            [accuracy_over_epochs(setting, look) for setting in study.settings],
        ),
        Section("Number of auxiliary classes", "", accuracy_by_psi(study, look)),
        Section(
            "Invented labels",
            "What the labels of a generator, or clusters, tell apart within a class.",
            [*(part for setting in study.settings for part in labels_by_class(setting)), *_seen(study, file)],
        ),
        Section(
            "Class by class",
            "Which classes are found, and what they are taken for.",
            [part for s in study.settings for part in (*mask_gallery(s), *by_class(s))],
        ),
        Section(
            "Predictions",
            "Of the test samples: numbers that are predicted beside the true ones, or how well each label is found.",
            [part for s in study.settings for part in (*numbers(s, look), *labels(s))],
        ),
        Section(
            "Cost",
            "Inference costs the same for all methods: only the trunk and the primary head remain. Peak memory on "
            "the CPU is that of the whole process while it trains, PyTorch included, to within a tenth.",
            [part for setting in study.settings for part in cost(setting, look)],
        ),
        Section(
            "Features",
            "Features of the shared trunk, coloured by class: the primary one, or that of the column that was looked for. Distances between far clusters mean "
            "nothing in t-SNE; the silhouette, from −1 to 1, says how well the classes are separated in the "
            "full space. Choose a class in a legend to hide it.",
            features(study),
        ),
        Section(
            "Diagnostics",
            "For whoever wants to know why. Gradient cosine: above zero the auxiliary task pulls the shared trunk the "
            "way the primary task does; near zero it neither helps nor hurts; below zero the two tasks conflict. "
            "Labels have collapsed where few auxiliary classes are in use, and say nothing where their entropy "
            "stays at its maximum.",
            [
                part
                for setting in study.settings
                for part in (*cosine_over_epochs(setting, look), *label_diagnostics(setting, look))
            ],
        ),
        Section("Settings, versions and date", "", [*summary(study).parts, *made(study)]),
    ]
    shown = [s for s in made_of if any(not isinstance(part, Note) for part in s.parts)]
    left_out = {
        s.title: notes for s in made_of if (notes := [p.text for p in s.parts if isinstance(p, Note)])
    }
    whole = [
        Section(s.title, s.intro, [part for part in s.parts if not isinstance(part, Note)]) for s in shown
    ]
    if left_out:
        told = [f"{name}: {note}" for name, notes in left_out.items() for note in notes]
        whole[-1].parts.append(Points(told, "What is not shown, and why"))
    return whole


def decision(study: Results) -> Section:
    """The verdict; of several settings their sum, with each behind a line."""
    each = verdicts(study)
    boxes = [_box(v, setting) for v, setting in zip(each, study.settings, strict=True)]
    if len(boxes) == 1:
        return Section(VERDICT, "", [replace(boxes[0], title="")])
    answer, headline = overall(each)
    rows = [(v.setting, v.headline) for v in each]
    return Section(VERDICT, "", [Decision(answer, headline, rows, details=boxes)])


def _box(verdict: Verdict, setting: Setting) -> Decision:
    facts = [*verdict.facts, *kept_fact(setting)]
    return Decision(verdict.answer, verdict.headline, facts, verdict.advice, verdict.command, verdict.setting)


def _differences(setting: Setting, look: Mapping[str, Look]) -> list[Part]:
    return [forest(setting, look), *results_of(setting)]


def _seen(study: Results, file: Path | None) -> list[Part]:
    """Browsers of invented classes; for runs of older versions their galleries."""
    parts: list[Part] = []
    older: list[Setting] = []
    place = study.folder / "report.html" if file is None else file
    for setting in study.settings:
        run = browsable(setting)
        if run is None:
            older.append(setting)
            continue
        number = 1 + sum(isinstance(part, Browser) for part in parts)
        if number > _MOST_BROWSERS:
            parts.append(
                Note(f"{setting.name}: no invented classes, to keep the page small; report its runs alone.")
            )
            continue
        name = f"{place.stem}-invented{'' if number == 1 else f'-{number}'}.csv"
        parts.append(of_run(setting, run, place.with_name(name)))
    return [*parts, *gallery(Results(study.folder, study.runs, [], {}, older))]


def summary(study: Results) -> Section:
    """What was compared, what was found, and how to read it."""
    parts: list[Part] = [Points(compared(study), "What was compared")]
    for setting in study.settings:
        parts.append(Points(found(setting), f"What was found: {setting.name}"))
    parts.append(Points(limits(study), "How to read this"))
    return Section("Summary", "", parts)


def results(study: Results) -> list[Part]:
    """The tables of every setting."""
    return [part for setting in study.settings for part in results_of(setting)]


def results_of(setting: Setting) -> list[Part]:
    """The tables of a setting: results, structure and calibration, and every comparison."""
    parts: list[Part] = [accuracy_table(setting)]
    if (outcomes := outcome_table(setting)) is not None:
        parts.append(outcomes)
    if (comparisons := comparison_table(setting)) is not None:
        parts.append(comparisons)
    return parts
