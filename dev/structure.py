"""Do labels that are taught by unseen samples keep more structure than the clusters that they start from?

    python dev/structure.py choose SETTING --data-dir DIR    # the learning rate, by single's validation accuracy
    python dev/structure.py run SETTING --data-dir DIR       # every arm on the seeds that the table lacks
    python dev/structure.py write                            # the tables, and what the plan's rule says

Settings: clinc150, cifar100; ``DIR`` holds a folder of that name. The plan, dev/plans/structure.md, is older than the runs.
Results are kept in dev/evidence/structure-SETTING.csv and structure-SETTING-choice.csv, a row a run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from evidence import HERE, Task, read, text, work
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
from planned import command, outcomes, print_holm

SETTINGS: dict[str, dict[str, Any]] = {
    "clinc150": {
        "data": "clinc150",
        "train_size": 3000,
        "trunk": "mlp",
        "probe": "intent",
        "psi": [15],
        "batch_size": 50,
        "cluster_features": "input",
    },
    "cifar100": {
        "data": "cifar100",
        "image_size": 16,
        "train_size": 5000,
        "trunk": "convnet4",
        "probe": "fine_label",
        "psi": [5],
        "batch_size": 100,
    },
}
SHARED: dict[str, Any] = {
    "optimizer": "adam",
    "decay": "cosine",
    "gamma": 0.0,
    "auxiliary_weight": 1.0,
    "epochs": 10,
    "held_out": 0.25,
    "device": "cpu",
    "tensorboard": False,
    "look_every": 1000,
    "checkpoint_every": 1000,
}
SEEDS = {"clinc150": range(500, 520), "cifar100": range(500, 508)}
CHOOSING_SEEDS, RATES, VALIDATION = (1000, 1001, 1002), (3e-4, 1e-3, 3e-3), 500
CONTRASTIVE: dict[str, Any] = {"outer_term": "contrastive", "outer_weight": 10.0}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    **{m: (m, {}) for m in ("single", "uniform", "kmeans", "kmeans-shuffled", "human", "human-shuffled")},
    **{m: (m, {"entropy_weight": 0.2}) for m in ("prototypes", "prototypes-shuffled", "maxl")},
    "prototypes-contrastive": (
        "prototypes",
        {"entropy_weight": 0.0, "meta_optimizer": "sgd", "meta_learning_rate": 0.01, **CONTRASTIVE},
    ),
    "contrastive": ("contrastive", {"outer_weight": CONTRASTIVE["outer_weight"]}),
}
CHEAP, LEARNED = ("single", "uniform", "kmeans", "contrastive"), ("prototypes", "prototypes-contrastive")
PAIRS = (("prototypes", "prototypes-shuffled"), ("kmeans", "kmeans-shuffled"), ("human", "human-shuffled"))
OUTCOMES = ("test_probe", "test_accuracy")
FUTILE = 0.5


def config(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> RunConfig:
    """The settings of an arm with ``changes``."""
    method, settings = ARMS[arm]
    values = {**SHARED, **SETTINGS[name], "method": method, **settings, **changes, "seed": seed}
    if method.startswith("human"):
        values["human"] = values["probe"]
        del values["psi"]  # as many as there are
    values["data_dir"] = None if data_dir is None else str(Path(data_dir, name))
    return RunConfig.from_dict(values, "dev/structure.py")


def one(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm."""
    settings = config(name, arm, changes, seed, data_dir)
    with tempfile.TemporaryDirectory() as folder:
        summary = Trainer(settings, RunFolder(Path(folder) / "run"), load_data(settings)).fit()
    columns = (*OUTCOMES, "validation_accuracy", "label_nmi", "test_worst_group", "seconds_total")
    return {"method": arm, "settings": text(changes), "seed": seed, **{c: summary.get(c) for c in columns}}


def table_of(setting: str) -> Path:
    return HERE / f"structure-{setting}.csv"


def choice_of(setting: str) -> Path:
    return HERE / f"structure-{setting}-choice.csv"


def choose(options: argparse.Namespace) -> None:
    """The network's learning rate, which all arms share."""
    tasks: list[Task] = [
        (options.setting, "single", {"learning_rate": rate, "validation_size": VALIDATION}, seed)
        for seed in CHOOSING_SEEDS
        for rate in RATES
    ]
    work(tasks, choice_of(options.setting), options.data_dir, options.jobs, one)
    print(chosen(options.setting))


def chosen(setting: str) -> float:
    """The rate with the highest mean validation accuracy, the smaller of equals."""
    rows = read(choice_of(setting)).astype({"validation_accuracy": float})
    means = rows.groupby("settings").validation_accuracy.mean()
    return max(RATES, key=lambda rate: (means[text({"learning_rate": rate})], -rate))


def run(options: argparse.Namespace) -> None:
    """Every arm; the second half of the seeds only where the futility look lets it go on."""
    seeds = list(SEEDS[options.setting])
    rate = {"learning_rate": chosen(options.setting)}
    for part in (seeds[: len(seeds) // 2], seeds):
        tasks: list[Task] = [(options.setting, arm, rate, seed) for seed in part for arm in ARMS]
        work(tasks, table_of(options.setting), options.data_dir, options.jobs, one)
        values = outcomes(table_of(options.setting), OUTCOMES[0])
        look = paired_difference(values["prototypes"], values["kmeans"])
        if look.high < FUTILE:
            print(f"{look.n} seeds, prototypes against kmeans {look.low:+.2f} to {look.high:+.2f}: ends here")
            return


def write(options: argparse.Namespace) -> None:
    """Prints the tables and the rule's decision."""
    least: dict[str, float] = {}
    for setting in SETTINGS:
        if not table_of(setting).exists():
            continue
        for outcome in OUTCOMES:
            values = outcomes(table_of(setting), outcome)
            print(f"\n{setting}, {outcome}, n = {len(values['single'])}")
            for arm in ARMS:
                print(f"| {arm} | {interval_text(mean_interval(values[arm].values()), 2)} |")
            cheap = max(CHEAP, key=lambda arm: sum(values[arm].values()))
            gate = paired_difference(values["human"], values["uniform"])
            print(f"human against uniform {gate.mean:+.2f} ({gate.low:+.2f} to {gate.high:+.2f})")
            for (arm, control), d in zip(
                PAIRS, paired_differences([(values[a], values[b]) for a, b in PAIRS]), strict=True
            ):
                print(f"{arm} against {control} {d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})")
            versus = paired_differences([(values[arm], values[cheap]) for arm in LEARNED])
            for arm, d in zip(LEARNED, versus, strict=True):
                print(f"{arm} against {cheap} {d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f}), p = {d.p:.4f}")
            if outcome == OUTCOMES[0] and gate.low > 0:
                least[setting] = min(1.0, 2 * min(d.p for d in versus))
    print_holm(least)


def main() -> None:
    actions = {"choose": choose, "run": run, "write": write}
    command(__doc__, SETTINGS, "where clinc150/ and cifar100/ lie", actions)


if __name__ == "__main__":
    main()
