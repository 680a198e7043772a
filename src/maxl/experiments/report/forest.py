"""The forest plot: every method's difference to the reference, with its simultaneous interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from maxl.experiments.report.parts import Figure, Note, Part
from maxl.experiments.report.references import against, reference_of
from maxl.experiments.report.runs import Setting
from maxl.experiments.report.style import Look, both_ends
from maxl.experiments.report.tables import signed
from maxl.experiments.report.wording import listed
from maxl.experiments.runs.measures import Measure
from maxl.experiments.runs.methods import LEARNED_METHODS
from maxl.experiments.studies.statistics import RELEVANT, intervals_text
from maxl.experiments.studies.variants import base_method

_ROW, _GAP, _EDGES = 44, 74, 86  # heights in CSS pixels: of a method, between panels, above and below
_NAME = 26  # characters of a method's name


def forest(setting: Setting, looks: Mapping[str, Look]) -> Part:
    """Differences to single-task training and, of learned labels, to uniform ones, a panel each."""
    panels = {name: rows for name in _references(setting) if not (rows := _rows(setting, name)).empty}
    if not panels:
        return Note(f"{setting.name}: no differences, because there is nothing to compare with.")
    every = pd.concat(list(panels.values()))
    return intervals(
        panels,
        looks,
        setting.measure,
        title=f"Differences to {listed(list(panels))}: {setting.name}",
        intervals_are=intervals_text(every["comparisons"]),
        name=f"differences {setting.name}",
    )


def intervals(
    panels: Mapping[str, pd.DataFrame],
    looks: Mapping[str, Look],
    measure: Measure,
    *,
    title: str,
    intervals_are: str,
    name: str,
) -> Figure:
    """Differences with their intervals.

    Args:
        panels: By what the methods are compared with; rows have method, difference, low and high, NaN where unknown.
        looks: Of the methods.
        measure: What differs.
        title: Of the figure.
        intervals_are: What kind they are of.
        name: Of an image file.
    """
    counts = [len(rows) for rows in panels.values()]
    height = _EDGES + _ROW * sum(counts) + _GAP * (len(panels) - 1)
    plot = make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=counts,
        shared_xaxes=True,
        vertical_spacing=_GAP / (height - _EDGES) if len(panels) > 1 else 0,
        subplot_titles=[f"against {other}" for other in panels],
    )
    for number, rows in enumerate(panels.values(), start=1):
        for row in (dict(row) for _, row in rows.iterrows()):
            plot.add_trace(_interval(row, looks[str(row["method"])], measure), row=number, col=1)
        names = [str(method) for method in rows["method"]]
        room = [len(names) - 0.5, -0.75]  # above the first row for its numbers
        axis = {"type": "category", "range": room, "showgrid": False, "tickvals": names}
        plot.update_yaxes(**axis, ticktext=[both_ends(method, _NAME) for method in names], row=number, col=1)
        plot.add_vline(x=0, line={"width": 1.5, "color": "#808080"}, row=number, col=1)
        edge = measure.scale * RELEVANT
        band = {"fillcolor": "#808080", "opacity": 0.14, "line_width": 0, "layer": "below"}
        plot.add_vrect(x0=-edge, x1=edge, **band, row=number, col=1)
    what = "points" if measure.points else measure.title
    plot.update_annotations(x=0, xanchor="left", font={"size": 14})
    plot.update_xaxes(title=f"Difference ({what})", showticklabels=True, row=len(panels), col=1)
    plot.update_layout(showlegend=False, margin={"t": 34})
    if (ends := _room(panels, measure)) is not None:
        plot.update_xaxes(range=ends)
    return Figure(
        title=title,
        plot=plot,
        description=(
            f"Mean difference in test {measure.title}, paired by seed, with {intervals_are}. Right of the "
            f"line is better. An interval that crosses the line shows no difference; the grey band is "
            f"±{measure.difference_text(RELEVANT)}, too little to act on. {_told(panels, measure)}"
        ),
        table=_table(panels, measure),
        height=height,
        name=name,
    )


def _room(panels: Mapping[str, pd.DataFrame], measure: Measure) -> list[float] | None:
    """A range of the axis with room for the numbers above the outermost marks; None where nothing is to be drawn."""
    every = (
        pd.concat([rows[["difference", "low", "high"]] for rows in panels.values()]).astype(float)
        * measure.scale
    )
    edge = measure.scale * RELEVANT
    low, high = min(every.min().min(), -edge), max(every.max().max(), edge)
    if not math.isfinite(low) or not math.isfinite(high):
        return None
    beside = 0.25 * (high - low)
    return [low - beside, high + beside]


def _references(setting: Setting) -> list[str]:
    base = reference_of(setting)
    if base is None:
        return []
    learned = any(base_method(label) in LEARNED_METHODS for label in setting.methods)
    wanted = {base_method(base), *(["uniform"] if learned else [])}
    variants = [label for label in setting.methods if base_method(label) in wanted]
    return sorted(
        variants, key=lambda label: base_method(label) != base_method(base)
    )  # in their order otherwise


def _rows(setting: Setting, reference: str) -> pd.DataFrame:
    rows = against(setting, reference)
    rows = rows[(rows["reference"] == reference) & rows["difference"].notna()]
    if base_method(reference) == "uniform":  # the others have their panel
        rows = rows[rows["method"].map(base_method).isin(LEARNED_METHODS)]
    order = {label: i for i, label in enumerate(setting.methods)}
    ordered: pd.DataFrame = rows.sort_values("method", key=lambda names: names.map(order))
    return ordered


def _interval(row: dict[str, object], look: Look, measure: Measure) -> go.Scatter:
    mean, low, high = (measure.scale * float(row[end]) for end in ("difference", "low", "high"))  # type: ignore[arg-type]
    known = not math.isnan(low)
    shown = f"{signed(mean, measure)} ({signed(low, measure)} to {signed(high, measure)})"
    return go.Scatter(
        x=[mean],
        y=[str(row["method"])],
        error_x={
            "array": [high - mean] if known else None,
            "arrayminus": [mean - low] if known else None,
            "symmetric": False,
            "thickness": 2.5,
            "width": 7,
        },
        mode="markers+text",
        text=[shown if known else f"{signed(mean, measure)}, one seed or too few"],
        textposition="top center",
        cliponaxis=False,
        marker={"size": 11, "symbol": look.symbol, "color": look.colour},
        name=str(row["method"]),
        hovertemplate=f"{row['method']}: {shown}<extra></extra>",
    )


def _told(panels: Mapping[str, pd.DataFrame], measure: Measure) -> str:
    shown = [
        f"{row['method']} {'better' if row['low'] > 0 else 'worse'} than {name}"
        for name, rows in panels.items()
        for _, row in rows.iterrows()
        if row["low"] > 0 or row["high"] < 0
    ]
    return f"Shown to differ: {'; '.join(shown)}." if shown else "Nothing is shown to differ."


def _table(panels: Mapping[str, pd.DataFrame], measure: Measure) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Method": row["method"],
            "Against": name,
            "Difference": signed(measure.scale * row["difference"], measure),
            "Low": signed(measure.scale * row["low"], measure),
            "High": signed(measure.scale * row["high"], measure),
        }
        for name, rows in panels.items()
        for _, row in rows.iterrows()
    )
