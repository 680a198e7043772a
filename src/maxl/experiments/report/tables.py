"""The results in tables: accuracy of each method, and each comparison with its verdict."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from maxl.experiments.report.parts import Table
from maxl.experiments.report.runs import Setting
from maxl.experiments.runs.measures import MEASURES, OUTCOMES, Measure, task_of
from maxl.experiments.studies.intervals import mean_interval
from maxl.experiments.studies.notes import outcomes_text
from maxl.experiments.studies.statistics import intervals_text, p_text


def accuracy_table(setting: Setting) -> Table:
    """Final test accuracy of each method, or what else its task is judged by."""
    measure, rows = setting.measure, []
    unit, digits = f" ({measure.unit.strip()})" if measure.unit else "", 2 if measure.points else 4
    task = task_of(next(iter(setting.methods.values()))[0].summary)
    for label, runs in setting.methods.items():
        accuracies = [measure.scale * float(run.summary[measure.key]) for run in runs]
        interval = mean_interval(accuracies)
        half = "–" if interval.n == 1 else f"± {interval.high - interval.mean:.{digits}f}"
        others = {
            f"Mean {other.heading}": f"{other.scale * sum(values) / len(values):.{2 if other.points else 4}f}"
            for other in MEASURES[task][1:]
            if len(values := [v for run in runs if (v := run.summary.get(other.key)) is not None])
        }
        rows.append(
            {
                "Method": label,
                "Seeds": interval.n,
                f"Mean{unit}": f"{interval.mean:.{digits}f}",
                "95 % interval, uncorrected": half,
                f"Lowest{unit}": f"{min(accuracies):.{digits}f}",
                f"Highest{unit}": f"{max(accuracies):.{digits}f}",
                **others,
            }
        )
    caption = f"Test {measure.title} after the last epoch: {setting.name}"
    return Table(caption, pd.DataFrame(rows).fillna("–"))


def outcome_table(setting: Setting) -> Table | None:
    """Structure and calibration of each method, means over seeds; None where no run has measured them."""
    summaries = {label: [run.summary for run in runs] for label, runs in setting.methods.items()}
    every = [summary for of_label in summaries.values() for summary in of_label]
    measured = [m for m in OUTCOMES if any(summary.get(m.key) is not None for summary in every)]
    if not measured:
        return None
    rows = []
    for label, of_label in summaries.items():
        row = {"Method": label}
        for m in measured:
            values = [m.scale * float(s[m.key]) for s in of_label if s.get(m.key) is not None]
            row[m.heading] = f"{sum(values) / len(values):.{2 if m.points else 4}f}" if values else "–"
        rows.append(row)
    told = outcomes_text(every)
    return Table(f"Structure and calibration, test part: {setting.name}; {told}", pd.DataFrame(rows))


def comparison_table(setting: Setting) -> Table | None:
    """Every method against every reference; None where there is no reference."""
    if setting.comparisons.empty:
        return None
    rows = [_comparison(dict(row), setting.measure) for _, row in setting.comparisons.iterrows()]
    order = list(dict.fromkeys(row["Compared with"] for row in rows))
    rows.sort(key=lambda row: (order.index(row["Compared with"]), list(setting.methods).index(row["Method"])))
    intervals = intervals_text(setting.comparisons["comparisons"])
    what = "points" if setting.measure.points else setting.measure.title
    caption = (
        f"Differences in {what}, paired by seed, with {intervals}: {setting.name}; the smallest difference that so "
        "many seeds find with 80 % power, at the corrected level and the paired standard deviation that they show"
    )
    return Table(caption, pd.DataFrame(rows), "Compared with")


def signed(number: float, measure: Measure) -> str:
    """A difference, times the measure's scale, with its sign; a dash where there is none."""
    digits = 2 if measure.points else 4
    return "–" if math.isnan(number) else f"{number:+.{digits}f}".replace("-", "−")


def _comparison(row: dict[str, Any], measure: Measure) -> dict[str, str]:
    numbers = [measure.scale * float(row[name]) for name in ("difference", "low", "high")]
    digits = 2 if measure.points else 4
    mean, low, high = (signed(number, measure) for number in numbers)
    return {
        "Compared with": str(row["reference"])
        + (" (the best control)" if row["against"] == "best control" else ""),
        "Method": str(row["method"]),
        "Verdict": str(row["verdict"]),
        "Difference": mean,
        "Interval": "–" if low == "–" else f"{low} to {high}",
        "Found with 80 % power": "–"
        if math.isnan(row["detectable"])
        else f"{measure.scale * row['detectable']:.{digits}f}",
        "Comparisons": str(row["comparisons"]),
        "p (Bonferroni)": "–"
        if math.isnan(row["p_corrected"])
        else p_text(row["p_corrected"]).removeprefix("p ").removeprefix("= "),
        "Won / lost / tied": f"{row['wins']} / {row['losses']} / {row['ties']}",
    }
