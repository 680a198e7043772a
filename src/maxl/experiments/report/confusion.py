"""A page with what a run takes each class for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from maxl.experiments.report.classes import confusion_figure
from maxl.experiments.report.html import document
from maxl.experiments.report.page import scripts
from maxl.experiments.report.parts import Points, Section, Table


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
    figure = confusion_figure("Confusion matrix", names, [[int(n) for n in row] for row in confusion])
    sections = [
        Section("Measures", "", [Points([f"{word}: {value}" for word, value in said.items()])]),
        Section("Confusion", "", [figure]),
        Section("Classes", "", [Table("Per class", per_class)]),
    ]
    return document(title, sections, scripts())
