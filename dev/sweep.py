"""When do auxiliary labels help? One setting at a time, away from a tuned one, ten seeds each.

    python dev/sweep.py run mnist14 --data-dir DIR      # the runs that dev/evidence/mnist14-sweep.csv lacks
    python dev/sweep.py write                           # the tables of dev/evidence/when.md and docs/when.png

Each row changes one setting of a data set of ``settings.SETTINGS`` and trains single-task, uniform labels and MAXL
under it; nothing else is tuned anew. A method that a setting cannot touch keeps its runs of the tuned setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evidence import HERE, Task, data_folder, emphasised, one, read, replace_sections, text, work
from maxl.experiments.studies.intervals import PairedDifference, mean_interval, paired_differences
from maxl.experiments.studies.variants import irrelevant_fields
from settings import IMAGES, SEEDS, SETTINGS

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
            seeds = sorted(set.intersection(*(set(a) for a in accuracy.values())))
            if len(seeds) > 1:
                shared = {m: {seed: a[seed] for seed in seeds} for m, a in accuracy.items()}
                made.append(Row(axis, changes, shared))
    return made


def differences(found: Sequence[Row]) -> list[list[PairedDifference]]:
    """For each row its paired differences in the order of ``COMPARISONS``, corrected over the rows."""
    columns = []
    for method, control in COMPARISONS:
        columns.append(paired_differences([(row.accuracy[method], row.accuracy[control]) for row in found]))
    return [list(row) for row in zip(*columns, strict=True)]


def table(found: Sequence[Row]) -> str:
    """Markdown: a line a setting; intervals simultaneous over the lines of a column, bold where without zero."""
    head = ("changed", "to", "seeds", "single, %", *(f"{m} − {c}" for m, c in COMPARISONS))
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row, cells in zip(found, differences(found), strict=True):
        single = mean_interval(row.accuracy["single"].values())
        shown = [emphasised(d) for d in cells]
        to = ", ".join(f"{k} {v}" for k, v in row.changes.items())
        lines.append(f"| {' | '.join([row.axis, to, str(cells[0].n), f'{100 * single.mean:.1f}', *shown])} |")
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


# Of the picture: comparison, colour, marker.
SERIES = (
    (("uniform", "single"), "#4a7fb5", "D"),
    (("maxl", "single"), "#666666", "s"),
    (("maxl", "uniform"), "#b8442c", "o"),
)


def draw(file: Path) -> None:
    """A point and a simultaneous 95 % interval for each setting and comparison, one panel a data set."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    parts = {name: found for name in AXES if (found := rows(name))}
    height = max(len(found) for found in parts.values())
    size = (7.5 * len(parts), 1.4 + 0.33 * height)
    figure, panels = pyplot.subplots(1, len(parts), figsize=size, squeeze=False)
    for panel, (name, found) in zip(panels[0], parts.items(), strict=True):
        cells = differences(found)
        for k, (comparison, colour, marker) in enumerate(SERIES):
            column = [row[COMPARISONS.index(comparison)] for row in cells]
            panel.errorbar(
                [100 * d.mean for d in column],
                [i + 0.25 * k for i in range(len(found))],
                xerr=[50 * (d.high - d.low) for d in column],
                fmt=marker,
                color=colour,
                markersize=4,
                elinewidth=1,
                label=" − ".join(comparison),
            )
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks([i + 0.25 for i in range(len(found))], [_label(row) for row in found], fontsize=8)
        panel.set_ylim(height - 0.2, -0.5)
        panel.set_title(f"{name}, {len(found[0].accuracy['single'])} seeds")
        panel.set_xlabel("points of test accuracy, 95 % simultaneous intervals")
        panel.legend(loc="lower right", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def _label(row: Row) -> str:
    values = ", ".join(str(value).removeprefix("variants:") for value in row.changes.values())
    return f"{row.axis}: {values}" if values else row.axis


def write() -> None:
    """Puts the tables into their page, and draws them."""
    replace_sections(HERE / "when.md", page())
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
        work(
            tasks(name, options.seeds),
            HERE / f"{name}-sweep.csv",
            data_folder(name, options.data_dir),
            options.jobs,
            one,
        )


if __name__ == "__main__":
    main()
