"""Do people's classes raise accuracy where a network learns its samples by heart, and do learned labels do a part of that?

    python dev/by_heart.py run --data-dir DIR [--jobs N]    # the first stage, and the second one if its gate is open
    python dev/by_heart.py write                            # the table, and what the plan's rule says

``DIR`` holds CIFAR-100's files. The plan, dev/plans/by-heart.md, is older than the runs. Results are kept in
dev/evidence/by-heart.csv, a row a run.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence import HERE, Task, row, told, work
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.studies.intervals import (
    interval_text,
    mean_interval,
    paired_difference,
    paired_differences,
)
from planned import outcomes
from settings import ADAM, SETTINGS, TUNED

FILE = HERE / "by-heart.csv"
SEEDS, CHOOSING_SEEDS = range(600, 620), ()  # nothing is chosen
FIRST, SECOND = (
    ("single", "uniform", "human", "human-shuffled"),
    ("kmeans", "prototypes", "prototypes-shuffled"),
)
CHEAP = ("single", "uniform", "kmeans")
NAME = "cifar100-long"


def config(arm: str, seed: int, data_dir: str | None, **changes: Any) -> RunConfig:
    """The settings of an arm."""
    values = {**ADAM, **SETTINGS[NAME], **TUNED[NAME], "method": arm, "seed": seed, "data_dir": data_dir}
    if arm.startswith("prototypes"):
        values |= {"held_out": 0.25, "entropy_weight": 0.2}
    return RunConfig.from_dict({**values, **changes}, "dev/by_heart.py")


def one(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm."""
    settings = config(arm, seed, data_dir, **changes)
    with tempfile.TemporaryDirectory() as folder:
        summary = Trainer(settings, RunFolder(Path(folder) / "run"), load_data(settings)).fit()
    return row(summary, arm, changes, seed)


def run(options: argparse.Namespace) -> None:
    """The first stage; the second one if people's classes beat uniform labels."""
    for arms in (FIRST, SECOND):
        tasks: list[Task] = [(NAME, arm, {}, seed) for seed in SEEDS for arm in arms]
        work(tasks, FILE, options.data_dir, options.jobs, one)
        found = outcomes(FILE, "test_accuracy")
        gate = paired_difference(found["human"], found["uniform"])
        print(f"gate: human against uniform {told(gate)}, {gate.n} seeds")
        if not gate.low > 0:
            return


def pairs(found: Mapping[str, Mapping[int, float]]) -> list[tuple[str, str]]:
    """The plan's differences, each by itself, as far as their arms have run."""
    wanted = [("human", "uniform"), ("human", "human-shuffled"), ("prototypes", "prototypes-shuffled")]
    if "prototypes" in found:
        wanted.append(("prototypes", max(CHEAP, key=lambda arm: sum(found[arm].values()))))
    return [(a, b) for a, b in wanted if a in found and b in found]


def page() -> tuple[str, str]:
    """The tables of docs/evidence.md: each arm's results and its differences, simultaneous, to single and uniform; and the plan's."""
    found = outcomes(FILE, "test_accuracy")
    arms = [arm for arm in (*FIRST, *SECOND) if arm in found]
    beside = {
        control: dict(
            zip(
                others := [arm for arm in arms if arm != control],
                paired_differences([(found[arm], found[control]) for arm in others]),
                strict=True,
            )
        )
        for control in ("single", "uniform")
    }
    lines = ["| arm | test accuracy, % | − single | − uniform |", "|---|---|---|---|"]
    for arm in arms:
        cells = [told(beside[c][arm]) if arm in beside[c] else "" for c in beside]
        lines.append(
            f"| {arm} | {interval_text(mean_interval(found[arm].values()), 2)} | {' | '.join(cells)} |"
        )
    planned = ["| difference | points |", "|---|---|"]
    planned += [f"| {a} − {b} | {told(paired_difference(found[a], found[b]))} |" for a, b in pairs(found)]
    return "\n".join(lines), "\n".join(planned)


def answers() -> list[str]:
    """What the plan's rule says of the runs that there are."""
    found = outcomes(FILE, "test_accuracy")
    low = {pair: paired_difference(found[pair[0]], found[pair[1]]).low for pair in pairs(found)}
    if not low[("human", "uniform")] > 0:
        return ["the gate is shut: people's classes show no effect here, and the second stage is not run"]
    said = ["the gate is open: people's classes are above uniform labels"]
    said.append(f"it is what they say: {low[('human', 'human-shuffled')] > 0}")
    if "prototypes" in found:
        kept = low[("prototypes", "prototypes-shuffled")] > 0
        said.append("prototypes passes its gate" if kept else "prototypes is dropped")
        said.append(f"learned labels help: {kept and low[pairs(found)[-1]] > 0}")
    return said


def write(options: argparse.Namespace) -> None:
    """Prints the tables and what the plan's rule says."""
    print(*page(), *answers(), sep="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("--data-dir", help="CIFAR-100's files")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    {"run": run, "write": write}[options.what](options)


if __name__ == "__main__":
    main()
