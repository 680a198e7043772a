"""Why do auxiliary labels gain in the paper's regime: step size, a second head, or information in the labels?

    python dev/regime.py choose --data-dir DIR    # by validation accuracy on seeds 100 and 101: step size, tuned settings
    python dev/regime.py run --data-dir DIR       # every arm on the seeds that the table lacks

``DIR`` holds CIFAR-100's binary files. The plan, dev/plans/regime.md, is older than the runs. Results are kept in
dev/evidence/regime.csv and regime-choice.csv, a row a run; what is there is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evidence import HERE, Task, read, text, work
from maxl.experiments.data import evaluation_batches
from maxl.experiments.runs.build import Setup
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import evaluating
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.runs.trunks import ConvTrunk

FILE, CHOICE = HERE / "regime.csv", HERE / "regime-choice.csv"
SEEDS, CHOOSING_SEEDS = range(4), (100, 101)
VALIDATION = 2000
_SHARED: dict[str, Any] = {
    "data": "cifar100",
    "image_size": 16,
    "train_size": 10000,
    "trunk": "regime:quarter_vgg16",
    "generator_trunk": "own",
    "epochs": 60,
    "batch_size": 100,
    "optimizer": "sgd",
    "auxiliary_weight": 1.0,
    "meta_optimizer": "sgd",
    "meta_learning_rate": 1e-3,
    "device": "cpu",
    "tensorboard": False,
    "look_every": 1000,
    "checkpoint_every": 1000,
    "channels_last": True,  # a fifth faster; the same up to rounding
}
PAPER: dict[str, Any] = {**_SHARED, "learning_rate": 0.01, "decay": "step", "gamma": 2.0}
TUNED: dict[str, Any] = {**_SHARED, "momentum": 0.9, "weight_decay": 5e-4, "decay": "cosine"}


@dataclass
class TrunkRate(Setup):
    """The trunk steps ``factor`` times as far as the heads."""

    factor: float = 1.0

    def set_learning_rates(self, epoch: int) -> float:
        rate = super().set_learning_rates(epoch)
        self.optimizers[0].param_groups[0]["lr"] = rate * self.factor
        return rate


def trunk_rate(factor: float, trainer: Trainer) -> None:
    """Parameter groups of trunk and heads in place of one of both."""
    setup = trainer.setup
    optimizer = setup.optimizers[0]
    [group] = optimizer.param_groups
    of_trunk = {id(p) for p in setup.network.trunk.parameters()}
    parts = [[p for p in group["params"] if (id(p) in of_trunk) == first] for first in (True, False)]
    optimizer.param_groups = [{**group, "params": part} for part in parts]
    trainer.setup = TrunkRate(**vars(setup), factor=factor)


def unchanged(trainer: Trainer) -> None:
    pass


@dataclass(frozen=True)
class Arm:
    """A method with its settings, and a change made to the trainer before it starts."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    adapt: Callable[[Trainer], None] = unchanged
    regime: dict[str, Any] = field(default_factory=lambda: PAPER)


def quarter_vgg16(input_shape: Sequence[int]) -> nn.Module:
    """VGG-16 at a quarter of its width, for images of any size: a side of one pixel is not halved."""
    blocks = ((16,) * 2, (32,) * 2, (64,) * 3, (128,) * 3, (128,) * 3)
    return ConvTrunk(input_shape, blocks)


STEP_ARMS = ("trunk-2", "trunk-5", "trunk-10", "twice")
ARMS: dict[str, Arm] = {
    "single": Arm("single"),
    "uniform": Arm("uniform"),
    "human": Arm("human"),
    "human-shuffled": Arm("human-shuffled"),
    **{f"trunk-{k}": Arm("single", adapt=partial(trunk_rate, float(k))) for k in (2, 5, 10)},
    "twice": Arm("single", {"learning_rate": 0.02}),
    "uniform-4": Arm("uniform", {"auxiliary_weight": 4.0}),
    "maxl": Arm("maxl"),
    "cross-entropy": Arm("single", {"gamma": 0.0}),
    "duplicate": Arm("uniform", {"psi": [1]}),  # one auxiliary class a class: the primary labels once more
    "frozen": Arm("frozen"),
    "wamal": Arm("wamal"),
    "wamal-normalised": Arm("wamal", {"normalise_weights": True}),
    "uniform-wamal": Arm("uniform"),  # at the mean weight of the run of WAMAL with the same seed
}
TUNED_ARMS = {f"tuned-{m}": Arm(m, regime=TUNED) for m in ("single", "uniform", "human", "maxl")}
RATES, WEIGHTS = (0.02, 0.05, 0.1), (0.3, 1.0, 4.0)


