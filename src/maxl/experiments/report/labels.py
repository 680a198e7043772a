"""What became of the generated labels: entropy, use of the classes, and whether they collapsed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from maxl.experiments.report.draw import heat_map_height, heat_maps, over_epochs
from maxl.experiments.report.parts import Figure, Note, Part, Points
from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.report.series import curves, ends_table, nested_mean, thinned
from maxl.experiments.report.style import Look
from maxl.experiments.runs.evaluation import INFORMATIVE, block_names


def labels_over_epochs(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    """All there is of labels over epochs: ``label_diagnostics``, then ``labels_by_class``."""
    return label_diagnostics(setting, looks) + labels_by_class(setting)


def label_diagnostics(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    """Verdicts, entropy against its maximum, use, and what moves the labels; nothing where no run looked at labels."""
    parts: list[Part] = []
    if said := label_verdicts(setting):
        parts.append(Points([f"{setting.name}: {sentence}" for sentence in said]))
    for draw in (_entropy, _usage, _what_moves_them):
        parts += draw(setting, looks)
    return parts


def labels_by_class(setting: Setting) -> list[Part]:
    """Use and entropy by primary class, of runs whose labels say something of their samples; else a note why not."""
    if not labelled(setting):
        return [Note(f"{setting.name}: no label figures, because no run recorded label entropy or usage.")]
    telling = {
        label: kept
        for label, runs in setting.methods.items()
        if (kept := [r for r in runs if informative(r)])
    }
    if not telling.keys() & labelled(setting):
        reason = "no figures of invented labels, because they say nothing of the samples they belong to"
        return [Note(f"{setting.name}: {reason}.")]
    setting = replace(setting, methods=telling)
    return [
        *_by_class(setting, "label_usage_per_class", "Auxiliary classes in use by primary class", "Share"),
        *_by_class(setting, "label_entropy_per_class", "Label entropy by primary class", "Nats"),
    ]


def informative(run: Run) -> bool:
    """Whether a run's labels say something of their samples at the end; also where that was not recorded."""
    information, most = run.series("label_information"), run.series("label_entropy_max")
    if information.empty or most.empty:
        return True
    return bool(most.iloc[-1] > 0 and information.iloc[-1] >= INFORMATIVE * most.iloc[-1])


def labelled(setting: Setting) -> set[str]:
    """Methods whose runs looked at labels."""
    return {
        label
        for label, runs in setting.methods.items()
        if any(not run.series("label_entropy").empty for run in runs)
    }


def label_verdicts(setting: Setting) -> list[str]:
    """What each method's runs say of their labels, with the number of runs that say it."""
    sentences = []
    for label, runs in setting.methods.items():
        verdicts = [str(run.summary["label_verdict"]) for run in runs if run.summary.get("label_verdict")]
        said = Counter(re.sub(r" \([^()]*\)$", "", words) for words in verdicts)  # the run's own figures
        sentences += [f"{label}, {_share(count, len(runs))}: {words}" for words, count in said.most_common()]
    return sentences


def _share(count: int, runs: int) -> str:
    if count == runs:
        return "all runs" if runs > 1 else "its one run"
    return f"{count} of {runs} runs"


