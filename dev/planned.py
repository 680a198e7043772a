"""What studies with a plan share: their command line, their tables in percent, and Holm's correction over settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from evidence import Task, read
from maxl.experiments.studies.intervals import PairedDifference


def outcomes(table: Path, column: str) -> dict[str, dict[int, float]]:
    """A column of a study's table in percent, by arm and seed."""
    return {
        str(arm): {int(seed): 100 * float(v) for seed, v in zip(group.seed, group[column], strict=True)}
        for arm, group in read(table).groupby("method")
    }


def at_each_rate(
    setting: str, arms: Iterable[str], rates: Collection[float], seeds: Iterable[int]
) -> list[Task]:
    """The runs by which the learning rate of each arm is chosen."""
    arms = tuple(arms)
    return [(setting, arm, {"learning_rate": rate}, seed) for seed in seeds for arm in arms for rate in rates]


def as_chosen(setting: str, chosen: Mapping[str, dict[str, Any]], seeds: Iterable[int]) -> list[Task]:
    """The runs that report: every arm with what was chosen for it, on each seed."""
    return [(setting, arm, changes, seed) for seed in seeds for arm, changes in chosen.items()]


def p_of_gains(versus: Mapping[str, PairedDifference], dropped: Collection[str] = ()) -> float:
    """The smallest p that a learned arm of a setting gains, Bonferroni over all of its learned arms.

    Two-sided where an arm is better, as the plans' intervals are; 1 where it is not, or where a gate has dropped it: harm
    is no support for "learned beats cheap", and may not spare another setting a part of Holm's correction.
    """
    p = {arm: d.p if d.mean > 0 and arm not in dropped else 1.0 for arm, d in versus.items()}
    return min(1.0, len(p) * min(p.values()))


def print_holm(least: Mapping[str, float]) -> None:
    """The p-value of a gain in each setting after Holm's correction, the smallest first."""
    highest = 0.0
    for i, setting in enumerate(sorted(least, key=lambda name: least[name])):
        highest = max(highest, min(1.0, (len(least) - i) * least[setting]))
        print(f"{setting}: p of a gain = {highest:.4f} after Holm over settings")


def command(
    description: str | None,
    settings: Iterable[str],
    data_help: str,
    actions: Mapping[str, Callable[[argparse.Namespace], None]],
) -> None:
    """Does what the command line asks for: an action, and its setting unless that is "write"."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(actions))
    parser.add_argument("setting", nargs="?", choices=tuple(settings))
    parser.add_argument("--data-dir", help=data_help)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    if options.what != "write" and options.setting is None:
        parser.error(f"{options.what} needs a setting")
    actions[options.what](options)
