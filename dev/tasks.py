"""Every kind of task on real data: single, uniform and learned labels beside a well-known reference, five seeds.

    python dev/tasks.py run --data-dir DIR [--only penguins scene] [--jobs 2]    # what the table lacks
    python dev/tasks.py write                                                   # the table of docs/evidence.md

DIR holds tables/, multilabel/, camvid/, clinc150/ and cifar100/. The reference is scikit-learn's MLP on the same features, or for
images a plain PyTorch loop with the same network. MAXL's generator has a trunk of its own.
Results are kept in dev/evidence/tasks.csv, a row a run.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import Tensor
from torch.nn.functional import cross_entropy

from evidence import HERE, of_set, read, replace_table, text, work
from maxl.experiments.data import IGNORED, DataSet, evaluation_batches, load, load_frames
from maxl.experiments.runs.build import choose_hierarchy, choose_task
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.measures import kept, main_measure, score
from maxl.experiments.runs.networks import build_network
from maxl.experiments.runs.stepping import training_stream
from maxl.experiments.runs.trainer import train
from maxl.experiments.studies.intervals import mean_interval, paired_difference

FILE = HERE / "tasks.csv"
PAGE = HERE.parent.parent / "docs" / "evidence.md"
SEEDS = range(200, 205)
METHODS = ("reference", "single", "uniform", "maxl")


def multi_label(name: str, labels: int) -> Callable[[Path, int], DataSet]:
    """A pair of tables whose last columns are labels."""

    def read_pair(folder: Path, seed: int) -> DataSet:
        frames = [
            pd.read_parquet(folder / "multilabel" / f"{name}-{part}.parquet") for part in ("train", "test")
        ]
        return load_frames(*frames, primary=list(frames[0].columns[-labels:]), seed=seed)

    return read_pair


def camvid(folder: Path, seed: int) -> DataSet:
    """Few small images, so that it ends on a CPU."""
    return load(str(folder / "camvid"), image_size=32, ignore_index=11, train_size=200, seed=seed)


def photographs(folder: Path, seed: int) -> DataSet:
    """A folder of files, train/class/finer class/N.png, of 2,500 and 2,000 pictures of CIFAR-100, read at 16 pixels."""
    source = load("cifar100", data_dir=folder / "cifar100", human="fine_label", train_size=2500, seed=seed)
    random = torch.Generator().manual_seed(0)
    some = torch.randperm(len(source.test), generator=random)[:2000]
    with tempfile.TemporaryDirectory() as place:
        for name, part in (("train", source.train), ("test", source.test.select(some))):
            finer = part.human if part.human is not None else part.primary
            for i, (x, coarse, fine) in enumerate(zip(part.x, part.primary, finer, strict=True)):
                parent = Path(place, name, source.primary_names[coarse], str(int(fine)))
                parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x.movedim(0, -1).numpy()).save(parent / f"{i}.png")
        return load(place, image_size=16, seed=seed)


def clinc150(folder: Path, seed: int) -> DataSet:
    """Domains, from a fifth of the sentences."""
    return load("clinc150", data_dir=folder / "clinc150", train_size=3000, seed=seed)


def table(file: str, primary: str, **options: Any) -> Callable[[Path, int], DataSet]:
    """A file of ``tables``, as it is."""
    return lambda folder, seed: load(str(folder / "tables" / file), primary=primary, seed=seed, **options)


SETS: dict[str, tuple[Callable[[Path, int], DataSet], dict[str, Any]]] = {
    "penguins": (table("penguins.csv", "species"), {"epochs": 40, "batch_size": 32}),
    "titanic": (table("titanic.csv", "survived"), {"epochs": 20, "batch_size": 32}),
    "diamonds": (table("diamonds.parquet", "price", train_size=5000), {"epochs": 20, "batch_size": 100}),
    "scene": (multi_label("scene", 6), {"epochs": 20, "batch_size": 50}),
    "yeast": (multi_label("yeast", 14), {"epochs": 20, "batch_size": 50}),
    "clinc150": (clinc150, {"epochs": 15, "batch_size": 100}),
    "digits": (
        lambda folder, seed: load("digits", train_size=500, seed=seed),
        {"epochs": 30, "batch_size": 50},
    ),
    "photographs": (photographs, {"epochs": 20, "batch_size": 50}),
    "camvid": (camvid, {"epochs": 10, "batch_size": 10}),
}


def config(name: str, method: str, seed: int) -> RunConfig:
    """Defaults but for what a data set's size asks for."""
    values = {"data": name, "method": method, "seed": seed, "tensorboard": False, "device": "cpu"}
    values["generator_trunk"] = "own"
    rare = {"look_every": 1000, "checkpoint_every": 1000}
    return RunConfig.from_dict({**values, **rare, **SETS[name][1]}, "dev/tasks.py")


