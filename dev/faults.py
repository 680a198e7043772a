"""What becomes of runs and studies when machines, disks and people fail: tries it, and counts.

    python dev/faults.py [--quick] [--cases N] [--seed S] [--only KIND ...]

Kills training at random moments, damages files, fills the disk, starts two processes at once and opens folders made
to do harm. A case is *right* if the result is that of an undisturbed run to the last bit, *refused* if the command
ends with exit code 2 and one sentence, and *wrong* otherwise; the exit code is 1 if there is a wrong one. POSIX only:
commands run in forked children of this process, which has imported everything, so that a case takes part of a second.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork keeps no threads

import torch

from _faults.commands import Outcome
from _faults.damage import checkpoints, files, strangers
from _faults.disks import full, read_only
from _faults.harm import harm
from _faults.interruptions import kills, studies, together

WARM = (
    *("maxl.experiments.report.page", "maxl.experiments.runs.trainer", "maxl.experiments.runs.inference"),
    *(
        "maxl.experiments.cli.show",
        "maxl.experiments.cli._study",
        "timm",
        "sklearn.datasets",
        "sklearn.manifold",
    ),
    *(
        "sklearn.decomposition",
        "sklearn.metrics",
        "sklearn.cluster",
        "plotly.offline",
        "torch.utils.tensorboard",
    ),
)
Kind = Callable[[Path, int, random.Random], Iterator[Outcome]]
# What is tried, and how many cases of it: by default, and with --quick.
KINDS: dict[str, tuple[Kind, int, int]] = {
    "studies": (studies, 15, 1),  # the longest first: two kinds are tried at a time
    "kills": (kills, 12, 1),  # of each method
    "together": (together, 15, 2),
    "checkpoints": (checkpoints, 150, 8),
    "files": (files, 200, 8),
    "strangers": (strangers, 300, 8),
    "harm": (harm, 100, 6),
    "full": (full, 60, 4),
    "read-only": (read_only, 1, 1),
}


def main() -> int:
    """Tries, counts, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few cases of each kind, under a minute")
    parser.add_argument("--cases", type=int, help="cases of each kind (with kills: of each method)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and changes (0)")
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS)
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in WARM:
        importlib.import_module(name)
    print(f"{'kind':12} {'tried':>6} {'right':>6} {'refused':>8} {'wrong':>6} {'seconds':>8}")
    total: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="maxl-faults-") as temporary,
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool,
    ):
        Path(temporary).chmod(0o755)
        tries = []
        for name in options.only:
            _, usual, few = KINDS[name]
            cases = options.cases or (few if options.quick else usual)
            tries.append(pool.submit(_try, name, Path(temporary, name), cases, options.seed))
        for name, done in zip(options.only, tries, strict=True):
            count, wrong, seconds = done.result()
            for seen in wrong:
                print(f"  wrong: {seen}")
            _print_row(name, count, seconds)
            total += count
    _print_row("all", total, None)
    return 1 if total["wrong"] else 0


def _try(name: str, work: Path, cases: int, seed: int) -> tuple[Counter[str], list[str], float]:
    """All cases of a kind: how many ended how, what was seen of the wrong ones, and the seconds."""
    work.mkdir()
    count: Counter[str] = Counter()
    wrong = []
    start = time.monotonic()
    for outcome, seen in KINDS[name][0](work, cases, random.Random(seed)):
        count[outcome] += 1
        if outcome == "wrong":
            wrong.append(seen)
    return count, wrong, time.monotonic() - start


def _print_row(name: str, count: Counter[str], seconds: float | None) -> None:
    numbers = (count.total(), count["right"], count["refused"], count["wrong"])
    shown = "".join(f" {n:>{w}}" for n, w in zip(numbers, (6, 6, 8, 6), strict=True))
    print(f"{name:12}{shown} {'' if seconds is None else f'{seconds:8.1f}'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