def mean_weight(trainer: Trainer) -> float:
    """Of the auxiliary losses of the first thousand training samples; 1 for a method that weighs none."""
    generator, data = trainer.setup.generator, trainer.data
    if generator is None or trainer.config.method != "wamal":
        return 1.0
    some = data.train.select(torch.arange(min(1000, len(data.train))))
    [batch] = evaluation_batches(some, 1000, data.mean, data.std, trainer.device)
    with evaluating(generator):
        _, weights = generator(batch.x, batch.primary)
    return float(weights.mean())


def one(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm, with ``changes`` to its settings; its mean weight is that over the epochs."""
    chosen = (ARMS | TUNED_ARMS)[arm]
    values = {**chosen.regime, "method": chosen.method, **chosen.settings, **changes}
    if arm == "uniform-wamal":
        rows = read(FILE)
        values["auxiliary_weight"] = float(
            rows[(rows.method == "wamal") & (rows.seed == seed)].mean_weight.item()
        )
    config = RunConfig.from_dict({**values, "seed": seed, "data_dir": data_dir}, "dev/regime.py")
    weights: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, RunFolder(Path(folder) / "run"), load_data(config))
        chosen.adapt(trainer)
        summary = trainer.fit(lambda row: weights.append(mean_weight(trainer)))
    columns = ("test_accuracy", "validation_accuracy", "train_accuracy", "seconds_total")
    return {
        "method": arm,
        "settings": text(changes),
        "seed": seed,
        **{c: summary[c] for c in columns},
        "mean_weight": sum(weights) / len(weights),
    }


def choose(options: argparse.Namespace) -> None:
    """Step size, and the tuned regime's rate and weights, by validation accuracy."""
    cut = {"validation_size": VALIDATION}
    steps = [(arm, cut) for arm in STEP_ARMS]
    rates = [("tuned-single", {"learning_rate": rate, **cut}) for rate in RATES]
    train(CHOICE, [*steps, *rates], CHOOSING_SEEDS, options)
    rate = {"learning_rate": best(("tuned-single",))[1]["learning_rate"]}
    arms = [arm for arm in TUNED_ARMS if arm != "tuned-single"]
    weighted = [(arm, {**rate, "auxiliary_weight": w, **cut}) for arm in arms for w in WEIGHTS]
    train(CHOICE, weighted, CHOOSING_SEEDS, options)
    print(best(STEP_ARMS)[0], *(f"{arm}: {best((arm,))[1]}" for arm in TUNED_ARMS), sep="\n")


def best(arms: Sequence[str]) -> tuple[str, dict[str, float]]:
    """The arm and the settings with the highest mean validation accuracy over the choosing seeds."""
    rows = read(CHOICE)
    rows = rows[rows.method.isin(arms)].astype({"validation_accuracy": float})
    means = rows.groupby(["method", "settings"]).validation_accuracy.mean()
    arm, settings = means.index[int(means.argmax())]
    return str(arm), {k: float(v) for k, _, v in (item.partition("=") for item in str(settings).split())}


def run(options: argparse.Namespace) -> None:
    """Every arm on every seed; first those that do not wait for another's figures."""
    waiting = ("uniform-wamal",)
    arms = [arm for arm in (options.arms or ARMS) if arm not in TUNED_ARMS]
    tuned = [arm for arm in (options.arms or (TUNED_ARMS if CHOICE.exists() else ())) if arm in TUNED_ARMS]
    train(FILE, [(arm, {}) for arm in arms if arm not in waiting], options.seeds, options)
    train(FILE, [(arm, {}) for arm in arms if arm in waiting], options.seeds, options)
    train(FILE, [(arm, best((arm,))[1]) for arm in tuned], options.seeds, options)


def train(
    file: Path, arms: Sequence[tuple[str, dict[str, Any]]], seeds: Sequence[int], options: argparse.Namespace
) -> None:
    """What ``file`` lacks of the arms, seed by seed."""
    tasks: list[Task] = [("regime", arm, changes, seed) for seed in seeds for arm, changes in arms]
    work(tasks, file, options.data_dir, options.jobs, one)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("choose", "run"))
    parser.add_argument("--data-dir", help="CIFAR-100's binary files")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, *TUNED_ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    (choose if options.what == "choose" else run)(options)


if __name__ == "__main__":
    main()
