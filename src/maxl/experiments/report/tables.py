"""The results in tables: accuracy of each method, and each comparison with its verdict."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from maxl.experiments.report.parts import Table
from maxl.experiments.report.runs import Setting
from maxl.experiments.studies.statistics import intervals_text, mean_interval, p_text


def accuracy_table(setting: Setting) -> Table:
    """Final test accuracy of each method."""
    rows = []
    for label, runs in setting.methods.items():
        accuracies = [100 * float(run.summary["test_accuracy"]) for run in runs]
        interval = mean_interval(accuracies)
        half = "–" if interval.n == 1 else f"± {interval.high - interval.mean:.2f}"
        rows.append(
            {
                "Method": label,
                "Seeds": interval.n,
                "Mean (%)": f"{interval.mean:.2f}",
                "95 % interval, uncorrected": half,
                "Lowest (%)": f"{min(accuracies):.2f}",
                "Highest (%)": f"{max(accuracies):.2f}",
            }
        )
    return Table(f"Test accuracy after the last epoch: {setting.name}", pd.DataFrame(rows))


def comparison_table(setting: Setting) -> Table | None:
    """Every method against every reference; None where there is no reference."""
    if setting.comparisons.empty:
        return None
    rows = [_comparison(dict(row)) for _, row in setting.comparisons.iterrows()]
    order = list(dict.fromkeys(row["Compared with"] for row in rows))
    rows.sort(key=lambda row: (order.index(row["Compared with"]), list(setting.methods).index(row["Method"])))
    intervals = intervals_text(setting.comparisons["comparisons"])
    caption = f"Differences in points, paired by seed, with {intervals}: {setting.name}"
    return Table(caption, pd.DataFrame(rows), "Compared with")


def _comparison(row: dict[str, Any]) -> dict[str, str]:
    numbers = [100 * float(row[name]) for name in ("difference", "low", "high")]
    mean, low, high = (
        "–" if math.isnan(number) else f"{number:+.2f}".replace("-", "−") for number in numbers
    )
    return {
        "Compared with": str(row["reference"])
        + (" (the best control)" if row["against"] == "best control" else ""),
        "Method": str(row["method"]),
        "Verdict": str(row["verdict"]),
        "Difference": mean,
        "Interval": "–" if low == "–" else f"{low} to {high}",
        "Comparisons": str(row["comparisons"]),
        "p (Bonferroni)": "–"
        if math.isnan(row["p_corrected"])
        else p_text(row["p_corrected"]).removeprefix("p ").removeprefix("= "),
        "Won / lost / tied": f"{row['wins']} / {row['losses']} / {row['ties']}",
    }
