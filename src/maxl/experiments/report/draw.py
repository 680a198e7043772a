"""What several figures draw: a mean with its band, and heat maps one under another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from maxl.experiments.report.style import Look

_DIGITS = 4  # of what is drawn: beyond sight, and half the page's data
_NAME = 18  # characters of a row's name
_GAP = 40  # CSS pixels between two maps


def over_epochs(
    curves: Mapping[str, pd.DataFrame], looks: Mapping[str, Look], *, title: str, unit: str = ""
) -> go.Figure:
    """Every method's mean and band by epoch; ``title`` is that of the y axis."""
    plot = go.Figure()
    for label, curve in curves.items():
        add_band(plot, label, curve, looks[label], unit=unit)
    plot.update_xaxes(title="Epoch")
    plot.update_yaxes(title=title)
    return plot


def add_band(
    plot: go.Figure, label: str, curve: pd.DataFrame, look: Look, *, unit: str = "", **place: Any
) -> None:
    """A mean line and its 95 % band (where there are several seeds), as one entry of the legend."""
    known = curve.dropna(subset=["low", "high"])
    if len(known):
        outline = go.Scatter(
            x=[*known.index, *known.index[::-1]],
            y=[*known["high"].round(_DIGITS), *known["low"].round(_DIGITS)[::-1]],
            mode="lines",  # by default few epochs would get a dot at every corner of the band
            fill="toself",
            fillcolor=look.band(),
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=label,
            showlegend=False,
        )
        plot.add_trace(outline, **place)
    width = 3 if label.startswith("maxl") else 2
    line = go.Scatter(
        x=curve.index.tolist(),
        y=curve["mean"].round(_DIGITS).tolist(),
        name=label,
        mode="lines+markers" if len(curve) == 1 else "lines",
        line={"color": look.colour, "dash": look.dash, "width": width},
        legendgroup=label,
        hovertemplate=f"{label}, epoch %{{x}}: %{{y:.3~f}}{unit}<extra></extra>",
    )
    plot.add_trace(line, **place)


def heat_maps(
    tables: Mapping[str, pd.DataFrame], *, colours: str, low: float, high: float | None, title: str
) -> go.Figure:
    """One heat map a method under another: rows by epochs, the same scale for all."""
    if high is None:
        high = max(1e-9, *(float(np.nanmax(table.to_numpy(float))) for table in tables.values()))
    plot = make_subplots(
        rows=len(tables),
        cols=1,
        subplot_titles=list(tables),
        vertical_spacing=_GAP / heat_map_height(tables),
        shared_xaxes=True,
    )
    for row, table in enumerate(tables.values(), start=1):
        names = [str(name) for name in table.index]
        heat = go.Heatmap(
            z=table.round(_DIGITS).to_numpy(float),
            x=table.columns.tolist(),
            y=names,
            coloraxis="coloraxis",
            hovertemplate=f"%{{y}}, epoch %{{x}}: %{{z:.2f}}<extra>{title}</extra>",
        )
        plot.add_trace(heat, row=row, col=1)
        # Short names: long ones would leave a phone no room for the map.
        short = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in names]
        ticks = {"type": "category", "tickvals": names, "ticktext": short}
        plot.update_yaxes(**ticks, autorange="reversed", showgrid=False, row=row, col=1)
    plot.update_xaxes(title="Epoch", row=len(tables), col=1)
    bar = {
        "title": title,
        "orientation": "h",
        "y": 1,
        "yanchor": "bottom",
        "thickness": 10,
        "ypad": 28,
        "nticks": 4,
    }
    plot.update_layout(coloraxis={"colorscale": colours, "cmin": low, "cmax": high, "colorbar": bar})
    plot.update_layout(margin={"t": 96})
    return plot


def heat_map_height(tables: Mapping[str, pd.DataFrame]) -> int:
    """Room for every row's name, in CSS pixels."""
    return 150 + sum(_GAP + 17 * max(len(table), 3) for table in tables.values())
