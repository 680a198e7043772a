"""Why do auxiliary labels gain in the paper's regime: step size, a second head, or information in the labels?

    python dev/regime.py choose --data-dir DIR    # by validation accuracy on seeds 100 and 101: step size, tuned settings
    python dev/regime.py run --data-dir DIR       # every arm on the seeds that the table lacks
    python dev/regime.py run --data-dir DIR --seeds 4 5 6 7    # the plan's next seeds
    python dev/regime.py write                    # the tables of docs/evidence.md, what the plan's rule says, docs/regime.png

``DIR`` holds CIFAR-100's binary files. The plan, dev/plans/regime.md, is older than the runs. Results are kept in
dev/evidence/regime.csv and regime-choice.csv, a row a run; what is there is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evidence import HERE, Task, read, replace_table, row, told, work
from maxl.experiments.data import evaluation_batches
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import evaluating
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.runs.trunks import ConvTrunk
from maxl.experiments.studies.intervals import (
    PairedDifference,
    interval_text,
    mean_interval,
    paired_difference,
)
from planned import outcomes

FILE, CHOICE = HERE / "regime.csv", HERE / "regime-choice.csv"
SEEDS, CHOOSING_SEEDS = range(4), (100, 101)
BLOCK = 4  # seeds that are added together, for all arms, and looked at together
PAGE = Path(__file__).parent.parent / "docs" / "evidence.md"
PICTURE = PAGE.with_name("regime.png")
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


@dataclass(frozen=True)
class Arm:
    """A method with its settings."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
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
    **{f"trunk-{k}": Arm("single", {"trunk_learning_rate": k / 100}) for k in (2, 5, 10)},
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
GROUPS: dict[str, tuple[str, ...]] = {
    "step size": ("single", *STEP_ARMS, "cross-entropy"),
    "a second head without information": (
        *("duplicate", "uniform", "uniform-4", "uniform-wamal"),
        *("frozen", "human-shuffled"),
    ),
    "people's labels": ("human",),
    "learned labels": ("maxl", "wamal", "wamal-normalised"),
    "tuned": tuple(TUNED_ARMS),
}
INFORMATION = (  # each against the same without what its labels say
    *(("human", "human-shuffled"), ("maxl", "uniform")),
    *(("wamal", "uniform-wamal"), ("wamal-normalised", "uniform")),
)
TUNED_PAIRS = (
    *(("tuned-uniform", "tuned-single"), ("tuned-human", "tuned-single"), ("tuned-maxl", "tuned-single")),
    *(("tuned-human", "tuned-uniform"), ("tuned-maxl", "tuned-uniform")),
)
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


