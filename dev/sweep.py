"""When do auxiliary labels help? One setting at a time, away from a tuned one, ten seeds each.

    python dev/sweep.py run mnist14 --data-dir DIR      # the runs that dev/evidence/mnist14-sweep.csv lacks
    python dev/sweep.py write                           # the tables of dev/evidence/when.md and docs/when.png

Each row changes one setting of a data set of ``evidence.SETTINGS`` and trains single-task, uniform labels and MAXL
under it; nothing else is tuned anew. A method that a setting cannot touch keeps its runs of the tuned setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evidence import HERE, IMAGES, SEEDS, SETTINGS, Task, points, read, text, work
from maxl.statistics import SIGNIFICANCE, PairedDifference, holm, mean_interval, paired_difference
from maxl.study import irrelevant_fields

METHODS = ("single", "uniform", "maxl")
COMPARISONS = (("uniform", "single"), ("maxl", "single"), ("maxl", "uniform"))
PICTURE = Path(__file__).parent.parent / "docs" / "when.png"

Changes = dict[str, Any]
AXES: dict[str, dict[str, tuple[Changes, ...]]] = {
    "mnist14": {
        "as tuned": ({},),
        "training samples": tuple({"train_size": n} for n in (50, 100, 500, 2000)),
        "epochs": tuple({"epochs": n} for n in (10, 160, 320)),
        "learning rate": tuple({"learning_rate": x} for x in (3e-4, 1e-3, 1e-2)),
        "optimizer": ({"optimizer": "sgd", "learning_rate": 0.1},),
        "weight decay (AdamW)": tuple({"optimizer": "adamw", "weight_decay": x} for x in (0.1, 1.0)),
        "augmentation": ({"augment": "crop"}, {"augment": "crop", "evaluate": "augmented"}),
        "width of the network": ({"trunk": "variants:narrow"}, {"trunk": "variants:wide"}),
        "focal exponent": ({"gamma": 2.0},),
        "auxiliary classes a class (ψ)": tuple({"psi": k} for k in (2, 10, 20)),
        "auxiliary weight": tuple({"auxiliary_weight": w} for w in (0.1, 0.3, 3.0)),
        "entropy weight (λ)": tuple({"entropy_weight": x} for x in (0.0, 1.0)),
        "regulariser": ({"regulariser": "information"},),
        "generator's learning rate": tuple({"meta_learning_rate": x} for x in (1e-3, 1e-1)),
        "labels judged on": tuple({"evaluate": e} for e in ("next", "held-out", "rotating")),
    },
    "clinc150": {
        "as tuned": ({},),
        "training samples": ({"train_size": 300}, {"train_size": 3000}),
        "epochs": ({"epochs": 5}, {"epochs": 100}),
        "learning rate": ({"learning_rate": 3e-5}, {"learning_rate": 3e-3}),
        "weight decay (AdamW)": tuple({"optimizer": "adamw", "weight_decay": x} for x in (0.1, 1.0)),
        "auxiliary classes a class (ψ)": ({"psi": 2}, {"psi": 15}),
        "auxiliary weight": ({"auxiliary_weight": 1.0}, {"auxiliary_weight": 3.0}),
        "entropy weight (λ)": ({"entropy_weight": 0.0},),
        "labels judged on": ({"evaluate": "next"}, {"evaluate": "held-out"}),
    },
}


class Row(NamedTuple):
    """One setting: the axis it belongs to, what it changes, and test accuracy by method and seed."""

    axis: str
    changes: Changes
    accuracy: Mapping[str, Mapping[int, float]]


def touching(method: str, changes: Changes) -> Changes:
    """The changes that can make a difference to a method."""
    return {k: v for k, v in changes.items() if k not in irrelevant_fields(method)}


def tasks(name: str, seeds: Sequence[int]) -> list[Task]:
    """All runs of a sweep, each once, seed by seed."""
    wanted = [
        (method, touching(method, changes))
        for axis in AXES[name].values()
        for changes in axis
        for method in METHODS
    ]
    once = {(method, text(changes)): (method, changes) for method, changes in wanted}
    return [(name, method, changes, seed) for seed in seeds for method, changes in once.values()]


def rows(name: str) -> list[Row]:
    """The settings of a sweep for which all three methods have been run on the same two seeds or more."""
    table = read(HERE / f"{name}-sweep.csv")
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in table.itertuples():
        found.setdefault((run.method, run.settings), {})[int(run.seed)] = float(run.test_accuracy)
    made = []
    for axis, settings in AXES[name].items():
        for changes in settings:
            accuracy = {m: found.get((m, text(touching(m, changes))), {}) for m in METHODS}
            if len(set.intersection(*(set(a) for a in accuracy.values()))) > 1:
                made.append(Row(axis, changes, accuracy))
    return made


def differences(found: Sequence[Row]) -> list[list[tuple[PairedDifference, float]]]:
    """For each row its paired differences in the order of ``COMPARISONS``, with p corrected over the rows."""
    columns = []
    for method, control in COMPARISONS:
        column = [paired_difference(row.accuracy[method], row.accuracy[control]) for row in found]
        columns.append(list(zip(column, holm([d.p for d in column]), strict=True)))
    return [list(row) for row in zip(*columns, strict=True)]


def table(found: Sequence[Row]) -> str:
    """Markdown: a line a setting; bold where p < 0.05 after Holm's correction over the lines of a column."""
    head = ("changed", "to", "seeds", "single, %", *(f"{m} − {c}" for m, c in COMPARISONS))
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row, cells in zip(found, differences(found), strict=True):
        single = mean_interval(row.accuracy["single"].values())
        shown = [f"**{points(d)}**" if p < SIGNIFICANCE else points(d) for d, p in cells]
        to = ", ".join(f"{k} {v}" for k, v in row.changes.items())
        lines.append(
            f"| {' | '.join([row.axis, to, str(cells[0][0].n), f'{100 * single.mean:.1f}', *shown])} |"
        )
    return "\n".join(lines)


