"""What happens over epochs: accuracy, a caution where it falls again, and the cosine between the two tasks' gradients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from maxl.experiments.report.draw import heat_map_height, heat_maps, over_epochs, settled
from maxl.experiments.report.parts import Figure, Note, Part
from maxl.experiments.report.runs import Setting
from maxl.experiments.report.series import curves, ends_table, nested_mean, thinned
from maxl.experiments.report.style import Look
from maxl.experiments.studies.statistics import RELEVANT
from maxl.experiments.studies.variants import base_method


def accuracy_over_epochs(setting: Setting, looks: Mapping[str, Look]) -> Part:
    """Test accuracy by epoch, or validation accuracy where the test set was kept for the end.

    Where the task is judged by something else than accuracy, that.
    """
    measure = setting.measure
    bounds = (measure.scale * measure.low, measure.scale * measure.high)
    word, found = "Test", curves(setting, measure.key, measure.scale, bounds)
    if not found:
        word, found = "Validation", curves(setting, f"validation_{measure.name}", measure.scale, bounds)
    name, digits = measure.title, 1 if measure.points else 3
    if not found:
        return Note(f"{setting.name}: no {name} over epochs, because no run measured it before the end.")
    ends, beyond = settled(found, bounds)
    plot = over_epochs(found, looks, title=f"{word} {measure.heading}", unit=measure.unit, between=ends)
    last = "; ".join(
        f"{label} {curve['mean'].iloc[-1]:.{digits}f}{measure.unit}" for label, curve in found.items()
    )
    return Figure(
        title=f"{word} {name} over epochs: {setting.name}",
        plot=plot,
        description=f"{word} {name} by epoch, mean over seeds with 95 % bands. At the last epoch: {last}."
        + " The axis shows where the curves settle; the first epochs begin beyond it." * beyond,
        table=thinned(found, digits, measure.unit.strip()),
        name=f"{measure.name} {setting.name}",
    )


def past_its_best(setting: Setting) -> str | None:
    """A caution where single-task training loses again what it had: labels may then gain only what stopping in time does.

    Claimed where a tenth of its epochs in a row was better than the last tenth, by a point in the mean and in every seed.
    Where the best epoch was kept, training did stop.
    """
    single = [label for label in setting.methods if base_method(label) == "single"]
    runs = setting.methods[single[0]] if single else []
    if len(runs) < 2 or any("kept_epoch" in run.summary for run in runs):
        return None
    measure = setting.measure
    table = pd.DataFrame({run.seed: pd.to_numeric(run.series(measure.key)) for run in runs}).dropna()
    width = max(1, len(table) // 10)
    smooth = table.rolling(width).mean().dropna()
    if smooth.empty:
        return None
    sign = 1 if measure.higher_is_better else -1
    best = int((sign * smooth.mean(axis=1)).argmax())
    lost = sign * (smooth.iloc[best] - smooth.iloc[-1])
    if not (lost.min() > 0 and lost.mean() >= RELEVANT):
        return None
    return (
        f"{single[0]} ends {measure.difference_text(lost.mean())} below what it had around epoch "
        f"{table.index[best + width // 2]}: it trains for too long, and what others gain over it may be no more than stopping in "
        "time brings. --validation-size 0.1 with --keep best keeps the best epoch by validation, and maxl tune looks for better "
        "settings."
    )


def cosine_over_epochs(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    """The cosine over the whole trunk, and layer by layer where it was measured."""
    found = curves(setting, "gradient_cosine", bounds=(-1, 1))
    if not found:
        return [Note(f"{setting.name}: no gradient cosine, because no run recorded it.")]
    plot = over_epochs(found, looks, title="Cosine")
    plot.add_hline(y=0, line={"width": 1, "color": "#808080"})
    means = "; ".join(f"{label} {curve['mean'].mean():+.2f}" for label, curve in found.items())
    figure = Figure(
        title=f"Gradient cosine over epochs: {setting.name}",
        plot=plot,
        description=f"Cosine of primary and auxiliary gradient on the trunk. Mean over training: {means}.",
        table=thinned(found, 2),
        name=f"cosine {setting.name}",
    )
    return [figure, *_cosine_by_layer(setting)]


def _cosine_by_layer(setting: Setting) -> list[Part]:
    tables = {label: nested_mean(runs, "gradient_cosine_layers") for label, runs in setting.methods.items()}
    tables = {label: table for label, table in tables.items() if not table.empty}
    if not tables:
        return []
    bound = min(1.0, max(0.1, *(float(np.nanmax(table.abs().to_numpy(float))) for table in tables.values())))
    plot = heat_maps(tables, colours="RdBu", low=-bound, high=bound, title="Cosine")
    lowest = {label: table.mean(axis=1).idxmin() for label, table in tables.items()}
    words = "; ".join(f"{label}: layer {layer}" for label, layer in lowest.items())
    return [
        Figure(
            title=f"Gradient cosine by layer: {setting.name}",
            plot=plot,
            description=f"One row a layer, the first on top, mean over seeds. Lowest on average: {words}.",
            table=ends_table(tables, "Layer"),
            height=heat_map_height(tables),
        )
    ]
