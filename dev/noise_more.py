"""Wrong labels: is early stopping by the trusted samples enough, and what helps where no sample is known to be right?

    python dev/noise_more.py choose SETTING [--data-dir DIR]    # learning rates, on seeds from 1000
    python dev/noise_more.py run SETTING [--data-dir DIR]       # every arm on the seeds that the table lacks
    python dev/noise_more.py write                              # the tables, and what the plan's rules say

Settings: the three of ``noise.py``, with one arm more, and digits-structured-untrusted and digits-symmetric-untrusted (``DIR``
holds MNIST). The plan, dev/plans/noise-more.md, is older than the runs. Results are kept in dev/evidence/noise-more-SETTING.csv
and noise-more-SETTING-choice.csv, a row a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import noise
from evidence import HERE, row, told, work
from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.studies.intervals import (
    PairedDifference,
    interval_text,
    mean_interval,
    paired_differences,
)
from planned import as_chosen, at_each_rate, command, outcomes, p_of_gains, print_holm

STOPPED, UNTRUSTED = "early-stopped", "-untrusted"
SETTINGS = (*noise.SETTINGS, f"digits-structured{UNTRUSTED}", f"digits-symmetric{UNTRUSTED}")
SEEDS = {name: range(20, 40) if name.endswith(UNTRUSTED) else noise.SEEDS[name] for name in SETTINGS}
CHOOSING = {name: (1003, 1004, 1005) if name.endswith(UNTRUSTED) else (1000, 1001, 1002) for name in SETTINGS}
CHOOSING_SEEDS = tuple(dict.fromkeys(seed for seeds in CHOOSING.values() for seed in seeds))
TELLING = (STOPPED, "small-loss", "gce", "agreement")  # that may tell right labels from wrong ones
CHEAP = ("single", *TELLING)
Outcomes = Mapping[str, Mapping[int, float]]


def arms_of(setting: str) -> tuple[str, ...]:
    """What is trained there."""
    return (*CHEAP, *noise.LEARNED) if setting.endswith(UNTRUSTED) else (STOPPED,)


def config(setting: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> RunConfig:
    """The settings of an arm with ``changes``."""
    base = setting.removesuffix(UNTRUSTED)
    values = {**noise.SHARED, **noise.SETTINGS[base], "data_dir": data_dir, **changes, "seed": seed}
    if arm == STOPPED:  # the data have a validation part already; the config has to know
        values |= {"method": "single", "keep": "best", "validation_size": 2}
    else:
        values |= {"method": arm}
    if arm in noise.LEARNED:
        values |= {"evaluate": "held-out"}
    return RunConfig.from_dict(values, "dev/noise_more.py")


def data_of(setting: str, arm: str, whole: DataSet, seed: int) -> DataSet:
    """The data of an arm: wrong labels, and what judges set aside."""
    choosing = seed in CHOOSING_SEEDS
    if setting.endswith(UNTRUSTED):
        data = noise.spoiled(setting.removesuffix(UNTRUSTED), whole, seed, False, known_right=0)
        if choosing or arm == STOPPED:
            order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
            tenth = len(order) // 10
            data = dataclasses.replace(
                data, train=data.train.select(order[tenth:]), validation=data.train.select(order[:tenth])
            )
    else:
        data = noise.spoiled(setting, whole, seed, choosing)
        known = data.train.trusted
        assert known is not None
        judges = data.validation
        if judges is None:
            judges = data.train.select(known.nonzero().flatten())
        rest = data.train.select((~known).nonzero().flatten())
        data = dataclasses.replace(data, train=rest, validation=judges)
    parts = {
        name: None if part is None else dataclasses.replace(part, trusted=None)
        for name in ("train", "validation", "test")
        for part in (getattr(data, name),)
    }
    return dataclasses.replace(data, **parts)


def one(setting: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm with ``changes`` to its settings."""
    settings = config(setting, arm, changes, seed, data_dir)
    plain = dataclasses.replace(
        settings, method="single", keep="last", validation_size=0.0, evaluate="same"
    )  # the whole data set
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(setting, arm, load_data(plain), seed)
        summary = Trainer(settings, RunFolder(Path(folder) / "run"), data).fit()
    return row(summary, arm, changes, seed)


def table_of(setting: str) -> Path:
    return HERE / f"noise-more-{setting}.csv"


def choice_of(setting: str) -> Path:
    return HERE / f"noise-more-{setting}-choice.csv"


def choose(options: argparse.Namespace) -> None:
    """The learning rate of each arm."""
    setting = options.setting
    tasks = at_each_rate(setting, arms_of(setting), noise.RATES, CHOOSING[setting])
    work(tasks, choice_of(setting), options.data_dir, options.jobs, one)
    print({arm: noise.best_of(choice_of(setting), arm) for arm in arms_of(setting)})


def run(options: argparse.Namespace) -> None:
    """Every arm at its rate."""
    setting = options.setting
    rates = {arm: noise.best_of(choice_of(setting), arm) for arm in arms_of(setting)}
    tasks = as_chosen(setting, rates, SEEDS[setting])
    work(tasks, table_of(setting), options.data_dir, options.jobs, one)


def write(options: argparse.Namespace) -> None:
    """Prints the tables and the rules' decisions."""
    for untrusted in (False, True):
        least: dict[str, float] = {}
        for setting in SETTINGS:
            if setting.endswith(UNTRUSTED) == untrusted and table_of(setting).exists():
                found = outcomes(table_of(setting), "test_accuracy")
                if any(set(found.get(arm, ())) != set(SEEDS[setting]) for arm in arms_of(setting)):
                    print(f"\n{setting}: not finished, and the plan has no look before the last run")
                    continue
                if not untrusted:
                    found = {**outcomes(noise.table_of(setting), "test_accuracy"), **found}
                p = decided(setting, found)
                if p is not None:
                    least[setting] = p
        print_holm(least)


def decided(setting: str, found: Outcomes) -> float | None:
    """Prints a setting; the smaller p of the two learned arms, for both, or None where its gate is shut."""
    untrusted = setting.endswith(UNTRUSTED)
    cheap = CHEAP if untrusted else (*noise.CHEAP, STOPPED)
    print(f"\n{setting}: n = {len(found[STOPPED])}")
    for arm in dict.fromkeys(("single", *cheap, *noise.LEARNED)):
        print(f"| {arm} | {interval_text(mean_interval(found[arm].values()), 2)} |")
    best = max(cheap, key=lambda arm: sum(found[arm].values()))
    gate = compared(found, [(arm, "single") for arm in TELLING]) if untrusted else []
    if not untrusted:
        compared(found, [(STOPPED, "fine-tuned"), (STOPPED, "single")])
    learned = compared(found, [(arm, best) for arm in noise.LEARNED])
    compared(found, [(arm, "single") for arm in noise.LEARNED])
    if untrusted and not any(d.low > 0 for d in gate):
        print("the gate is shut: nothing cheap beats single")
        return None
    return p_of_gains(dict(zip(noise.LEARNED, learned, strict=True)))


def compared(found: Outcomes, pairs: list[tuple[str, str]]) -> list[PairedDifference]:
    """Prints differences whose intervals hold at once."""
    differences = paired_differences([(found[a], found[b]) for a, b in pairs])
    for (a, b), d in zip(pairs, differences, strict=True):
        print(f"{a} against {b}: {told(d)}, p = {d.p:.4f}")
    return differences


def main() -> None:
    command(__doc__, SETTINGS, "MNIST's files", {"choose": choose, "run": run, "write": write})


if __name__ == "__main__":
    main()
