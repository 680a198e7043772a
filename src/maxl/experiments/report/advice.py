"""The report of an advice: one page with the verdict and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maxl.experiments.report.advised import decision, differences
from maxl.experiments.report.html import document
from maxl.experiments.report.page import scripts
from maxl.experiments.report.parts import Decision, Part, Points, Section, Table
from maxl.experiments.runs.files import read_json, write_at_once
from maxl.experiments.runs.measures import Measure, main_measure, task_of
from maxl.experiments.studies.aims import Aim
from maxl.experiments.studies.intervals import interval_text, mean_interval

_QUESTION = ("Do finer labels help", "Does anything help against wrong labels")


def write_advice(folder: Path, out: Path | None = None) -> Path:
    """Writes the report of a finished advice, by default ``report.html`` in its folder, and returns its path.

    Raises:
        ValueError: if the advice is not finished.
    """
    if not (folder / "advice.json").exists():
        raise ValueError(
            f"a report needs a finished advice; {folder} has no advice.json: call maxl advise again"
        )
    advice, plan, final = _found(folder)
    path = folder / "report.html" if out is None else out
    data = Path(str(plan["config"]["data"])).name
    of_trunk = f"trunk {final['trunk'].iloc[0]} · {advice['seeds']} fresh seeds · aim: {advice['aim']}"
    text = document(
        f"{_QUESTION[advice['aim'] == 'noise']} on {data}?",
        _sections(folder, advice, plan, final),
        scripts(),
        subtitle=of_trunk,
    )
    write_at_once(path, text.encode())
    return path


def is_advice(folder: Path) -> bool:
    """Whether a folder is that of an advice, finished or not, whose test results decide nothing but its verdict."""
    plan = folder / "plan.json"
    return (folder / "advice.json").is_file() or (plan.is_file() and "aim" in read_json(plan))


def no_advice(folder: Path, what: str) -> None:
    """Raises ValueError for the folder of an advice, of which there is no ``what``."""
    if is_advice(folder):
        raise ValueError(
            f"{what} needs a study or a run; {folder} is an advice, whose report is a page: leave the flag out, or name "
            f"{folder / 'final'}"
        )


def decided(folder: Path) -> Decision:
    """The box on top of the report of a finished advice."""
    advice, plan, final = _found(folder)
    return decision(folder, advice, plan, _measure(advice, final))


# What advice of every version has.
_NEEDED = ("verdict", "aim", "method", "difference", "interval", "seeds", "control", "cost", "sentences")


def _found(folder: Path) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    file = folder / "advice.json"
    advice = read_json(file)
    if missing := [key for key in _NEEDED if key not in advice]:
        raise ValueError(f"{file} needs {missing[0]!r}, which is missing: restore it, or take advice anew")
    return advice, read_json(folder / "plan.json"), pd.read_csv(folder / "final" / "results.csv")


def _measure(advice: Mapping[str, Any], final: pd.DataFrame) -> Measure:
    return Aim(advice["aim"]).measure(task_of(dict(final.iloc[0])))


def _sections(
    folder: Path, advice: Mapping[str, Any], plan: Mapping[str, Any], final: pd.DataFrame
) -> list[Section]:
    task, measure = task_of(dict(final.iloc[0])), _measure(advice, final)
    rules = [
        "Learning rate, candidate and number of seeds were chosen by validation results; the final comparison is on the test "
        "part, by seeds that nothing was chosen by.",
        "The interval of the candidate is one comparison at 95 %, paired by seed. It covers the randomness of training, not "
        "that of drawing the test set.",
    ]
    return [
        Section("Verdict", "", [decision(folder, advice, plan, measure)]),
        Section(
            "Final comparison",
            f"Test {measure.title}.",
            [
                differences(advice, measure),
                _final(final, advice, measure, main_measure(task)),
                Points(rules, "How to read this"),
            ],
        ),
        Section("How it was chosen", "Validation results alone.", _chosen(plan, measure, main_measure(task))),
    ]


def _final(final: pd.DataFrame, advice: Mapping[str, Any], measure: Measure, main: Measure) -> Table:
    digits = 2 if measure.points else 4
    rows = []
    for method, group in final.groupby("method", sort=False):
        values = measure.scale * group[measure.key].astype(float).dropna()
        if values.empty:
            continue
        interval = mean_interval(values)
        versus, control = "", advice["control"] or {}
        if method == advice["method"]:
            versus = _interval(advice["difference"], advice["interval"], measure)
        elif method == control.get("against") and "gain" in control:
            versus = _interval(control["gain"], control["gain_interval"], measure)
        rows.append(
            {
                "Method": str(method),
                "Seeds": interval.n,
                f"Mean test {measure.heading}": interval_text(interval, digits),
                "Against single, paired": versus,
                **_besides(group, measure, main),
            }
        )
    if (inputs := advice.get("probe_inputs")) is not None:
        mean = f"{measure.scale * inputs:.{digits}f}"
        rows.append({**dict.fromkeys(rows[0], ""), "Method": "the raw inputs", list(rows[0])[2]: mean})
    return Table("Fresh seeds, test part; intervals of means are of each mean alone", pd.DataFrame(rows))


def _besides(runs: pd.DataFrame, measure: Measure, main: Measure) -> dict[str, str]:
    """What the task is judged by, where something else was to get better."""
    if main.key == measure.key or main.key not in runs:
        return {}
    values = main.scale * runs[main.key].astype(float).dropna()
    text = "" if values.empty else interval_text(mean_interval(values), 2 if main.points else 4)
    return {f"Mean test {main.heading}": text}


def _chosen(plan: Mapping[str, Any], measure: Measure, tuned_by: Measure) -> list[Part]:
    digits = 2 if tuned_by.points else 4
    rates = [
        {
            "Learning rate": rate + (" (chosen)" if float(rate) == plan["learning_rate"] else ""),
            f"Mean validation {tuned_by.heading}": f"{tuned_by.scale * value:.{digits}f}",
        }
        for rate, value in sorted(plan["tuning"]["means"].items(), key=lambda item: float(item[0]))
    ]
    screened = [
        {
            "Method": name + (" (candidate)" if name == plan["candidate"] else ""),
            "Against single, paired": _interval(d["mean"], (d["low"], d["high"]), measure),
        }
        for name, d in plan["screening"]["differences"].items()
    ]
    seeds = plan["screening"]["seeds"]
    # Older plans have neither.
    lost, ended = (_seeds(plan.get(what, {})) for what in ("collapsed", "diverged"))
    return [
        Table("Single-task training, tuned", pd.DataFrame(rates)),
        Table(
            f"Screening on {seeds} seeds, simultaneous 95 % intervals; {Aim(plan['aim']).of_generators.lower()}: {plan['learned']}"
            + (f"; runs that collapsed are left out: {lost}" if lost else "")
            + (f"; diverged, and so no candidate: {ended}" if ended else ""),
            pd.DataFrame(screened),
        ),
    ]


def _seeds(of_methods: Mapping[str, Iterable[object]]) -> str:
    """Methods with their seeds: "uniform 2001, 2003; kmeans 2000"."""
    return "; ".join(f"{name} {', '.join(map(str, seeds))}" for name, seeds in of_methods.items())


def _interval(mean: float | None, ends: Sequence[float | None], measure: Measure) -> str:
    digits = 2 if measure.points else 4
    numbers = [math.nan if n is None else measure.scale * n for n in (mean, *ends)]
    first, low, high = ("–" if math.isnan(n) else f"{n:+.{digits}f}".replace("-", "−") for n in numbers)
    unit = " points" if measure.points else ""
    return f"{first} ({low} to {high}){unit}"
