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
from maxl.experiments.runs.measures import PROBE, PROBE_OF_INPUTS
from maxl.experiments.studies.intervals import PairedDifference, mean_interval
from maxl.experiments.studies.structure import against_single, kept_sentences, kept_text

_ROW, _EDGES = 44, 96  # heights in CSS pixels: of a method, above and below


def kept_fact(setting: Setting) -> list[tuple[str, str]]:
    """What the features keep of the column that was looked for, as a line of the verdict; none where nothing is compared."""
    probed = _probed(setting)
    said = kept_sentences(_values(probed), _values(probed, PROBE_OF_INPUTS))
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


def _values(probed: Mapping[str, list[Run]], key: str = PROBE.key) -> dict[str, dict[int, float]]:
    """An accuracy of the probe in percent, by method and seed, of the runs that have it."""
    return {
        label: {
            run.seed: PROBE.scale * float(run.summary[key])
            for run in runs
            if run.summary.get(key) is not None
        }
        for label, runs in probed.items()
    }


def _shared(inputs: Mapping[str, Mapping[int, float]]) -> float:
    """The mean accuracy of the raw inputs; NaN where runs of one seed differ in it, as those of a grid over data do."""
    found = {(seed, value) for by_seed in inputs.values() for seed, value in by_seed.items()}
    alike = len(found) == len({seed for seed, _ in found}) > 0
    return sum(value for _, value in found) / len(found) if alike else math.nan


def structure(setting: Setting, looks: Mapping[str, Look]) -> Part:
    """The probe's accuracy of each method with its interval, and of the raw inputs as a line."""
    probed = _probed(setting)
    if not probed:
        return Note(f"{setting.name}: no structure, because no run was given a column to look for (--probe).")
    values = _values(probed)
    differences = against_single(values)
    of_inputs = _values(probed, PROBE_OF_INPUTS)
    inputs = _shared(of_inputs)
    plot, rows = go.Figure(), []
    for label, by_seed in values.items():
        interval = mean_interval(by_seed.values())
        half = math.nan if interval.n == 1 else interval.high - interval.mean
        plot.add_trace(_row(label, interval.mean, half, looks[label]))
        rows.append(_in_words(label, interval.mean, half, differences.get(label), probed[label]))
        if math.isnan(inputs) and any(of_inputs.values()):  # each has its own
            own = of_inputs[label].values()
            rows[-1]["Raw inputs (%)"] = f"{mean_interval(own).mean:.2f}" if own else "–"
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
