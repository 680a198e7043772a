"""What trained features keep of a column that training was not asked for: the few-shot probe of each method."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from maxl.experiments.report.parts import Figure, Note, Part
from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.report.style import Look
from maxl.experiments.report.tables import signed
from maxl.experiments.runs.measures import PROBE
from maxl.experiments.studies.intervals import PairedDifference, mean_interval
from maxl.experiments.studies.structure import against_single, kept_sentences, kept_text

_ROW, _EDGES = 44, 96  # heights in CSS pixels: of a method, above and below


def kept_fact(setting: Setting) -> list[tuple[str, str]]:
    """What the features keep of the column that was looked for, as a line of the verdict; none where nothing is compared."""
    probed = _probed(setting)
    said = kept_sentences(_values(probed), _inputs(probed))
    if not said:
        return []
    column = next(iter(probed.values()))[0].summary["probe"]
    return [
        (
            "What features keep",
            f"accuracy of a probe for '{column}', which is not test accuracy. {' '.join(said)}",
        )
    ]


def _probed(setting: Setting) -> dict[str, list[Run]]:
    """The runs that were given a column to look for, by method."""
    return {
        label: runs
        for label, found in setting.methods.items()
        if (runs := [run for run in found if run.summary.get(PROBE.key) is not None])
    }


def _values(probed: Mapping[str, list[Run]]) -> dict[str, dict[int, float]]:
    return {label: {run.seed: _points(run, PROBE.key) for run in runs} for label, runs in probed.items()}


def _inputs(probed: Mapping[str, list[Run]]) -> dict[int, float]:
    """The probe of the raw inputs, which is the same for all runs of a seed."""
    key = "test_probe_inputs"
    every = [run for runs in probed.values() for run in runs if run.summary.get(key) is not None]
    return {run.seed: _points(run, key) for run in every}


def structure(setting: Setting, looks: Mapping[str, Look]) -> Part:
    """The probe's accuracy of each method with its interval, and of the raw inputs as a line."""
    probed = _probed(setting)
    if not probed:
        return Note(f"{setting.name}: no structure, because no run was given a column to look for (--probe).")
    values = _values(probed)
    differences = against_single(values)
    of_inputs = _inputs(probed)
    inputs = sum(of_inputs.values()) / len(of_inputs) if of_inputs else math.nan
    plot, rows = go.Figure(), []
    for label, by_seed in values.items():
        interval = mean_interval(by_seed.values())
        half = math.nan if interval.n == 1 else interval.high - interval.mean
        plot.add_trace(_row(label, interval.mean, half, looks[label]))
        rows.append(_in_words(label, interval.mean, half, differences.get(label), probed[label]))
    names = list(values)
    plot.update_yaxes(
        type="category", range=[len(names) - 0.5, -0.75], showgrid=False, tickvals=names, automargin=True
    )
    plot.update_xaxes(title="Accuracy of the probe (%)")
    if not math.isnan(inputs):
        plot.add_vline(x=inputs, line={"width": 1.5, "dash": "dash", "color": "#808080"})
        plot.add_annotation(
            x=inputs, y=1, yref="paper", text=f"raw inputs {inputs:.1f}", showarrow=False, yanchor="bottom"
        )
    plot.update_layout(showlegend=False, margin={"t": 34})
    some = next(iter(probed.values()))[0].summary
    return Figure(
        title=f"What the features keep of {some['probe']}: {setting.name}",
        plot=plot,
        description=(
            f"A linear probe of '{some['probe']}' on the features of test samples, which sees {some['probe_shots']} training samples "
            f"of each of its classes; means over seeds with 95 % intervals. {kept_text(values, of_inputs)}"
        ),
        table=pd.DataFrame(rows),
        height=_EDGES + _ROW * len(names),
        name=f"structure {setting.name}",
    )


def _points(run: Run, key: str) -> float:
    return PROBE.scale * float(run.summary[key])


def _row(label: str, mean: float, half: float, look: Look) -> go.Scatter:
    shown = f"{mean:.1f}" if math.isnan(half) else f"{mean:.1f} ± {half:.1f}"
    return go.Scatter(
        x=[mean],
        y=[label],
        error_x={"array": [None if math.isnan(half) else half], "thickness": 2.5, "width": 7},
        mode="markers+text",
        text=[shown],
        textposition="top center",
        cliponaxis=False,
        marker={"size": 11, "symbol": look.symbol, "color": look.colour},
        name=label,
        hovertemplate=f"{label}: {shown}<extra></extra>",
    )


def _in_words(
    label: str, mean: float, half: float, difference: PairedDifference | None, runs: list[Run]
) -> dict[str, str]:
    row = {
        "Method": label,
        "Probe (%)": f"{mean:.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}"),
        "Against single": "–",
        "Interval": "–",
    }
    if difference is not None:
        by, low, high = (signed(n, PROBE) for n in (difference.mean, difference.low, difference.high))
        row |= {"Against single": by, "Interval": "–" if low == "–" else f"{low} to {high}"}
    for key, title in (("label_nmi", "NMI of the labels"), ("label_purity", "purity")):
        found = [float(v) for run in runs if (v := run.summary.get(key)) is not None]
        row[title] = f"{sum(found) / len(found):.2f}" if found else "–"
    return row
