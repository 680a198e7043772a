"""Do learned weights and corrections help against wrong labels, beside cheap methods with the same trusted samples?

    python dev/noise.py choose SETTING [--data-dir DIR]    # learning rates, by trusted samples, on seeds from 1000
    python dev/noise.py run SETTING [--data-dir DIR]       # every arm on the seeds that the table lacks
    python dev/noise.py write                              # the tables, and what the plan's rule says

Settings: digits-structured, digits-symmetric, mnist-structured (``DIR`` holds MNIST). The plan, dev/plans/noise.md, is older
than the runs. Results are kept in dev/evidence/noise-SETTING.csv and noise-SETTING-choice.csv, a row a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence import HERE, read, row, told, work
from maxl.experiments.data import DataSet, Split
from maxl.experiments.runs.agreement import agreeing
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
from planned import as_chosen, at_each_rate, command, outcomes, p_of_gains, print_holm

SETTINGS: dict[str, dict[str, Any]] = {
    "digits-structured": {"data": "digits"},
    "digits-symmetric": {"data": "digits"},
    "mnist-structured": {"data": "mnist", "image_size": 14, "train_size": 3000},
}
SEEDS = {"digits-structured": range(20), "digits-symmetric": range(20), "mnist-structured": range(10)}
CHOOSING_SEEDS, RATES = (1000, 1001, 1002), (3e-4, 1e-3, 3e-3)
CHEAP, LEARNED = ("small-loss", "gce", "trusted-only", "fine-tuned"), ("corrected", "reweighted")
# Added when the planned arms were done, and no part of the plan's decision: another cheap one, and the learned ones on what it
# keeps.
LATER = ("agreement", "agreement+corrected", "agreement+reweighted")
ARMS = ("single", *CHEAP, *LATER, *LEARNED)
TRUSTED, VALIDATION, TEST = 100, 50, 500
SHARED: dict[str, Any] = {
    "trunk": "mlp",
    "generator_trunk": "own",
    "epochs": 40,
    "batch_size": 100,
    "device": "cpu",
    "tensorboard": False,
    "look_every": 1000,
    "checkpoint_every": 1000,
    "augment": "none",
}


def spoiled(setting: str, data: DataSet, seed: int, validate: bool, known_right: int = TRUSTED) -> DataSet:
    """A data set with wrong labels but for ``known_right`` samples; with ``validate`` 50 of these are set aside."""
    x, y = data.train.x.flatten(1).double(), data.train.primary
    drawn = np.random.default_rng(seed)
    order = torch.from_numpy(drawn.permutation(len(x)))
    rest = order
    test = data.test
    if setting.startswith("digits"):  # all in one piece, and cut anew for each seed
        every = Split(torch.cat([data.train.x, data.test.x]), torch.cat([y, data.test.primary]))
        order = torch.from_numpy(drawn.permutation(len(every)))
        test, rest = every.select(order[:TEST]), order[TEST:]
        x, y = every.x.flatten(1).double(), every.primary
        pool = every
    else:
        pool = data.train
    trusted = rest[:known_right]
    wrong = _wrong(setting, x, drawn)
    wrong[trusted] = False
    shift = torch.from_numpy(drawn.integers(1, 10, len(y))) if setting.endswith("symmetric") else 1
    given = torch.where(wrong, (y + shift) % 10, y)
    known = torch.zeros(len(y), dtype=torch.bool)
    known[trusted] = True
    whole = dataclasses.replace(pool, primary=given, trusted=known, rows=None, human=None)
    kept = trusted[:VALIDATION] if validate else trusted[:0]
    train = whole.select(rest[~torch.isin(rest, kept)])
    return dataclasses.replace(
        data,
        train=train,
        validation=whole.select(kept) if validate else None,
        test=dataclasses.replace(
            test, trusted=torch.ones(len(test), dtype=torch.bool), rows=None, human=None
        ),
        human_names=None,
    )


def _wrong(setting: str, x: Tensor, drawn: np.random.Generator) -> Tensor:
    """Whose label is wrong, shape (N,)."""
    if setting.endswith("symmetric"):
        return torch.from_numpy(drawn.random(len(x)) < 0.5)
    projection = x @ torch.from_numpy(np.random.default_rng(1).normal(size=x.shape[1]))
    return projection > projection.median()


def one(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm with ``changes`` to its settings."""
    return trained(name, arm, changes, seed, data_dir, validate=seed in CHOOSING_SEEDS)


