"""Progress bars and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from maxl.experiments.cli._arguments import terminal_width
from maxl.experiments.runs.config import LEARNED_METHODS
from maxl.experiments.studies.statistics import compare, mean_interval, settings

if TYPE_CHECKING:
    import pandas as pd


def console() -> Console:
    """Standard output; what stands in brackets is text, for it may come from files."""
    return Console(width=terminal_width(), highlight=False, markup=False)


@contextmanager
def progress_bar(what: str, total: int, done: int = 0) -> Iterator[Any]:
    """A bar on stderr; yields ``advance(completed, note)``."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=False,
    )
    task = bar.add_task(what, total=total, completed=done, note="")

    def advance(completed: int, note: str = "") -> None:
        bar.update(task, completed=completed, note=note)

    bar.start()
    try:
        yield advance
    except Exception:  # the error is to be the one line on stderr: the bar goes, and its last newline too
        bar.live.transient = True
        bar.live.stop()
        raise
    except BaseException:
        bar.stop()
        raise
    bar.stop()


def run_table(summary: dict[str, Any]) -> Table:
    """One run's result."""
    table = Table(title=f"{summary['method']} on {summary['data']}", title_justify="left")
    for name in (
        "method",
        "seed",
        "train samples",
        "test accuracy",
        "train accuracy",
        "ms a step",
        "peak memory",
    ):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row(
        summary["method"],
        str(summary["seed"]),
        str(summary["train_size"]),
        percent(summary["test_accuracy"]),
        percent(summary["train_accuracy"]),
        f"{1000 * summary['seconds_per_step']:.1f}",
        f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB",
    )
    return table


def study_tables(results: pd.DataFrame) -> Iterator[tuple[Table, list[str]]]:
    """For each setting: mean ± 95 % interval of every method, and what the paired comparisons say in words."""
    for setting, runs in settings(results):
        comparisons = compare(runs)
        title = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in setting.items() if v is not None)
        table = Table(title=title, title_justify="left")
        table.add_column("method")
        table.add_column("seeds", justify="right")
        table.add_column("test accuracy", justify="right")
        table.add_column("against single (paired, points)", justify="right")
        table.add_column("p (Holm)", justify="right")
        table.add_column("ms a step", justify="right")
        for method, group in runs.groupby("method", sort=False):
            interval = mean_interval(group["test_accuracy"])
            spread = (interval.high - interval.low) / 2
            row = comparisons[(comparisons["method"] == method) & (comparisons["reference"] == "single")]
            versus, p = "", ""
            if len(row):
                first = row.iloc[0]
                half = (first["high"] - first["low"]) / 2
                versus = f"{100 * first['difference']:+.2f}{_plus_minus(half)}"
                p = "" if math.isnan(first["p_holm"]) else f"{first['p_holm']:.3f}"
            table.add_row(
                str(method),
                str(interval.n),
                f"{100 * interval.mean:.2f}{_plus_minus(spread)} %",
                versus,
                p,
                f"{1000 * group['seconds_per_step'].median():.1f}",
            )
        yield table, _verdicts(comparisons)


def _verdicts(comparisons: pd.DataFrame) -> list[str]:
    """A sentence for each method against single-task, and for learned labels against uniform ones."""
    lines = []
    for row in comparisons.itertuples():
        learned = str(row.method).split()[0] in LEARNED_METHODS  # the rest of a name is what a grid varies
        if row.reference == "single" or (learned and row.reference == "uniform"):
            lines.append(f"{row.method}: {row.verdict}")
    return lines


def label_verdicts(results: pd.DataFrame) -> list[str]:
    """A sentence for each method whose labels carry no information."""
    empty = results[results["label_verdict"].notna()] if "label_verdict" in results else results[:0]
    return [
        f"{method}: in {len(group)} runs {group['label_verdict'].iloc[0]}"
        for method, group in empty.groupby("method", sort=False)
        if method != "frozen"
    ]


def _plus_minus(spread: float) -> str:
    """Half an interval in points; nothing for a single seed, which has none."""
    return "" if math.isnan(spread) else f" ± {100 * spread:.2f}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.2f} %"
