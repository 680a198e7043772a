"""What studies with a plan share: their command line, their tables in percent, and Holm's correction over settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from evidence import read


def outcomes(table: Path, column: str) -> dict[str, dict[int, float]]:
    """A column of a study's table in percent, by arm and seed."""
    return {
        str(arm): {int(seed): 100 * float(v) for seed, v in zip(group.seed, group[column], strict=True)}
        for arm, group in read(table).groupby("method")
    }


def print_holm(least: Mapping[str, float]) -> None:
    """The p-value of each setting after Holm's correction, the smallest first."""
    highest = 0.0
    for i, setting in enumerate(sorted(least, key=lambda name: least[name])):
        highest = max(highest, min(1.0, (len(least) - i) * least[setting]))
        print(f"{setting}: p = {highest:.4f} after Holm over settings")


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
