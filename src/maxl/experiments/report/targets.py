"""What is predicted where samples have no single class: numbers against the true ones, and each label of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from maxl.experiments.report.labels import class_names
from maxl.experiments.report.parts import Figure, Part, Table
from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.report.style import Look, as_text
from maxl.experiments.runs.measures import plain

_MOST_TARGETS = 6  # figures of a setting


def numbers(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    """Predicted against true numbers of test samples, a figure a target; nothing where no run kept them."""
    runs = {label: run for label, found in setting.methods.items() if (run := _with_numbers(found))}
    pairs = {
        label: (_array(run, "target_truths"), _array(run, "target_predicted")) for label, run in runs.items()
    }
    if not pairs:
        return []
    targets = next(iter(pairs.values()))[0].shape[1]
    pairs = {label: pair for label, pair in pairs.items() if pair[0].shape[1] == targets}
    names = class_names(setting, targets)
    return [
        _figure(
            setting, names[i], {label: (t[:, i], p[:, i]) for label, (t, p) in pairs.items()}, looks, runs
        )
        for i in range(min(targets, _MOST_TARGETS))
    ]


def labels(setting: Setting) -> list[Part]:
    """How well each label of several is found, means over seeds; nothing where no run kept that."""
    found = {
        label: kept
        for label, runs in setting.methods.items()
        if (kept := [_array(run, "label_counts") for run in runs if _has(run, "label_counts")])
    }
    if not found:
        return []
    first = next(iter(found.values()))[0]
    names = class_names(setting, len(first))
    columns: dict[str, list[str]] = {
        "Label": names,
        "Test samples": [f"{int(n):,}" for n in first[:, 0]],
    }
    shares: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
        "precision": lambda counts: _shares(counts[:, 2], counts[:, 1]),
        "recall": lambda counts: _shares(counts[:, 2], counts[:, 0]),
        "F1": lambda counts: _shares(2 * counts[:, 2], counts[:, 0] + counts[:, 1]),
    }
    for label, kept in found.items():
        fitting = [counts for counts in kept if counts.shape == first.shape]
        for name, share in shares.items():
            each = np.array([share(counts) for counts in fitting])
            columns[f"{label}, {name} (%)"] = [
                "–" if np.isnan(values).any() else f"{100 * values.mean():.1f}" for values in each.T
            ]
    caption = f"Labels given from a probability of one half, test samples, mean over seeds: {setting.name}"
    return [Table(caption, pd.DataFrame(columns))]


def _figure(
    setting: Setting,
    name: str,
    pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    looks: Mapping[str, Look],
    runs: Mapping[str, Run],
) -> Figure:
    ends = [f(values) for pair in pairs.values() for values in pair for f in (np.min, np.max)]
    low, high = float(min(ends)), float(max(ends))
    right = go.Scatter(
        x=[low, high], y=[low, high], mode="lines", line={"width": 1, "color": "#808080"}, showlegend=False
    )
    plot = go.Figure(right.update(hoverinfo="skip"))
    for label, (truths, predicted) in pairs.items():
        plot.add_trace(
            go.Scatter(
                x=truths.tolist(),
                y=predicted.tolist(),
                name=as_text(label),
                mode="markers",
                marker={
                    "color": looks[label].colour,
                    "symbol": looks[label].symbol,
                    "size": 6,
                    "opacity": 0.6,
                },
                hovertemplate=f"{as_text(label)}: %{{y:.4~g}} for %{{x:.4~g}}<extra></extra>",
            )
        )
    plot.update_xaxes(title=f"true {as_text(name)}")
    plot.update_yaxes(title=f"predicted {as_text(name)}", automargin=True)
    plot.update_layout(showlegend=len(pairs) > 1, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    half = "; ".join(f"{label} {plain(float(np.median(np.abs(p - t))))}" for label, (t, p) in pairs.items())
    return Figure(
        title=f"Predicted {name}: {setting.name}",
        plot=plot,
        description=f"A point a test sample, up to {max(len(t) for t, _ in pairs.values())} of a run, seed "
        f"{next(iter(runs.values())).seed}; on the line predictions are right. Half of the errors are below: {half}.",
        table=_by_quarter(pairs),
        name=f"predicted {name} {setting.name}",
    )


def _by_quarter(pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> pd.DataFrame:
    """Mean absolute errors in each quarter of the true numbers."""
    truths = next(iter(pairs.values()))[0]
    edges = np.quantile(truths, [0, 0.25, 0.5, 0.75, 1])
    rows = []
    for i in range(4):
        row = {"True values": f"{plain(edges[i])} to {plain(edges[i + 1])}"}
        for label, (t, p) in pairs.items():
            inside = (t >= edges[i]) & (t <= edges[i + 1])
            row[f"{label}, mean absolute error"] = (
                plain(float(np.abs(p - t)[inside].mean())) if inside.any() else "–"
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _has(run: Run, name: str) -> bool:
    return run.snapshot is not None and getattr(run.snapshot, name) is not None


def _array(run: Run, name: str) -> NDArray[Any]:
    found: NDArray[Any] = getattr(run.snapshot, name)
    return found


def _with_numbers(runs: Sequence[Run]) -> Run | None:
    return next((run for run in runs if _has(run, "target_truths")), None)
