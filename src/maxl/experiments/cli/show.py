"""Progress bars and tables."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from maxl.experiments.cli._arguments import terminal_width
from maxl.experiments.cli.listen import note as say
from maxl.experiments.cli.listen import talks
from maxl.experiments.cli.terminal import shown
from maxl.experiments.runs.measures import (
    ACCURACY,
    MEASURES,
    OUTCOMES,
    PROBE,
    PROBE_OF_INPUTS,
    Measure,
    task_of,
)
from maxl.experiments.runs.methods import LEARNED_METHODS
from maxl.experiments.studies.decisions import by_method
from maxl.experiments.studies.intervals import mean_interval
from maxl.experiments.studies.notes import origin_notes, outcomes_text
from maxl.experiments.studies.statistics import (
    compare,
    constant_answer,
    headline,
    intervals_text,
    measure_of,
    nothing_learned,
    nothing_learned_text,
    p_text,
    settings,
)
from maxl.experiments.studies.structure import kept_text
from maxl.experiments.studies.variants import base_method

if TYPE_CHECKING:
    import pandas as pd


def console() -> Console:
    """Standard output, where names are names: square brackets in them are no markup, colons no emoji."""
    return Console(width=terminal_width(), highlight=False, markup=False, emoji=False)


class _Note(ProgressColumn):
    """What there is to say beside the bar, as much of it as the terminal has room for."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["note"]), no_wrap=True, overflow="ellipsis")


Advance = Callable[..., None]


@contextmanager
def progress_bar(
    what: str, total: int, done: int = 0, *, unit: str = "epochs", every: float = 0.0
) -> Iterator[Advance]:
    """Progress on standard error: a bar on a terminal, else lines; nothing where the user asked for quiet.

    Args:
        what: What progresses.
        total: Its length.
        done: What is done already.
        unit: Of the length.
        every: Seconds that lie between two lines at least, where there is no terminal.

    Yields:
        ``advance(completed, note)``.
    """
    if not talks():
        yield lambda completed, note="": None
    elif _animates():
        with _bar(what, total, done, unit) as advance:
            yield advance
    else:
        yield _Lines(what, total, done, unit, every)


def _animates() -> bool:
    """Whether what is written to standard error can be written over: a notebook, or a terminal that is not dumb."""
    if Console(stderr=True).is_jupyter:
        return True
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class _Lines:
    """A line for each step."""

    def __init__(self, what: str, total: int, done: int, unit: str, every: float) -> None:
        self.what, self.total, self.done, self.unit, self.every = what, total, done, unit, every
        self.last = -math.inf

    def __call__(self, completed: int, note: str = "") -> None:
        now = time.monotonic()
        if completed == self.done or (now - self.last < self.every and completed < self.total):
            return
        self.done, self.last = completed, now
        say(f"{self.what}: {completed} of {self.total} {self.unit}{f', {note}' if note else ''}")