def trained(
    name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None, *, validate: bool
) -> dict[str, Any]:
    """The same; with ``validate`` on what 50 of the trusted samples leave, which then judge."""
    values = {
        **SHARED,
        **SETTINGS[name.replace("mnist-symmetric", "mnist-structured")],  # the same data, spoiled otherwise
        "method": arm.removeprefix("agreement+"),
        "trusted": "trusted",
        "data_dir": data_dir,
        **changes,
    }
    config = RunConfig.from_dict({**values, "seed": seed}, "dev/noise.py")
    source = dataclasses.replace(config, trusted=None, method="single")  # the data have no such column
    with tempfile.TemporaryDirectory() as folder:
        data = spoiled(name, load_data(source), seed, validate)
        if arm.startswith("agreement+"):
            filtering = dataclasses.replace(config, method="agreement")
            kept = agreeing(filtering, data, torch.device("cpu"))
            longer = (len(data.train) // config.batch_size) / (len(kept) // config.batch_size)
            config = dataclasses.replace(
                config, epochs=round(config.epochs * longer)
            )  # as many steps as others take
            data = dataclasses.replace(data, train=data.train.select(kept))
        trainer = Trainer(config, RunFolder(Path(folder) / "run"), data)
        summary = trainer.fit()
    return row(summary, arm, changes, seed)


def table_of(setting: str) -> Path:
    return HERE / f"noise-{setting}.csv"


def choice_of(setting: str) -> Path:
    return HERE / f"noise-{setting}-choice.csv"


def choose(options: argparse.Namespace) -> None:
    """The learning rate of each arm."""
    tasks = at_each_rate(options.setting, ARMS, RATES, CHOOSING_SEEDS)
    work(tasks, choice_of(options.setting), options.data_dir, options.jobs, one)
    print({arm: best(options.setting, arm) for arm in ARMS})


def best(setting: str, arm: str) -> dict[str, float]:
    """The rate of an arm by what was chosen for a setting."""
    return best_of(choice_of(setting), arm)


def best_of(file: Path, arm: str) -> dict[str, float]:
    """The rate with the highest mean accuracy on the samples that were set aside, the smaller of equals."""
    rows = read(file)
    rows = rows[rows.method == arm].astype({"validation_accuracy": float})
    means = {
        float(settings.partition("=")[2]): float(group.validation_accuracy.mean())
        for settings, group in rows.groupby("settings")
    }
    return {"learning_rate": max(sorted(means), key=lambda rate: means[rate])}


def run(options: argparse.Namespace) -> None:
    """Every arm at its rate."""
    chosen = {arm: best(options.setting, arm) for arm in ARMS}
    tasks = as_chosen(options.setting, chosen, SEEDS[options.setting])
    work(tasks, table_of(options.setting), options.data_dir, options.jobs, one)


def page() -> str:
    """The table of docs/evidence.md: test accuracy of each arm, and what the plan compares."""
    columns = [outcomes(table_of(setting), "test_accuracy") for setting in SETTINGS]
    heads = [
        f"{setting} ({len(values['single'])} seeds)"
        for setting, values in zip(SETTINGS, columns, strict=True)
    ]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for arm in ARMS:
        means = [mean_interval(values[arm].values()) for values in columns]
        cells = [f"{mean.mean:.1f} ± {(mean.high - mean.low) / 2:.1f}" for mean in means]
        lines.append(f"| {arm}{' (after the plan)' if arm in LATER else ''} | {' | '.join(cells)} |")
    best_cheap = [max(CHEAP, key=lambda arm: sum(values[arm].values())) for values in columns]
    versus = [
        paired_differences([(values[arm], values[cheap]) for arm in LEARNED])
        for values, cheap in zip(columns, best_cheap, strict=True)
    ]
    for i, arm in enumerate(LEARNED):
        cells = [f"{cheap}: {told(found[i])}" for cheap, found in zip(best_cheap, versus, strict=True)]
        lines.append(f"| {arm} against the best planned cheap arm, points | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(options: argparse.Namespace) -> None:
    """Prints the table and the rule's decision; "finds" is the smallest difference found with 80 % power."""
    least: dict[str, float] = {}
    for setting in SETTINGS:
        if not table_of(setting).exists():
            continue
        values = outcomes(table_of(setting), "test_accuracy")
        cheap = max(CHEAP, key=lambda arm: sum(values[arm].values()))
        gate = paired_difference(values["fine-tuned"], values["single"])
        versus = paired_differences([(values[arm], values[cheap]) for arm in LEARNED])
        print(f"\n{setting}: n = {gate.n}, fine-tuned against single {told(gate)}")
        for arm in ARMS:
            if arm in values:
                print(f"| {arm} | {interval_text(mean_interval(values[arm].values()), 2)} |")
        for arm, d in zip(LEARNED, versus, strict=True):
            print(f"{arm} against {cheap}: {told(d)}, p = {d.p:.4f}")
        others = (cheap, *LEARNED, *LATER[:1])
        later = [(arm, other) for arm in LATER if arm in values for other in others if other != arm]
        for (arm, other), d in zip(
            later, paired_differences([(values[a], values[b]) for a, b in later]), strict=True
        ):
            print(f"{arm} against {other}, beside the plan: {told(d)}")
        if cheap != "fine-tuned":
            d = paired_difference(values[cheap], values["single"])
            print(f"{cheap} against single, beside the plan: {told(d)}")
        if gate.low > 0:
            least[setting] = p_of_gains(dict(zip(LEARNED, versus, strict=True)))
    print_holm(least)


def main() -> None:
    actions = {"choose": choose, "run": run, "write": write}
    command(__doc__, SETTINGS, "MNIST's files", actions)


if __name__ == "__main__":
    main()