def config(arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> RunConfig:
    """The settings of an arm with ``changes``."""
    chosen = (ARMS | TUNED_ARMS)[arm]
    values = {**chosen.regime, "method": chosen.method, **chosen.settings, **changes}
    if arm == "uniform-wamal":
        rows = read(FILE)
        values["auxiliary_weight"] = float(
            rows[(rows.method == "wamal") & (rows.seed == seed)].mean_weight.item()
        )
    return RunConfig.from_dict({**values, "seed": seed, "data_dir": data_dir}, "dev/regime.py")


def one(name: str, arm: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of an arm, with ``changes`` to its settings; its mean weight is that over the epochs."""
    settings = config(arm, changes, seed, data_dir)
    weights: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings, RunFolder(Path(folder) / "run"), load_data(settings))
        summary = trainer.fit(lambda row: weights.append(mean_weight(trainer)))
    return {**row(summary, arm, changes, seed), "mean_weight": sum(weights) / len(weights)}


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


def chosen() -> bool:
    """Whether ``choose`` has run to its end."""
    wanted = len(STEP_ARMS) + len(RATES) + (len(TUNED_ARMS) - 1) * len(WEIGHTS)
    return len(read(CHOICE)) >= wanted * len(CHOOSING_SEEDS)


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
    tuned = [arm for arm in (options.arms or (TUNED_ARMS if chosen() else ())) if arm in TUNED_ARMS]
    if tuned and not chosen():
        raise SystemExit(
            f"the tuned arms need their settings first; {CHOICE.name} is not complete: run choose"
        )
    train(FILE, [(arm, {}) for arm in arms if arm not in waiting], options.seeds, options)
    train(FILE, [(arm, {}) for arm in arms if arm in waiting], options.seeds, options)
    train(FILE, [(arm, best((arm,))[1]) for arm in tuned], options.seeds, options)


def train(
    file: Path, arms: Sequence[tuple[str, dict[str, Any]]], seeds: Sequence[int], options: argparse.Namespace
) -> None:
    """What ``file`` lacks of the arms, seed by seed."""
    tasks: list[Task] = [("regime", arm, changes, seed) for seed in seeds for arm, changes in arms]
    work(tasks, file, options.data_dir, options.jobs, one)


def questions(step: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """The plan's differences by question; ``step`` is the step-size arm that was chosen."""
    return {
        "step size": (
            (step, "single"),
            *((arm, step) for arm in ("uniform", "uniform-4", "human", "maxl")),
        ),
        "second head": (("uniform", "single"), ("uniform-4", "single")),
        "information": INFORMATION,
    }


def results() -> dict[str, dict[int, float]]:
    """Test accuracy in percent by arm and seed: of whole blocks of seeds, those that every arm has, tuned ones by themselves."""
    found = outcomes(FILE, "test_accuracy")
    kept = {}
    for arms in (ARMS, TUNED_ARMS):
        there = [found[arm] for arm in arms if arm in found]
        shared = set.intersection(*map(set, there)) if len(there) == len(arms) else set[int]()
        blocks = [b for b in range(0, max(shared, default=-1) + 1, BLOCK) if {*range(b, b + BLOCK)} <= shared]
        seeds = {seed for b in blocks for seed in range(b, b + BLOCK)}
        kept |= {arm: {s: v for s, v in found[arm].items() if s in seeds} for arm in arms if seeds}
    return kept


def compared(found: Mapping[str, Mapping[int, float]]) -> dict[str, dict[tuple[str, str], PairedDifference]]:
    """The plan's differences by question, those whose arms have run: their intervals hold for all three questions at once,
    those of the tuned regime for its own."""
    asked = questions(best(STEP_ARMS)[0])
    number = sum(map(len, asked.values()))
    return {
        question: {
            (a, b): paired_difference(found[a], found[b], number if question in asked else len(pairs))
            for a, b in pairs
            if a in found and b in found
        }
        for question, pairs in {**asked, "tuned": TUNED_PAIRS}.items()
    }


def tables() -> tuple[str, str]:
    """Those of docs/evidence.md: each arm's results, and the differences that the plan names."""
    found = results()
    lines = ["| what it stands for | arm | test accuracy, % |", "|---|---|---|"]
    lines += [
        f"| {group} | {arm} | {interval_text(mean_interval(found[arm].values()), 2)} |"
        for group, arms in GROUPS.items()
        for arm in arms
        if arm in found
    ]
    beside = ["| question | difference | points |", "|---|---|---|"]
    beside += [
        f"| {question} | {a} − {b} | {told(d)} |"
        for question, pairs in compared(found).items()
        for (a, b), d in pairs.items()
    ]
    return "\n".join(lines), "\n".join(beside)


def answers() -> list[str]:
    """What the plan's rule says; what is lacking where not every difference that it needs is there."""
    step = best(STEP_ARMS)[0]
    found = compared(results())
    lows = {pair: d.low for pairs in found.values() for pair, d in pairs.items()}
    asked = questions(step)
    if lacking := [f"{a} − {b}" for pairs in asked.values() for a, b in pairs if (a, b) not in lows]:
        return [f"not run: {', '.join(lacking)}"]
    (first, *others), head = asked["step size"], asked["second head"]
    beaten = any(lows[pair] > 0 for pair in others)
    return [
        f"step size explains gains: {lows[first] > 0 and not beaten}",
        f"a second head does: {any(lows[p] > 0 and lows[p[0], step] > 0 for p in head)}",
        *(f"information, {a} against {b}: {lows[a, b] > 0}" for a, b in INFORMATION),
    ]


def write(options: argparse.Namespace) -> None:
    """Prints what the plan's rule says; where a whole block of seeds is there, puts the tables into their page and draws the arms."""
    print(*answers(), sep="\n")
    if (found := results()).keys() >= ARMS.keys():
        for made in tables():
            replace_table(PAGE, made)
        draw(found, PICTURE)


def draw(found: Mapping[str, Mapping[int, float]], file: Path) -> None:
    """Test accuracy of each arm, by what it stands for."""
    from matplotlib.figure import Figure

    rows = [(group, arm) for group, arms in GROUPS.items() for arm in arms if arm in found]
    figure = Figure(figsize=(7.5, 1.2 + 0.27 * len(rows)))
    axes = figure.subplots()
    for k, group in enumerate(dict.fromkeys(group for group, _ in rows)):
        places = [i for i, (of, _) in enumerate(rows) if of == group]
        means = [mean_interval(found[rows[i][1]].values()) for i in places]
        half = [m.high - m.mean for m in means]
        axes.errorbar(
            [m.mean for m in means], places, xerr=half, fmt="o", color=f"C{k}", markersize=5, label=group
        )
    axes.axvline(mean_interval(found["single"].values()).mean, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [arm for _, arm in rows])
    axes.invert_yaxis()
    seeds, tuned = len(found["single"]), len(found.get("tuned-single", found["single"]))
    beside = "" if tuned == seeds else f", tuned {tuned}"
    axes.set_xlabel(f"test accuracy, % (95 % intervals, {seeds} seeds{beside})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    figure.savefig(file, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("choose", "run", "write"))
    parser.add_argument("--data-dir", help="CIFAR-100's binary files")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, *TUNED_ARMS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    {"choose": choose, "run": run, "write": write}[options.what](options)


if __name__ == "__main__":
    main()
