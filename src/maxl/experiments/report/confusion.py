"""A page with what a run takes each class for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd
import plotly.graph_objects as go

from maxl.experiments.report.html import document
from maxl.experiments.report.page import scripts
from maxl.experiments.report.parts import Figure, Points, Section, Table

_TABLE = 100  # classes up to which the matrix also stands there in numbers
_LEAST, _CLASS, _MOST = 320, 22, 1600  # height in CSS pixels: at least, for each class, at most


def confusion_page(
    title: str,
    names: Sequence[str],
    confusion: Sequence[Sequence[int]],
    per_class: pd.DataFrame,
    said: Mapping[str, str],
) -> str:
    """A self-contained HTML page.

    Args:
        title: Of the page.
        names: Of the C classes.
        confusion: Samples of a class (row) that were taken for each (column), (C, C).
        per_class: A row a class, as text.
        said: What else is to be told: a word and its value.
    """
    counts = [[int(n) for n in row] for row in confusion]
    shares = [[round(n / sum(row), 4) if sum(row) else None for n in row] for row in counts]
    labels = [escape(_short(name, i)) for i, name in enumerate(names)]  # figures read markup
    table = None
    if len(names) <= _TABLE:
        rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
        table = pd.DataFrame(rows, columns=["", *names])
    plot = go.Figure(
        go.Heatmap(
            x=labels,
            y=labels,
            z=shares,
            customdata=counts,
            zmin=0,
            zmax=1,
            colorscale="Blues",
            colorbar={"title": "share", "tickformat": ".0%"},
            hovertemplate="%{y} taken for %{x}: %{customdata}, %{z:.1%} of the class<extra></extra>",
        )
    )
    plot.update_xaxes(title="taken for", type="category", automargin=True)
    plot.update_yaxes(title="class", type="category", autorange="reversed", automargin=True)
    figure = Figure(
        title="Confusion matrix",
        plot=plot,
        description="Rows are the samples' classes, columns what they were taken for; each row is divided by its sum.",
        table=table,
        height=min(_MOST, _LEAST + _CLASS * len(names)),
    )
    sections = [
        Section("Measures", "", [Points([f"{word}: {value}" for word, value in said.items()])]),
        Section("Confusion", "", [figure]),
        Section("Classes", "", [Table("Per class", per_class)]),
    ]
    return document(title, sections, scripts())


def _short(name: str, i: int) -> str:
    """A name as the label of an axis, where labels need to differ."""
    return name if len(name) <= 30 else f"{name[:24]}… ({i})"