def one(name: str, method: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run of a method, or of the reference."""
    data = SETS[name][0](Path(str(data_dir)), seed)
    measure = main_measure(data.task)
    start = time.perf_counter()
    if method == "reference":
        asked = config(name, "single", seed)
        outputs = plain_loop(data, asked) if len(data.input_shape) == 3 else scikit_learn(data, seed)
        value = score(data, outputs, data.test.primary)[measure.name]
    else:
        with tempfile.TemporaryDirectory() as folder:
            value = train(config(name, method, seed), Path(folder) / "run", data=data)[measure.key]
    seconds = time.perf_counter() - start
    # The columns that ``work`` prints.
    return {
        "method": method,
        "settings": text(changes),
        "seed": seed,
        "test_accuracy": value,
        "validation_accuracy": None,
        "measure": measure.title,
        "seconds": round(seconds, 1),
    }


def scikit_learn(data: DataSet, seed: int) -> Tensor:
    """Outputs for the test part, as a network's, of scikit-learn's MLP with its defaults."""
    x, y = data.train.x.numpy(), data.train.primary.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it has not converged
        if data.task == "regression":
            fitted = MLPRegressor(random_state=seed).fit(x, y if y.shape[1] > 1 else y[:, 0])
            return torch.tensor(fitted.predict(data.test.x.numpy()), dtype=torch.float32).reshape(
                len(data.test), -1
            )
        fitted = MLPClassifier(random_state=seed).fit(x, y)
    p = torch.tensor(fitted.predict_proba(data.test.x.numpy())).double().clamp(1e-12, 1 - 1e-12)
    return (p.log() if data.task == "classification" else p.logit()).float()


def plain_loop(data: DataSet, asked: RunConfig) -> Tensor:
    """Outputs for the test part of the same network, trained as PyTorch's tutorials do."""
    hierarchy = choose_hierarchy(asked, data)
    network = build_network(asked, hierarchy, choose_task(asked, data), data.task, data.input_shape)
    device = torch.device("cpu")
    stream = training_stream(asked, data, data.train, asked.seed, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=asked.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, asked.epochs)
    for epoch in range(asked.epochs):
        for batch in stream.epoch(epoch):
            outputs = network.predict(batch.x).movedim(-1, 1)
            loss = cross_entropy(outputs, batch.primary, ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    network.eval()
    keep = kept(data.task) or (lambda outputs: outputs)
    with torch.no_grad():
        batches = evaluation_batches(data.test, 50, data.mean, data.std, device)
        return torch.cat([keep(network.predict(b.x)) for b in batches])


def run(options: argparse.Namespace) -> None:
    """What the table lacks."""
    for name in options.only or SETS:
        tasks = [(name, method, {"data": name}, seed) for seed in SEEDS for method in METHODS]
        work(tasks, FILE, options.data_dir, options.jobs, one)


def summary() -> str:
    """The table of docs/evidence.md; the intervals of a line's differences hold together."""
    rows = read(FILE)
    pairs = (("single", "reference"), ("maxl", "uniform"), ("maxl", "single"))
    titles = ["data", "measure", *METHODS, *(f"{a} − {b}" for a, b in pairs)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in SETS:
        values = of_set(rows, name, METHODS)
        if any(len(v) < 2 for v in values.values()):
            continue
        cells = []
        for method in METHODS:
            mean = mean_interval(values[method].values())
            cells.append(f"{100 * mean.mean:.1f} ± {50 * (mean.high - mean.low):.1f}")
        for a, b in pairs:
            d = paired_difference(values[a], values[b], comparisons=len(pairs))
            half = ", too few seeds" if math.isnan(d.low) else f" ± {50 * (d.high - d.low):.1f}"
            cells.append(f"{100 * d.mean:+.1f}{half}".replace("-", "−"))
        lines.append(
            f"| {name} | {rows[rows.settings == f'data={name}'].measure.iloc[0]} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def write() -> None:
    """The table, in its page."""
    replace_table(PAGE, summary())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("--data-dir", help="see above")
    parser.add_argument("--only", nargs="+", choices=SETS, help="data sets")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    options = parser.parse_args()
    if options.what == "run":
        run(options)
    else:
        write()


if __name__ == "__main__":
    main()
