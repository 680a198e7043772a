"""The report's sections, in the order a reader asks for them."""

from __future__ import annotations

import json
from importlib import resources

from maxl.experiments.report.final import accuracy_by_psi, cost
from maxl.experiments.report.html import document
from maxl.experiments.report.labels import labels_over_epochs
from maxl.experiments.report.parts import Part, Points, Section
from maxl.experiments.report.runs import Results, data_name
from maxl.experiments.report.samples import features, gallery
from maxl.experiments.report.style import looks, templates
from maxl.experiments.report.summary import compared, found, limits
from maxl.experiments.report.tables import accuracy_table, comparison_table, outcome_table
from maxl.experiments.report.training import accuracy_over_epochs, cosine_over_epochs
from maxl.experiments.studies.variants import base_method


def page(study: Results) -> str:
    """The whole report as HTML."""
    return document(title(study), sections(study), scripts())


def scripts() -> list[str]:
    """What draws the figures of a page."""
    from plotly.offline import get_plotlyjs

    script = resources.files("maxl.experiments.report").joinpath("report.js").read_text(encoding="utf-8")
    return [get_plotlyjs(), f"const MAXL_TEMPLATES = {json.dumps(templates())};", script]


def title(study: Results) -> str:
    """ "Do auxiliary labels help on digits?" or, for one run, "MAXL run: digits, maxl, seed 0"."""
    if len(study.runs) == 1:
        run = study.runs[0]
        return f"MAXL run: {data_name(run.summary['data'])}, {run.label}, seed {run.seed}"
    data = ", ".join(dict.fromkeys(data_name(run.summary["data"]) for run in study.runs))
    methods = {base_method(label) for label in study.methods}
    return f"Do auxiliary labels help on {data}?" if len(methods) > 1 else f"MAXL study: {data}"


def sections(study: Results) -> list[Section]:
    """All sections, figures included."""
    look = looks(study.methods)
    measures = dict.fromkeys(setting.measure.title for setting in study.settings)
    return [
        summary(study),
        Section(
            "Results",
            f"Final test {' and '.join(measures)}, then every method against every reference that was run.",
            results(study),
        ),
        Section(
            "Learning curves",
            "The band is the 95 % interval over seeds, of each mean alone.",
            [accuracy_over_epochs(setting, look) for setting in study.settings],
        ),
        Section(
            "Gradient cosine",
            "Above zero the auxiliary task pulls the shared trunk the way the primary task does; near zero "
            "it neither helps nor hurts; below zero the two tasks conflict.",
            [part for setting in study.settings for part in cosine_over_epochs(setting, look)],
        ),
        Section(
            "Generated labels",
            "Labels have collapsed where few auxiliary classes are in use, and say nothing where their "
            "entropy stays at its maximum.",
            [part for setting in study.settings for part in labels_over_epochs(setting, look)],
        ),
        Section("Number of auxiliary classes", "", accuracy_by_psi(study, look)),
        Section(
            "Features",
            "Features of the shared trunk, coloured by primary class. Distances between far clusters mean "
            "nothing in t-SNE; the silhouette, from −1 to 1, says how well the classes are separated in the "
            "full space. Choose a class in a legend to hide it.",
            features(study),
        ),
        Section("Gallery", "The training images that score highest in an auxiliary class.", gallery(study)),
        Section(
            "Cost",
            "Inference costs the same for all methods: only the trunk and the primary head remain. Peak memory on "
            "the CPU is that of the whole process while it trains, PyTorch included, to within a tenth.",
            [part for setting in study.settings for part in cost(setting, look)],
        ),
    ]


def summary(study: Results) -> Section:
    """The section on top."""
    parts: list[Part] = [Points(compared(study), "What was compared")]
    for setting in study.settings:
        parts.append(Points(found(setting), f"What was found: {setting.name}"))
    parts.append(Points(limits(study), "How to read this"))
    return Section("Summary", "", parts)


def results(study: Results) -> list[Part]:
    """The tables of every setting."""
    parts: list[Part] = []
    for setting in study.settings:
        parts.append(accuracy_table(setting))
        if (outcomes := outcome_table(setting)) is not None:
            parts.append(outcomes)
        if (comparisons := comparison_table(setting)) is not None:
            parts.append(comparisons)
    return parts
