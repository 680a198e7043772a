"""Is a generator that is a head on the network's own features worse than one with a trunk of its own?

    python dev/shared_trunk.py run [--data-dir DIR] [--only digits clinc150] [--jobs 2]    # what the table lacks
    python dev/shared_trunk.py tell                                                         # differences, and the decision

Settings, and MAXL's own as they were tuned for a trunk of its own, are those of dev/settings.py; seeds are fresh. DIR holds mnist/,
clinc150/ and cifar100/. Results are kept in dev/evidence/shared-trunk.csv, a row a run.

The rule, older than the runs: the shared trunk becomes the default if no setting's interval, simultaneous over all settings, lies
below zero, and if that of the mean over settings excludes a loss of half a point.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evidence import HERE, of_set, read, text, work
from evidence import one as trained
from maxl.experiments.studies.intervals import PairedDifference, paired_differences

FILE = HERE / "shared-trunk.csv"
SETTINGS = ("digits", "digits-sgd", "digits-noisy", "mnist", "clinc150", "clinc150-noisy", "cifar100-2500")
METHODS = ("maxl", "shared")
SEEDS = range(20, 30)
TOLERATED = 0.005


def one(name: str, method: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run; its table says of which setting."""
    folder = name.split("-")[0]
    place = None if data_dir is None or folder == "digits" else str(Path(data_dir) / folder)
    row = trained(name, method, {}, seed, place)
    columns = ("method", "seed", "test_accuracy", "validation_accuracy", "train_accuracy", "seconds_total")
    return {"settings": text(changes), **{c: row[c] for c in columns}}


def run(options: argparse.Namespace) -> None:
    """What the table lacks."""
    for name in options.only or SETTINGS:
        tasks = [(name, method, {"data": name}, seed) for seed in SEEDS for method in METHODS]
        work(tasks, FILE, options.data_dir, options.jobs, one)


def tell() -> None:
    """Paired differences by setting, of their mean, and what follows."""
    rows = read(FILE)
    found: dict[str, list[dict[int, float]]] = {}
    for name in SETTINGS:
        pair = list(of_set(rows, name, METHODS).values())
        if all(len(values) == len(SEEDS) for values in pair):
            found[name] = pair
    if missing := [name for name in SETTINGS if name not in found]:
        raise SystemExit(f"a decision needs every setting; {', '.join(missing)} are not finished")
    each = paired_differences([(shared, own) for own, shared in found.values()])
    both = [
        {seed: sum(pair[i][seed] for pair in found.values()) / len(found) for seed in SEEDS} for i in (0, 1)
    ]
    (mean,) = paired_differences([(both[1], both[0])])
    for name, difference in [*zip(found, each, strict=True), ("mean", mean)]:
        print(f"| {name} | {_text(difference)} |")
    worse = any(d.high < 0 for d in each) or not mean.low > -TOLERATED
    print(f"shared is {'worse, or may be' if worse else 'no worse: the default'}")


def _text(d: PairedDifference) -> str:
    return f"{100 * d.mean:+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "tell"))
    parser.add_argument("--data-dir", help="see above")
    parser.add_argument("--only", nargs="+", choices=SETTINGS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    if options.what == "run":
        run(options)
    else:
        tell()


if __name__ == "__main__":
    main()
