"""What part of a run's time goes into its guards: checks that a result is right, and files that are whole.

    uv run python benchmarks/guards.py -- --data digits --trunk mlp --epochs 20

Trains with the flags after ``--`` by ``maxl train`` in a folder that is thrown away, and times every call of a guard
from outside. A guard inside another counts once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

GUARDS = {
    "the hypergradient against ordinary gradients": ["maxl.hypergradients._fallback:OrReverse._compared"],
    "a training pass against its repetition": [
        "maxl.hypergradients._problem:Problem.repeats",
        "maxl.hypergradients._dual_kernels:DualKernels.fits",
        "maxl.hypergradients._dual_kernels:_measure",
    ],
    "hooks in the network": [
        "maxl.hypergradients._fallback:gradient_hook",
        "maxl.learning._tracker:UpdateTracker.begin",
    ],
    "gradients on their way to the optimizer": [
        "maxl.learning._fingerprint:Fingerprint.__init__",
        "maxl.learning._fingerprint:Fingerprint.factors",
        "maxl.learning._tracker:_versions",
    ],
    "weights that stay where they are": [
        "maxl.learning._unmoved:Unmoved.__init__",
        "maxl.learning._unmoved:Unmoved.check",
    ],
    "buffers that stay as they are": [
        "maxl.hypergradients._purity:spare_buffers",
        "maxl.hypergradients._problem:copied",
        "maxl.hypergradients._purity:renormalised",
    ],
    "losses that are finite, batches that stay": [
        "maxl.learning._multitask:MultiTaskLearner._require_finite",
        "maxl.learning._record:MicroBatch.check_unchanged",
        "maxl.learning._losses:check_within",
        "maxl.learning._teacher:require_finite",
        "maxl.learning._teacher:Teacher._trainable",
        "maxl.experiments.runs.divergence:require_finite",
    ],
    "checksums, whole files and fingerprints": [
        "maxl.experiments.runs.checkpoint:content_checksum",
        "maxl.experiments.runs.files:sha256",
        "maxl.experiments.runs.files:_sync_folder",
        "maxl.experiments.runs.fingerprint:fingerprint",
        "maxl.experiments.runs.lock:_holder",
    ],
}


class Clock:
    """Seconds in guards by name; a guard within a guard belongs to the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inside = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, and its time noted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[name] += time.perf_counter() - start
                self.calls[name] += 1

        return call

    def watch(self) -> None:
        """Puts a clock around every guard, wherever its module's name for it is used."""
        for name, places in GUARDS.items():
            for place in places:
                module, _, path = place.partition(":")
                *outer, last = path.split(".")
                home: Any = importlib.import_module(module)
                for part in outer:
                    home = getattr(home, part)
                original = getattr(home, last)
                clocked = self.timed(name, original)
                setattr(home, last, clocked)
                for other in list(sys.modules.values()):  # imported by name elsewhere
                    if (
                        getattr(other, "__name__", "").startswith("maxl")
                        and vars(other).get(last) is original
                    ):
                        setattr(other, last, clocked)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of maxl train, after --")
    flags = [f for f in parser.parse_args().flags if f != "--"]
    from maxl.experiments.cli import main as maxl

    for module in ("maxl.experiments.runs.trainer", "maxl.learning", "maxl.experiments.cli"):
        importlib.import_module(module)
    clock = Clock()
    clock.watch()
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        status = maxl(["train", *flags, "--out", str(Path(folder) / "run")])
        total = time.perf_counter() - start
    if status:
        sys.exit(status)
    print(f"\nmaxl train {' '.join(flags)}: {total:.1f} s")
    print(f"| {'guard':<46} | calls  | seconds | share  |\n| {'-' * 46} | ------ | ------- | ------ |")
    for name in GUARDS:
        seconds = clock.seconds[name]
        print(f"| {name:<46} | {clock.calls[name]:6} | {seconds:7.3f} | {seconds / total:6.2%} |")
    whole = sum(clock.seconds.values())
    print(f"| {'all':<46} | {'':6} | {whole:7.3f} | {whole / total:6.2%} |")


if __name__ == "__main__":
    main()
