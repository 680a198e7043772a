"""Figures of finished runs: accuracy against the number of auxiliary classes, and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from maxl.experiments.report.parts import Figure, Note, Part, Table
from maxl.experiments.report.runs import Results, Run, Setting
from maxl.experiments.report.style import Look
from maxl.experiments.runs.measures import Measure
from maxl.experiments.studies.intervals import Interval, interval_text, mean_interval

_COST_DIGITS = {"Milliseconds a step": 1, "Peak memory (MiB)": 0, "× single, time": 2, "× single, memory": 2}


def measure_interval(runs: Sequence[Run], measure: Measure) -> Interval:
    """The final value, an accuracy in percent; the interval ends at the measure's bounds."""
    interval = mean_interval([measure.scale * float(run.summary[measure.key]) for run in runs])
    if interval.n == 1:
        return interval
    low, high = measure.scale * measure.low, measure.scale * measure.high
    return replace(interval, low=max(low, interval.low), high=min(high, interval.high))


def accuracy_by_psi(study: Results, looks: Mapping[str, Look]) -> list[Part]:
    """One figure for each place with several ψ; methods without ψ are level lines."""
    places: dict[object, list[Setting]] = {}
    for setting in study.settings:
        if isinstance(setting.facts["psi"], int):
            places.setdefault(setting.place, []).append(setting)
    parts: list[Part] = [_by_psi(settings, looks) for settings in places.values() if len(settings) > 1]
    reason = "No figure, because the study has a single number of auxiliary classes per primary class."
    return parts or [Note(reason)]


def _by_psi(settings: list[Setting], looks: Mapping[str, Look]) -> Figure:
    settings = sorted(settings, key=lambda setting: int(setting.facts["psi"]))
    psis = [int(setting.facts["psi"]) for setting in settings]
    labels = dict.fromkeys(label for setting in settings for label in setting.methods)
    measure = settings[0].measure
    plot, rows = go.Figure(), []
    for label in labels:
        intervals = {
            psi: measure_interval(setting.methods[label], measure)
            for psi, setting in zip(psis, settings, strict=True)
            if label in setting.methods
        }
        plot.add_trace(_with_errors(label, intervals, looks[label], measure))
        cells = {f"ψ = {psi}": interval_text(i, 1 if measure.points else 3) for psi, i in intervals.items()}
        rows.append({"Method": label, **cells})
    name = settings[0].name.rsplit(", ψ", 1)[0]
    plot.update_xaxes(
        title="Auxiliary classes per primary class (ψ)", type="log", tickvals=psis, ticktext=psis
    )
    plot.update_yaxes(title=f"Test {measure.heading}")
    return Figure(
        title=f"{measure.title_capitalised} against the number of auxiliary classes: {name}",
        plot=plot,
        description=(
            f"Final test {measure.title} for ψ = {', '.join(map(str, psis))}, mean over seeds with 95 % intervals of each mean alone. "
            "A method without auxiliary labels is the same at every ψ."
        ),
        table=pd.DataFrame(rows).fillna("–"),
        name=f"{measure.name} by psi {name}",
    )


def _with_errors(label: str, intervals: Mapping[int, Interval], look: Look, measure: Measure) -> go.Scatter:
    above = [None if i.n == 1 else i.high - i.mean for i in intervals.values()]
    below = [None if i.n == 1 else i.mean - i.low for i in intervals.values()]
    return go.Scatter(
        x=list(intervals),
        y=[interval.mean for interval in intervals.values()],
        error_y={"array": above, "arrayminus": below, "symmetric": False, "thickness": 1.2},
        name=label,
        mode="lines+markers",
        line={"color": look.colour, "dash": look.dash},
        hovertemplate=f"{label}, ψ = %{{x}}: %{{y:.{2 if measure.points else 4}f}}{measure.unit}<extra></extra>",
    )


def cost(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    """Seconds a step and peak memory of each method, and their ratio to single-task training."""
    table, devices = _cost_table(setting)
    if table.empty:
        return [Note(f"{setting.name}: no cost figure, because no run recorded seconds_per_step.")]
    known = [name for name in ("Milliseconds a step", "Peak memory (MiB)") if table[name].notna().any()]
    height = 110 + len(known) * (70 + 24 * len(table))
    plot = make_subplots(rows=len(known), cols=1, subplot_titles=known, vertical_spacing=70 / height)
    for row, name in enumerate(known, start=1):
        bars = go.Bar(
            y=table["Method"].tolist(),
            x=table[name].tolist(),
            orientation="h",
            marker={"color": [looks[label].colour for label in table["Method"]]},
            texttemplate="%{x:.4~r}",
            hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
        )
        plot.add_trace(bars, row=row, col=1)
    plot.update_yaxes(autorange="reversed", type="category")
    plot.update_layout(showlegend=False)
    ratios = dict(zip(table["Method"], table["× single, time"], strict=True))
    told = "; ".join(f"{m} {ratio:.1f}" for m, ratio in ratios.items() if m != "single" and pd.notna(ratio))
    words = f" Time a step as a multiple of single: {told}." if told else ""
    where = ", ".join(sorted(devices)) or "a device that the runs do not name"
    mixed = " The runs used several devices, so their times are not comparable." if len(devices) > 1 else ""
    shown = table.copy()
    for name, digits in _COST_DIGITS.items():
        shown[name] = [f"{value:.{digits}f}" if pd.notna(value) else "–" for value in table[name]]
    figure = Figure(
        title=f"Cost: {setting.name}",
        plot=plot,
        description=f"Median over seeds, on {where}.{words}{mixed}",
        height=height,
        name=f"cost {setting.name}",
    )
    return [figure, Table(f"Cost of each method: {setting.name}", shown)]


def _cost_table(setting: Setting) -> tuple[pd.DataFrame, set[str]]:
    rows, devices = [], set()
    for label, runs in setting.methods.items():
        seconds, memory = _median(runs, "seconds_per_step"), _median(runs, "peak_memory_bytes")
        rows.append({
            "Method": label, "Milliseconds a step": 1000 * seconds, "Peak memory (MiB)": memory / 2**20
        })  # fmt: skip
        devices |= {str(run.summary["device"]) for run in runs if run.summary.get("device")}
    table = pd.DataFrame(rows)
    if table["Milliseconds a step"].isna().all():
        return pd.DataFrame(), devices
    for name, column in (("time", "Milliseconds a step"), ("memory", "Peak memory (MiB)")):
        of_single = table.loc[table["Method"] == "single", column]
        table[f"× single, {name}"] = table[column] / of_single.iloc[0] if len(of_single) else float("nan")
    return table, devices


def _median(runs: Sequence[Run], name: str) -> float:
    values = [float(run.summary[name]) for run in runs if run.summary.get(name) is not None]
    return float(pd.Series(values, dtype=float).median())
