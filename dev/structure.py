"""Do labels that are taught by unseen samples keep more structure than the clusters that they start from?

    python dev/structure.py choose SETTING --data-dir DIR    # the learning rate, by single's validation accuracy
    python dev/structure.py run SETTING --data-dir DIR       # every arm on the seeds that the table lacks
    python dev/structure.py inputs SETTING --data-dir DIR    # the probe of the raw inputs, on the seeds of that table
    python dev/structure.py write                            # the tables, and what the plan's rule says

Settings: clinc150, cifar100; ``DIR`` holds a folder of that name. The plan, dev/plans/structure.md, is older than the runs.
Results are kept in dev/evidence/structure-SETTING.csv and structure-SETTING-choice.csv, a row a run; those of inputs, which need no
training, in structure-SETTING-inputs.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence import HERE, Task, read, text, told, work
from maxl.experiments.data import Split
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.structure import few_shot_accuracy
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.studies.intervals import (
    interval_text,
    mean_interval,
    paired_difference,
    paired_differences,
)
from planned import command, outcomes, p_of_gains, print_holm

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
# Added when the planned arms were done, and no part of the plan's decision: the transplant test of the second variant, where
# that is not below single-task training already.
LATER = {"prototypes-contrastive-shuffled": ("prototypes-shuffled", ARMS["prototypes-contrastive"][1])}
LATER_IN = "clinc150"
TRANSPLANT = ("prototypes-contrastive", "prototypes-contrastive-shuffled")
CHEAP, LEARNED = ("single", "uniform", "kmeans", "contrastive"), ("prototypes", "prototypes-contrastive")
PAIRS = (("prototypes", "prototypes-shuffled"), ("kmeans", "kmeans-shuffled"), ("human", "human-shuffled"))
OUTCOMES = ("test_probe", "test_accuracy")
TITLES = {
    ("clinc150", "test_probe"): "intents, probe",
    ("clinc150", "test_accuracy"): "domains",
    ("cifar100", "test_probe"): "100 classes, probe",
    ("cifar100", "test_accuracy"): "20 classes",
}
INPUTS = "inputs"  # no arm: beside the plan, and beside its rule
# Beside the plan, each interval by itself.
BESIDE = (
    *(("uniform", "single"), ("kmeans", "single"), ("kmeans", "uniform")),
    *(("human", "single"), ("maxl", "uniform"), ("prototypes", "kmeans"), ("prototypes", "single")),
)
FUTILE = 0.5


def config(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> RunConfig:
    """The settings of an arm with ``changes``."""
    method, settings = (ARMS | LATER)[arm]
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
    columns = (
        *OUTCOMES,
        "test_probe_inputs",
        "validation_accuracy",
        "label_nmi",
        "test_worst_group",
        "seconds_total",
    )
    return {"method": arm, "settings": text(changes), "seed": seed, **{c: summary.get(c) for c in columns}}


def probed(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """The probe of the raw inputs: what a run calls ``test_probe_inputs``, without the run."""
    settings = config(name, "single", changes, seed, data_dir)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings, RunFolder(Path(folder) / "run"), load_data(settings))

        def inputs(split: Split) -> tuple[Tensor, Tensor]:
            assert split.probe is not None  # every setting names its column
            return torch.cat([b.x.flatten(1) for b in trainer.in_order(split)]), split.probe

        (found,) = few_shot_accuracy(
            *inputs(trainer.data.train), [inputs(trainer.data.test)], shots=settings.probe_shots, seed=seed
        )
    # The columns that ``work`` prints.
    empty = {"test_accuracy": None, "validation_accuracy": None}
    return {"method": arm, "settings": text(changes), "seed": seed, OUTCOMES[0]: found, **empty}


def table_of(setting: str) -> Path:
    return HERE / f"structure-{setting}.csv"


def choice_of(setting: str) -> Path:
    return HERE / f"structure-{setting}-choice.csv"


def inputs_of(setting: str) -> Path:
    return HERE / f"structure-{setting}-inputs.csv"


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
        arms = (*ARMS, *(LATER if options.setting == LATER_IN else ()))
        tasks: list[Task] = [(options.setting, arm, rate, seed) for seed in part for arm in arms]
        work(tasks, table_of(options.setting), options.data_dir, options.jobs, one)
        values = outcomes(table_of(options.setting), OUTCOMES[0])
        look = paired_difference(values["prototypes"], values["kmeans"])
        if look.high < FUTILE:
            print(f"{look.n} seeds, prototypes against kmeans {look.low:+.2f} to {look.high:+.2f}: ends here")
            return


def inputs(options: argparse.Namespace) -> None:
    """What the inputs themselves know, on the seeds that the arms were trained on."""
    seeds = sorted({int(seed) for seed in read(table_of(options.setting)).seed})
    tasks: list[Task] = [(options.setting, INPUTS, {}, seed) for seed in seeds]
    work(tasks, inputs_of(options.setting), options.data_dir, options.jobs, probed)


def page() -> str:
    """The tables of docs/evidence.md: each arm's results, and the differences that the plan names."""
    columns = [(setting, outcome) for setting in SETTINGS for outcome in OUTCOMES]
    every = [outcomes(table_of(setting), outcome) for setting, outcome in columns]
    heads = [f"{setting}: {TITLES[setting, outcome]}" for setting, outcome in columns]
    later = [arm for arm in LATER if any(arm in values for values in every)]
    lines = [f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for arm in (*ARMS, *later):
        cells = [interval_text(mean_interval(v[arm].values()), 2) if arm in v else "" for v in every]
        lines.append(f"| {arm}{' (after the plan)' if arm in LATER else ''} | {' | '.join(cells)} |")
    beside = [
        interval_text(mean_interval(outcomes(inputs_of(setting), outcome)[INPUTS].values()), 2)
        if outcome == OUTCOMES[0]
        else ""
        for setting, outcome in columns
    ]
    lines += [f"| raw inputs, nothing trained (after the plan) | {' | '.join(beside)} |", ""]
    lines += [f"| difference | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows: dict[str, list[str]] = {}
    for values in every:
        gate = paired_difference(values["human"], values["uniform"])
        rows.setdefault("human − uniform (gate of the setting)", []).append(told(gate))
        pairs = paired_differences([(values[a], values[b]) for a, b in PAIRS])
        for (arm, control), d in zip(PAIRS, pairs, strict=True):
            rows.setdefault(f"{arm} − {control}", []).append(told(d))
        cheap = max(CHEAP, key=lambda arm: sum(values[arm].values()))
        versus = paired_differences([(values[arm], values[cheap]) for arm in LEARNED])
        for arm, d in zip(LEARNED, versus, strict=True):
            rows.setdefault(f"{arm} − the best cheap arm", []).append(f"{cheap}: {told(d)}")
        for arm, control in (*BESIDE, *([TRANSPLANT] if later else [])):
            cell = told(paired_difference(values[arm], values[control])) if control in values else ""
            rows.setdefault(f"{arm} − {control} (by itself)", []).append(cell)
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def write(options: argparse.Namespace) -> None:
    """Prints the tables and the rule's decision; "finds" is the smallest difference found with 80 % power."""
    least: dict[str, float] = {}
    for setting in SETTINGS:
        if not table_of(setting).exists():
            continue
        for outcome in OUTCOMES:
            values = outcomes(table_of(setting), outcome)
            print(f"\n{setting}, {outcome}, n = {len(values['single'])}")
            for arm in (*ARMS, *(later for later in LATER if later in values)):
                print(f"| {arm} | {interval_text(mean_interval(values[arm].values()), 2)} |")
            cheap = max(CHEAP, key=lambda arm: sum(values[arm].values()))
            gate = paired_difference(values["human"], values["uniform"])
            print(f"human against uniform {told(gate)}")
            for (arm, control), d in zip(
                PAIRS, paired_differences([(values[a], values[b]) for a, b in PAIRS]), strict=True
            ):
                print(f"{arm} against {control} {told(d)}")
            versus = paired_differences([(values[arm], values[cheap]) for arm in LEARNED])
            for arm, d in zip(LEARNED, versus, strict=True):
                print(f"{arm} against {cheap} {told(d)}, p = {d.p:.4f}")
            for arm, control in (*BESIDE, *([TRANSPLANT] if TRANSPLANT[1] in values else [])):
                d = paired_difference(values[arm], values[control])
                print(f"{arm} against {control}, beside the plan: {told(d)}")
            if outcome == OUTCOMES[0] and inputs_of(setting).exists():
                beside = outcomes(inputs_of(setting), outcome)[INPUTS]
                print(f"| {INPUTS} | {interval_text(mean_interval(beside.values()), 2)} |")
                found = paired_differences([(values[arm], beside) for arm in ARMS])
                for arm, d in zip(ARMS, found, strict=True):
                    print(f"{arm} against {INPUTS}, beside the plan: {told(d)}")
            if outcome == OUTCOMES[0] and gate.low > 0:
                taught = paired_difference(values["prototypes"], values["prototypes-shuffled"])
                dropped = (
                    [] if taught.low > 0 else ["prototypes"]
                )  # of the arms the plan's gate names this one
                print(f"dropped by the gate of a variant: {', '.join(dropped) or 'none'}")
                least[setting] = p_of_gains(dict(zip(LEARNED, versus, strict=True)), dropped)
    print_holm(least)


def main() -> None:
    actions = {"choose": choose, "run": run, "inputs": inputs, "write": write}
    command(__doc__, SETTINGS, "where clinc150/ and cifar100/ lie", actions)


if __name__ == "__main__":
    main()
