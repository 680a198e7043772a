"""Do learned corrections add to agreement filtering where labels are wrong at random?

    python dev/on_top.py choose SETTING [--data-dir DIR]    # learning rates, by trusted samples, on seeds 1006 and 1007
    python dev/on_top.py run SETTING [--data-dir DIR]       # every arm on the seeds that the table lacks
    python dev/on_top.py write                              # the table, and what the plan's rule says

Settings: digits-symmetric, mnist-symmetric (``DIR`` holds MNIST). The plan, dev/plans/on-top.md, is older than the runs. Results are
kept in dev/evidence/on-top-SETTING.csv and on-top-SETTING-choice.csv, a row a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import noise
from evidence import HERE, told, work
from maxl.experiments.studies.intervals import (
    PairedDifference,
    interval_text,
    mean_interval,
    paired_difference,
    paired_differences,
)
from planned import as_chosen, at_each_rate, command, outcomes, print_holm

SETTINGS = ("digits-symmetric", "mnist-symmetric")
SEEDS = {"digits-symmetric": range(40, 60), "mnist-symmetric": range(40, 50)}
CHOOSING_SEEDS = (1006, 1007)
CHEAP, LEARNED = ("gce", "agreement", "agreement+gce"), "agreement+corrected"
ARMS = (*CHEAP, LEARNED)


def one(setting: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm with ``changes`` to its settings."""
    return noise.trained(setting, arm, changes, seed, data_dir, validate=seed in CHOOSING_SEEDS)


def table_of(setting: str) -> Path:
    return HERE / f"on-top-{setting}.csv"


def choice_of(setting: str) -> Path:
    return HERE / f"on-top-{setting}-choice.csv"


def choose(options: argparse.Namespace) -> None:
    """The learning rate of each arm."""
    tasks = at_each_rate(options.setting, ARMS, noise.RATES, CHOOSING_SEEDS)
    work(tasks, choice_of(options.setting), options.data_dir, options.jobs, one)


def run(options: argparse.Namespace) -> None:
    """Every arm at its rate."""
    rates = {arm: noise.best_of(choice_of(options.setting), arm) for arm in ARMS}
    tasks = as_chosen(options.setting, rates, SEEDS[options.setting])
    work(tasks, table_of(options.setting), options.data_dir, options.jobs, one)


def finished() -> list[str]:
    """The settings of which every run is there; the plan has no look before the last."""
    found = {name: outcomes(table_of(name), "test_accuracy") for name in SETTINGS if table_of(name).exists()}
    return [
        name for name, of in found.items() if all(set(of.get(arm, ())) == set(SEEDS[name]) for arm in ARMS)
    ]


def compared(setting: str) -> dict[str, PairedDifference]:
    """The learned arm against agreement and the best cheap one, simultaneous where these are two."""
    found = outcomes(table_of(setting), "test_accuracy")
    others = list(dict.fromkeys(("agreement", max(CHEAP, key=lambda arm: sum(found[arm].values())))))
    versus = paired_differences([(found[LEARNED], found[other]) for other in others])
    return dict(zip(others, versus, strict=True))


def page() -> str:
    """The table of docs/evidence.md."""
    settings = finished()
    every = [outcomes(table_of(setting), "test_accuracy") for setting in settings]
    heads = [f"{name} ({len(v[LEARNED])} seeds)" for name, v in zip(settings, every, strict=True)]
    lines = [f"| arm, or difference in points | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [
        f"| {arm} | {' | '.join(interval_text(mean_interval(v[arm].values()), 2) for v in every)} |"
        for arm in ARMS
    ]
    cells = [" and ".join(f"{arm}: {told(d)}" for arm, d in compared(name).items()) for name in settings]
    lines.append(f"| {LEARNED} against agreement and the best cheap arm | {' | '.join(cells)} |")
    for arm in CHEAP:
        by_itself = [told(paired_difference(v[LEARNED], v[arm])) for v in every]
        lines.append(f"| {LEARNED} against {arm}, by itself | {' | '.join(by_itself)} |")
    return "\n".join(lines)


def write(options: argparse.Namespace) -> None:
    """Prints the table and the rule's decision; "finds" is the smallest difference found with 80 % power."""
    largest: dict[str, float] = {}
    done = finished()
    for setting in SETTINGS:
        if setting not in done:
            print(f"{setting}: not finished, and the plan has no look before the last run")
            continue
        versus = compared(setting)
        gains = {arm: min(1.0, len(versus) * d.p) if d.mean > 0 else 1.0 for arm, d in versus.items()}
        largest[setting] = max(gains.values())
        adds = all(d.low > 0 for d in versus.values())
        print(f"{setting}: learned corrections {'add' if adds else 'are not shown to add'}")
    if done:
        print(page())
    print_holm(largest)


def main() -> None:
    command(__doc__, SETTINGS, "MNIST's files", {"choose": choose, "run": run, "write": write})


if __name__ == "__main__":
    main()
