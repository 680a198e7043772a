"""What several figures draw: a mean with its band, and heat maps one under another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from maxl.experiments.report.style import Look, as_text, both_ends

_DIGITS = 4  # of what is drawn: beyond sight, and half the page's data
_NAME = 18  # characters of a row's name
_GAP = 40  # CSS pixels between two maps
_LABEL, _LINE = 20, 17  # of a name at the end of a line: characters at most, CSS pixels of height
_FEW_EPOCHS = 8
_FIGURE, _ABOVE_AND_BELOW = 420, 72  # of a figure over epochs: height, and what of it is no plot


def over_epochs(
    curves: Mapping[str, pd.DataFrame],
    looks: Mapping[str, Look],
    *,
    title: str,
    unit: str = "",
    between: tuple[float, float] | None = None,
) -> go.Figure:
    """Every method's mean and band by epoch, with its name where its line ends.

    Args:
        curves: By method.
        looks: Of the methods.
        title: Of the y axis.
        unit: Of its values.
        between: Ends of the y axis; what is to be seen of the curves by default.
    """
    plot = go.Figure()
    for label, curve in curves.items():
        add_band(plot, label, curve, looks[label], unit=unit)
    low, high = between or _extent(list(curves.values()))
    epochs = [epoch for curve in curves.values() for epoch in (curve.index[0], curve.index[-1])]
    first, last = float(min(epochs)), float(max(epochs))
    room = 0.02 * (last - first) or 0.5
    # Names beyond the range would stretch the axis.
    plot.update_xaxes(title="Epoch", range=[first - room, last + room], dtick=_epoch_step(first, last))
    plot.update_yaxes(title=title, range=[low, high])
    plot.update_layout(showlegend=False)
    _name_ends(plot, curves, looks, low, high)
    return plot


def _epoch_step(first: float, last: float) -> int | None:
    """The step of an axis of epochs: whole ones, where there are so few that Plotly would put halves between them."""
    return 1 if last - first <= _FEW_EPOCHS else None


def settled(
    curves: Mapping[str, pd.DataFrame], bounds: tuple[float, float]
) -> tuple[tuple[float, float], bool]:
    """Ends of an axis for curves that begin far from where they end, and whether some of their beginning is beyond.

    The first fifth of the epochs counts only as far as that leaves the rest at least half of the height; of fewer than eight
    all count.

    Args:
        curves: By method, with low and high.
        bounds: That no value is beyond.
    """
    last = max(curve.index.max() for curve in curves.values())
    first = min(curve.index.min() for curve in curves.values())
    after = first + 0.2 * (last - first) * (max(map(len, curves.values())) >= 8)
    low, high = _extent([curve[curve.index >= after] for curve in curves.values()])
    means = [float(value) for curve in curves.values() for value in curve["mean"]]
    bottom, top = min(means), max(means)
    room = high - low
    low = low if bottom < low - room else min(low, bottom)
    high = high if top > high + room else max(high, top)
    margin = 0.04 * (high - low)
    ends = (max(bounds[0], low - margin), min(bounds[1] + margin, high + margin))
    return ends, bottom < ends[0] or top > ends[1]


def _extent(curves: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """Least and greatest value of means and bands; a band that is far wider than the means go counts in part."""
    means = np.concatenate([curve["mean"].to_numpy(float) for curve in curves])
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    middle, room = (low + high) / 2, max(high - low, 1e-3 * max(abs(low), abs(high), 1e-9))
    ends = np.concatenate([curve[["low", "high"]].to_numpy(float).ravel() for curve in curves])
    ends = ends[np.isfinite(ends)]
    if len(ends):
        low = min(low, max(float(ends.min()), middle - 3 * room))
        high = max(high, min(float(ends.max()), middle + 3 * room))
    return (low - 0.05 * room, high + 0.05 * room)


def _name_ends(
    plot: go.Figure, curves: Mapping[str, pd.DataFrame], looks: Mapping[str, Look], low: float, high: float
) -> None:
    """The method's name right of its line's last point, moved up or down where names would cover each other."""
    ends = {label: (curve.index[-1], float(curve["mean"].iloc[-1])) for label, curve in curves.items()}
    a_pixel = (high - low) / (_FIGURE - _ABOVE_AND_BELOW)
    wanted = {label: (min(max(y, low), high) - low) / a_pixel for label, (_, y) in ends.items()}
    placed = spread_out(wanted, _LINE)
    for label, (x, y) in ends.items():
        plot.add_annotation(
            x=x,
            y=min(max(y, low), high),
            text=as_text(label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"),
            xanchor="left",
            ax=22,
            ay=wanted[label] - placed[label],
            showarrow=True,
            arrowhead=0,
            arrowwidth=1.5,
            arrowcolor=looks[label].colour,
            standoff=2,
            font={"size": 12},
        )
    longest = max(min(len(label), _LABEL) for label in curves)
    plot.update_layout(margin={"r": 34 + 7 * longest})


def spread_out(wanted: Mapping[str, float], apart: float) -> dict[str, float]:
    """Places near those wanted, in the same order, at least ``apart`` from each other."""
    order = sorted(wanted, key=lambda label: wanted[label])
    groups: list[list[str]] = []

    def place(group: list[str]) -> list[float]:
        middle = sum(wanted[label] for label in group) / len(group)
        return [middle + apart * (i - (len(group) - 1) / 2) for i in range(len(group))]

    for label in order:
        groups.append([label])
        while len(groups) > 1 and place(groups[-2])[-1] + apart > place(groups[-1])[0]:
            last = groups.pop()
            groups[-1] += last
    return {label: y for group in groups for label, y in zip(group, place(group), strict=True)}


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
        short = [as_text(both_ends(name, _NAME)) for name in names]
        ticks = {"type": "category", "tickvals": names, "ticktext": short}
        plot.update_yaxes(**ticks, autorange="reversed", showgrid=False, row=row, col=1)
    epochs = [float(epoch) for table in tables.values() for epoch in table.columns]
    plot.update_xaxes(dtick=_epoch_step(min(epochs), max(epochs)))
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