def page() -> str:
    """The sweeps' tables, each under the setting it starts from."""
    parts = []
    for name in AXES:
        found = rows(name)
        if found:
            settings = ", ".join(f"{k} {v}" for k, v in SETTINGS[name].items() if k not in IMAGES)
            parts.append(f"## {name}\n\n{settings}\n\n{table(found)}\n")
    return "\n".join(parts)


def draw(file: Path) -> None:
    """A point and a 95 % interval for each setting: MAXL against single-task training and uniform labels."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    parts = {name: rows(name) for name in AXES}
    height = max(len(found) for found in parts.values())
    figure, axes = pyplot.subplots(
        1, len(parts), figsize=(6.5 * len(parts), 1.2 + 0.27 * height), squeeze=False
    )
    for axis, (name, found) in zip(axes[0], parts.items(), strict=True):
        for k, (control, colour, marker) in enumerate(
            (("single", "#666666", "s"), ("uniform", "#b8442c", "o"))
        ):
            of_row = [cells[COMPARISONS.index(("maxl", control))][0] for cells in differences(found)]
            axis.errorbar(
                [100 * d.mean for d in of_row],
                [i + 0.3 * k for i in range(len(found))],
                xerr=[50 * (d.high - d.low) for d in of_row],
                fmt=marker,
                color=colour,
                markersize=4,
                elinewidth=1,
                label=f"against {control}",
            )
        axis.axvline(0, color="black", linewidth=0.8)
        changed = [", ".join(f"{v}".removeprefix("variants:") for v in r.changes.values()) for r in found]
        axis.set_yticks(
            [i + 0.15 for i in range(len(found))],
            [f"{r.axis} {c}".strip() for r, c in zip(found, changed, strict=True)],
            fontsize=8,
        )
        axis.set_ylim(height - 0.3, -0.7)
        axis.set_title(name)
        axis.set_xlabel("MAXL, points of test accuracy, 95 % interval")
        axis.legend(loc="lower left", fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def write() -> None:
    """Puts the tables into their page, and draws them."""
    file = HERE / "when.md"
    head, _, _ = file.read_text().partition("\n## ")
    file.write_text(f"{head}\n{page()}")
    draw(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("data", nargs="*", choices=[*AXES, []], help="data sets")
    parser.add_argument("--data-dir", help="local copies of the data sets, a folder each")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    if options.what == "write":
        write()
        return
    for name in options.data:
        folder = None if options.data_dir is None else str(Path(options.data_dir, SETTINGS[name]["data"]))
        work(tasks(name, options.seeds), HERE / f"{name}-sweep.csv", folder, options.jobs)


if __name__ == "__main__":
    main()
