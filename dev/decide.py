"""Which of several ways becomes the default: paired runs on the study's settings, by a rule that is older than they are.

    python dev/decide.py run shared-trunk [--data-dir DIR] [--only digits clinc150] [--jobs 2]    # what the table lacks
    python dev/decide.py tell shared-trunk                                                         # differences, and the decision

Settings, and MAXL's own as they were tuned, are those of dev/settings.py; seeds are fresh, but for digits-sgd, which was run with them before. Precision is one for all ways of a setting:
float32, in place of a bfloat16 that some processors imitate ten times as slowly, but for cifar100-2500, which takes hours in float32. DIR holds mnist/, clinc150/ and cifar100/. Results are kept in
dev/evidence/NAME.csv, a row a run.

The rule: a way is no worse than the present one if no setting's interval, simultaneous over all settings and ways, lies below zero,
and if that of the mean over settings excludes a loss of half a point. Of the ways that are no worse the one with the highest mean
becomes the default; else the present one stays.

| question | present | others |
|---|---|---|
| shared-trunk | a generator with a trunk of its own, exact | a head on the network's features, exact |
| everyday | own trunk, a meta step in each sixth step, labels kept in between | shared trunk: in each eighth, labels made anew in all; in each, on an eighth of the batch |
| corrected, reweighted | a generator with a trunk of its own, on data with wrong labels (dev/noise.py) | on the network's features |
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import noise
from evidence import HERE, of_set, read, text, work
from evidence import one as trained
from maxl.experiments.studies.intervals import PairedDifference, paired_differences

SEEDS = range(20, 30)
TOLERATED = 0.005
PRECISION = {"cifar100-2500": "bf16"}  # float32 elsewhere
_CHEAP = ("digits", "digits-sgd", "digits-noisy", "mnist", "clinc150", "clinc150-noisy")
_NOISY = ("digits-structured", "digits-symmetric")


def one(name: str, method: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of a way of dev/variants.py; its table says of which setting."""
    folder = name.split("-")[0]
    place = None if data_dir is None or folder == "digits" else str(Path(data_dir) / folder)
    row = trained(name, method, {"precision": PRECISION.get(name, "float32")}, seed, place)
    columns = ("method", "seed", "test_accuracy", "validation_accuracy", "train_accuracy", "seconds_total")
    return {"settings": text(changes), **{c: row[c] for c in columns}}


def corrections(
    method: str, name: str, way: str, changes: dict[str, Any], seed: int, data_dir: str | None
) -> dict[str, Any]:
    """A run of a method for wrong labels at its chosen rate; ``way`` is its generator's trunk."""
    row = noise.one(name, method, {**noise.best(name, method), "generator_trunk": way}, seed, data_dir)
    return {**row, "method": way, "settings": text(changes)}


@dataclass(frozen=True)
class Question:
    """The ways, the present one first; where they are tried; and what trains a run, called as ``one``."""

    ways: tuple[str, ...]
    settings: tuple[str, ...]
    one: Callable[[str, str, dict[str, Any], int, str | None], dict[str, Any]]


QUESTIONS = {
    "shared-trunk": Question(("maxl", "shared"), (*_CHEAP, "cifar100-2500"), one),
    "everyday": Question(("everyday", "shared-every", "shared-part"), _CHEAP, one),
    **{m: Question(("own", "shared"), _NOISY, partial(corrections, m)) for m in noise.LEARNED},
}


def run(name: str, options: argparse.Namespace) -> None:
    """What the table lacks."""
    for setting in options.only or QUESTIONS[name].settings:
        tasks = [(setting, way, {"data": setting}, seed) for seed in SEEDS for way in QUESTIONS[name].ways]
        work(tasks, HERE / f"{name}.csv", options.data_dir, options.jobs, QUESTIONS[name].one)


def tell(name: str) -> None:
    """Paired differences by setting, of their mean, and what follows."""
    rows, asked = read(HERE / f"{name}.csv"), QUESTIONS[name]
    found = {s: of_set(rows, s, asked.ways) for s in asked.settings}
    if missing := [s for s, of in found.items() if any(len(v) < len(SEEDS) for v in of.values())]:
        raise SystemExit(f"a decision needs every setting; {', '.join(missing)} are not finished")
    present, *others = asked.ways
    means = {w: {i: sum(of[w][i] for of in found.values()) / len(found) for i in SEEDS} for w in asked.ways}
    each = paired_differences([(found[s][w], found[s][present]) for w in others for s in found])
    mean = dict(zip(others, paired_differences([(means[w], means[present]) for w in others]), strict=True))
    good = []
    for i, way in enumerate(others):
        mine = each[i * len(found) : (i + 1) * len(found)]
        for setting, difference in [*zip(found, mine, strict=True), ("mean", mean[way])]:
            print(f"| {way} − {present} | {setting} | {_text(difference)} |")
        if not any(d.high < 0 for d in mine) and mean[way].low > -TOLERATED:
            good.append(way)
    best = max(good, key=lambda way: mean[way].mean, default=present)
    print(f"no worse: {', '.join(good) or 'none'}; the default: {best}")


def _text(d: PairedDifference) -> str:
    return f"{100 * d.mean:+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "tell"))
    parser.add_argument("question", choices=tuple(QUESTIONS))
    parser.add_argument("--data-dir", help="see above")
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="some settings")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(QUESTIONS[options.question].settings):
        parser.error(f"{options.question} has no setting {', '.join(sorted(unknown))}")
    if options.what == "run":
        run(options.question, options)
    else:
        tell(options.question)


if __name__ == "__main__":
    main()