@contextmanager
def _bar(what: str, total: int, done: int, unit: str) -> Iterator[Advance]:
    def whole() -> Column:
        return Column(no_wrap=True)

    bar = Progress(
        TextColumn("{task.description}", markup=False, table_column=whole()),
        BarColumn(bar_width=20, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        TextColumn(unit, table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        _Note(),
        console=Console(stderr=True, markup=False, emoji=False),
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
    table = Table(title=shown(f"{summary['method']} on {summary['data']}"), title_justify="left")
    measured = {
        shown(f"test {m.title}"): m.text(summary[m.key])
        for m in _shown_measures(summary)
        if summary.get(m.key) is not None
    }
    if summary.get("train_accuracy") is not None:
        measured["train accuracy"] = ACCURACY.text(summary["train_accuracy"])
    for name in ("method", "seed", "train samples", *measured, "ms a step", "peak memory"):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row(
        shown(summary["method"]),
        str(summary["seed"]),
        str(summary["train_size"]),
        *measured.values(),
        f"{1000 * summary['seconds_per_step']:.1f}",
        "–" if (peak := summary["peak_memory_bytes"]) is None else f"{peak / 2**30:.2f} GiB",
    )
    return table


def _shown_measures(result: Mapping[Any, Any]) -> Sequence[Measure]:
    """The measures of a run's task that a table has room for: all, but accuracy alone of classes."""
    measures = MEASURES[task_of(result)]
    return measures[:1] if measures[0] is ACCURACY else measures


def study_tables(results: pd.DataFrame) -> Iterator[tuple[Table, list[str]]]:
    """For each setting: mean ± 95 % interval of every method, and what is to be said of it in words."""
    for setting, runs in settings(results):
        comparisons, measure = compare(runs), measure_of(runs)
        shown_measures = _shown_measures(dict(runs.iloc[0]))
        # Older runs lack some, and some do not exist of some test parts.
        others = [m for m in shown_measures[1:] if m.key in runs and runs[m.key].notna().any()]
        versus_single = comparisons[
            (comparisons["against"] == "same setting")
            & (comparisons["reference"].map(base_method) == "single")
        ]
        title = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in setting.items() if v is not None)
        table = Table(
            title=shown(title),
            title_justify="left",
            caption=shown(_caption(versus_single, measure)),
            caption_justify="left",
        )
        table.add_column("method")
        table.add_column("seeds", justify="right")
        table.add_column(shown(f"test {measure.title}"), justify="right")
        table.add_column(f"against single (paired{', points' * measure.points})", justify="right")
        table.add_column("p (Bonferroni)", justify="right")
        table.add_column(shown(f"80 % power{', points' * measure.points}"), justify="right")
        for other in others:
            table.add_column(shown(f"test {other.title}"), justify="right")
        table.add_column("ms a step", justify="right")
        for method, group in runs.groupby("method", sort=False):
            interval = mean_interval(group[measure.key])
            spread = (interval.high - interval.low) / 2
            row = versus_single[versus_single["method"] == method]
            versus, p, found = "", "", ""
            if len(row):
                first = row.iloc[0]
                half = (first["high"] - first["low"]) / 2
                if not math.isnan(first["difference"]):  # there is a seed in common
                    versus = f"{_number(first['difference'], measure, '+')}{_plus_minus(half, measure)}"
                tested = not math.isnan(first["p_corrected"])
                found = "" if math.isnan(first["detectable"]) else _number(first["detectable"], measure)
                p = p_text(first["p_corrected"]).removeprefix("p ").removeprefix("= ") if tested else ""
            table.add_row(
                shown(method),
                str(interval.n),
                shown(f"{_number(interval.mean, measure)}{_plus_minus(spread, measure)}{measure.unit}"),
                shown(versus),
                p,
                found,
                *(other.text(float(group[other.key].astype(float).mean())) for other in others),
                f"{1000 * group['seconds_per_step'].median():.1f}",
            )
        intervals = {
            str(method): mean_interval(measure.scale * group[measure.key].astype(float))
            for method, group in runs.groupby("method", sort=False)
        }
        best = shown(headline(intervals, comparisons, measure))
        lines = [
            *_untrained(runs, versus_single, measure),
            best,
            *_verdicts(comparisons),
            *_kept(runs),
            *origin_notes(runs.to_dict("records")),
        ]
        further = _outcome_table(runs)
        if further is None:
            yield table, lines
        else:
            yield table, []
            yield further, lines


def _outcome_table(runs: pd.DataFrame) -> Table | None:
    """Means over seeds of what a run is judged by beside its main measure; None where no run has any of it."""
    measured = [m for m in OUTCOMES if m.key in runs and runs[m.key].notna().any()]
    if not measured:
        return None
    table = Table(caption=shown(outcomes_text(runs.to_dict("records"))), caption_justify="left")
    table.add_column("method")
    for measure in measured:
        table.add_column(shown(measure.heading), justify="right")
    for method, group in runs.groupby("method", sort=False):
        means = [(m, float(group[m.key].astype(float).mean())) for m in measured]
        table.add_row(
            shown(method), *("" if math.isnan(mean) else shown(_number(mean, m)) for m, mean in means)
        )
    return table


def _kept(runs: pd.DataFrame) -> list[str]:
    """What the features keep of the column that was looked for, in words; nothing where there was none."""
    if PROBE.key not in runs or not len(probed := runs[runs[PROBE.key].notna()]):
        return []

    def points(key: str) -> dict[str, dict[int, float]]:
        found = by_method(probed, key) if key in probed else {}
        return {method: {s: PROBE.scale * v for s, v in of.items()} for method, of in found.items()}

    said = kept_text(points(PROBE.key), points(PROBE_OF_INPUTS))
    return [shown(f"Of {probed['probe'].iloc[0]} in the features: {said}")] if said else []


def _untrained(runs: pd.DataFrame, versus_single: pd.DataFrame, measure: Measure) -> list[str]:
    """That no method is above a constant answer, and none is shown to differ; nothing where one is."""
    if ((versus_single["low"] > 0) | (versus_single["high"] < 0)).any():
        return []
    constant = constant_answer(measure, runs.get("test_constant", ()))
    best = runs.groupby("method")[measure.key].mean().max()
    if constant is None or not nothing_learned(best, constant, runs.get("test_auroc", ())):
        return []
    told = shown(nothing_learned_text(constant, measure))
    return [f"{told} Train longer, or at another learning rate, before methods are compared."]


def _verdicts(comparisons: pd.DataFrame) -> list[str]:
    """A sentence for each method against single-task, and for learned labels against uniform ones and the best."""
    lines = []
    for row in comparisons.itertuples():
        learned = base_method(str(row.method)) in LEARNED_METHODS
        telling = base_method(str(row.reference)) == "uniform" or row.against == "best control"
        if base_method(str(row.reference)) == "single" or (learned and telling):
            lines.append(shown(f"{row.method}: {row.verdict}"))
    return list(dict.fromkeys(lines))


def _caption(versus_single: pd.DataFrame, measure: Measure) -> str:
    """What the intervals of the table are."""
    own = f"test {measure.title}: 95 % interval of each mean alone, uncorrected"
    tested = versus_single[versus_single["n"] > 1]
    if tested.empty:
        return own
    return (
        f"{own}; against single: {intervals_text(tested['comparisons'])}; 80 % power: the smallest difference that so many "
        "seeds of this paired spread find with it at the corrected level"
    )


def label_verdicts(results: pd.DataFrame) -> list[str]:
    """A sentence for each method whose labels carry no information."""
    empty = results[results["label_verdict"].notna()] if "label_verdict" in results else results[:0]
    return [
        shown(f"{method}: in {len(group)} runs {group['label_verdict'].iloc[0]}")
        for method, group in empty.groupby("method", sort=False)
        if method != "frozen"
    ]


def _plus_minus(spread: float, measure: Measure) -> str:
    """Half an interval, of a share in points; nothing for a single seed, which has none."""
    return "" if math.isnan(spread) else f" ± {_number(spread, measure)}"


def _number(value: float, measure: Measure, sign: str = "") -> str:
    return f"{measure.scale * value:{sign}.{2 if measure.points else 4}f}"