def _entropy(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    found = curves(setting, "label_entropy", bounds=(0, math.inf))
    if not found:
        return []
    highest: list[float] = []
    for label in found:
        limits = [float(run.series("label_entropy_max").max()) for run in setting.methods[label]]
        highest += [limit for limit in limits if not math.isnan(limit)]
    top = 1.08 * max([*highest, *(float(curve["mean"].max()) for curve in found.values()), 0.01])
    plot = over_epochs(found, looks, title="Entropy (nats)", unit=" nats", between=(0, top))
    words = ""
    if highest:
        limit = max(highest)
        line = {"width": 1.5, "color": "#808080", "dash": "dash"}
        plot.add_hline(y=limit, line=line, annotation_text="maximum: uniform labels")
        shares = [f"{label} {curve['mean'].iloc[-1] / limit:.0%}" for label, curve in found.items() if limit]
        words = f" Maximum {limit:.2f} nats" + (
            f"; at the last epoch: {'; '.join(shares)} of it." if shares else "."
        )
    return [
        Figure(
            title=f"Entropy of the labels: {setting.name}",
            plot=plot,
            description=f"Mean entropy of a sample's label: 0 is one-hot, the maximum is uniform.{words}",
            table=thinned(found, 2, "nats"),
            name=f"label entropy {setting.name}",
        )
    ]


def _usage(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    found = curves(setting, "label_usage", 100, (0, 100))
    if not found:
        return []
    plot = over_epochs(found, looks, title="Classes in use (%)", unit=" %", between=(0, 104))
    last = "; ".join(f"{label} {curve['mean'].iloc[-1]:.0f} %" for label, curve in found.items())
    return [
        Figure(
            title=f"Auxiliary classes in use: {setting.name}",
            plot=plot,
            description=f"Share of the auxiliary classes that the labels use. At the last epoch: {last}.",
            table=thinned(found, 0, "%"),
            name=f"label usage {setting.name}",
        )
    ]


def _what_moves_them(setting: Setting, looks: Mapping[str, Look]) -> list[Part]:
    found = curves(setting, _balance)
    if not found:
        return []
    plot = over_epochs(found, looks, title="log₁₀ (primary task / regulariser)")
    line = {"width": 1.5, "color": "#808080", "dash": "dash"}
    plot.add_hline(y=0, line=line, annotation_text="both equally")
    last = "; ".join(f"{label} {10 ** curve['mean'].iloc[-1]:.2g}" for label, curve in found.items())
    return [
        Figure(
            title=f"What moves the labels: {setting.name}",
            plot=plot,
            description="Norm of the primary task's gradient at the labels' logits against that of the regulariser: "
            f"below 0 the regulariser has the say. At the last epoch the quotient is: {last}.",
            table=thinned(found, 2),
            name=f"label gradients {setting.name}",
        )
    ]


def _balance(run: Run) -> pd.Series[float]:
    """log₁₀ of the hypergradient's norm over the regulariser's; NaN where either vanishes."""
    norms = [pd.to_numeric(run.series(f"{name}_norm")) for name in ("hypergradient", "regulariser")]
    quotient = (norms[0] / norms[1].replace(0.0, math.nan)).replace(0.0, math.nan)
    return quotient.map(math.log10)


def _by_class(setting: Setting, name: str, title: str, unit: str) -> list[Part]:
    tables = {label: nested_mean(runs, name) for label, runs in setting.methods.items()}
    tables = {label: _named(table, setting) for label, table in tables.items() if not table.empty}
    if not tables:
        return []
    high = 1.0 if unit == "Share" else None
    plot = heat_maps(tables, colours="Cividis", low=0, high=high, title=unit)
    lowest = {label: (table.iloc[:, -1].idxmin(), table.iloc[:, -1].min()) for label, table in tables.items()}
    words = "; ".join(f"{label}: “{who}” with {value:.2f}" for label, (who, value) in lowest.items())
    return [
        Figure(
            title=f"{title}: {setting.name}",
            plot=plot,
            description=f"One row a primary class, mean over seeds. Lowest at the last epoch: {words}.",
            table=ends_table(tables, "Primary class"),
            height=heat_map_height(tables),
        )
    ]


def _named(table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    return table.rename(index=dict(enumerate(class_names(setting, len(table)))))


def class_names(setting: Setting, count: int) -> list[str]:
    """Names of the primary classes as a run of the setting has them, else their numbers; with one block more, "none"."""
    for runs in setting.methods.values():
        for run in runs:
            names = run.summary.get("primary_names")
            if names is None and run.snapshot is not None:
                names = run.snapshot.primary_names
            if names is not None and len(names) in (count, count - 1):
                return [*block_names([str(name) for name in names], count)]
    return [f"class {c}" for c in range(count)]
