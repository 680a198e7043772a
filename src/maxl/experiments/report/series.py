"""Metrics of several seeds as curves, and as the tables that stand in for a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.studies.intervals import mean_interval

_TABLE_EPOCHS = 11
_ENDS = (("first epoch", 0), ("last epoch", -1))


Metric = str | Callable[[Run], "pd.Series[float]"]  # a metric's name, or what to make of several


def curves(
    setting: Setting, name: Metric, scale: float = 1, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> dict[str, pd.DataFrame]:
    """The curve of each method that has the metric; bands end at the metric's own bounds."""
    found = {label: curve(runs, name, scale) for label, runs in setting.methods.items()}
    for table in found.values():
        table[["low", "high"]] = table[["low", "high"]].clip(*bounds)
    return {label: table for label, table in found.items() if not table.empty}


def curve(runs: Sequence[Run], name: Metric, scale: float = 1) -> pd.DataFrame:
    """Mean, low, high and n over seeds, by epoch; empty where no run has the metric."""
    series = [run.series(name) if isinstance(name, str) else name(run) for run in runs]
    every = pd.to_numeric(pd.concat(series)) * scale
    every = every[np.isfinite(every)]
    intervals = {epoch: vars(mean_interval(values)) for epoch, values in every.groupby(level=0)}
    return pd.DataFrame.from_dict(
        intervals, orient="index", columns=["mean", "low", "high", "n"]
    ).sort_index()


def nested_mean(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """A metric with several entries an epoch, averaged over seeds: entries by epochs."""
    tables = [pd.DataFrame(dict(run.series(name).items())) for run in runs]
    tables = [table.astype(float) for table in tables if not table.empty]
    if not tables:
        return pd.DataFrame()
    order = tables[0].index
    mean = pd.concat(tables, keys=range(len(tables))).groupby(level=1, sort=False).mean()
    return mean.reindex(order.union(mean.index, sort=False))


def thinned(curves: Mapping[str, pd.DataFrame], digits: int, unit: str = "") -> pd.DataFrame:
    """A few epochs of every curve, as text, for the data table."""
    epochs = sorted({epoch for table in curves.values() for epoch in table.index})
    picked = [epochs[round(i)] for i in np.linspace(0, len(epochs) - 1, min(_TABLE_EPOCHS, len(epochs)))]
    columns = {
        f"{label}{f' ({unit})' if unit else ''}": [_cell(table, epoch, digits) for epoch in picked]
        for label, table in curves.items()
    }
    return pd.DataFrame({"Epoch": picked, **columns})


def ends_table(tables: Mapping[str, pd.DataFrame], heading: str) -> pd.DataFrame:
    """The first and the last epoch of every heat map, as text."""
    columns = {
        f"{label}, {when}": _at(table, place) for label, table in tables.items() for when, place in _ENDS
    }
    return pd.DataFrame(columns).rename_axis(heading).reset_index().fillna("–")


def _cell(table: pd.DataFrame, epoch: Any, digits: int) -> str:
    if epoch not in table.index:
        return "–"
    mean, low, high = (float(table.loc[epoch, name]) for name in ("mean", "low", "high"))
    text = f"{mean:.{digits}f}"
    return text if math.isnan(low) else f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def _at(table: pd.DataFrame, place: int) -> pd.Series[str]:
    return table.iloc[:, place].map(lambda value: "–" if math.isnan(value) else f"{value:.2f}")
