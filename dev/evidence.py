"""Our own study: do learned auxiliary labels help, and against which control? Five real data sets, many seeds.

    python dev/evidence.py tune digits            # settings, by validation accuracy on seeds 100 and up
    python dev/evidence.py run digits             # every method on the seeds that the table lacks
    python dev/evidence.py run mnist --data-dir DIR --seeds 0 1 2 3 --methods single uniform maxl
    python dev/evidence.py write                  # the tables of docs/evidence.md, docs/guide.md, dev/evidence/README.md

Results are kept in dev/evidence/NAME.csv, a row a run, and a seed found there is not run again. Settings were
chosen on seeds 100 and up, by samples cut from the training pool; the test set and seeds below 100 only report.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.studies.intervals import (
    PairedDifference,
    mean_interval,
    paired_difference,
    paired_differences,
)
from maxl.experiments.studies.statistics import p_text
from settings import ADAM, HUMAN, METHODS, SEEDS, SETTINGS, TUNED, TUNED_METHODS, TUNING_SEEDS, VALIDATION
from variants import SPOILS, VARIANTS

HERE = Path(__file__).parent / "evidence"
KEY = ("method", "settings", "seed")


def config(name: str, method: str, **changes: Any) -> RunConfig:
    """The settings of a method on a data set; ``changes`` come last."""
    as_of = VARIANTS[method].tuned_as if method in VARIANTS else None
    tuned = TUNED.get(name, {}) | TUNED_METHODS.get(name, {}).get(as_of or method, {})
    if method in VARIANTS:
        tuned |= {**VARIANTS[method].settings, "method": "maxl"}
    values = {**ADAM, **SETTINGS[name], "method": method, **tuned, **changes}
    return RunConfig.from_dict(values, "dev/evidence.py")


Task = tuple[str, str, dict[str, Any], int]  # data set, method, changes, seed


def work(
    tasks: Sequence[Task],
    file: Path,
    data_dir: str | None,
    jobs: int,
    one: Callable[[str, str, dict[str, Any], int, str | None], dict[str, Any]],
) -> None:
    """Trains what ``file`` lacks, each run by one thread, and adds a row as soon as a run ends.

    A ``Study`` and its launchers would not do: ``one`` may spoil the data and adapt the trainer, which no config says, and what is
    resumed are rows of a table that is kept, not folders of runs.
    """
    known = {(m, s, int(seed)) for m, s, seed in zip(*(read(file).get(c, []) for c in KEY), strict=True)}
    todo = [t for t in tasks if (t[1], text(t[2]), t[3]) not in known]
    print(f"{file.name}: {len(todo)} of {len(tasks)} runs to do", flush=True)
    context = multiprocessing.get_context("spawn")  # fork and threads do not mix
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for future in as_completed([pool.submit(one, *task, data_dir) for task in todo]):
            if future.exception() is not None:  # the others would end, and be lost
                pool.shutdown(wait=False, cancel_futures=True)
            row = future.result()
            file.parent.mkdir(exist_ok=True)
            table = pd.concat([read(file), pd.DataFrame([row])], ignore_index=True)
            table.sort_values(list(KEY), key=lambda c: c.fillna("")).to_csv(file, index=False)
            print(" ".join(str(row[c]) for c in (*KEY, "test_accuracy", "validation_accuracy")), flush=True)


def one(name: str, method: str, changes: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """A run, and the columns of its summary that the tables need."""
    with tempfile.TemporaryDirectory() as folder:
        summary = trainer(
            config(name, method, **changes, seed=seed, data_dir=data_dir), name, method, folder
        ).fit()
    columns = ("test_accuracy", "validation_accuracy", "train_accuracy", "label_verdict", "seconds_total")
    return row(summary, method, changes, seed, columns)


def row(
    summary: Mapping[str, Any],
    method: str,
    changes: Mapping[str, Any],
    seed: int,
    columns: Sequence[str] = ("test_accuracy", "validation_accuracy", "train_accuracy", "seconds_total"),
) -> dict[str, Any]:
    """What a table keeps of a run: its key, and some columns of its summary."""
    return {"method": method, "settings": text(changes), "seed": seed, **{c: summary[c] for c in columns}}


def trainer(run_config: RunConfig, name: str, method: str, folder: str) -> Trainer:
    """The trainer of a run, with what a data set's name or a variant of MAXL changes."""
    data = load_data(run_config)
    for kind, spoil in SPOILS.items():
        if name.endswith(f"-{kind}"):
            data = spoil(data, run_config.seed)
    built = Trainer(run_config, RunFolder(Path(folder) / "run"), data)
    if method in VARIANTS:
        VARIANTS[method].adapt(built)
    return built


def text(changes: Mapping[str, Any]) -> str:
    """Settings as one cell of a table."""
    return " ".join(f"{name}={value}" for name, value in changes.items() if name != "validation_size")


def read(file: Path) -> pd.DataFrame:
    """The rows of a table; none where there is no file."""
    return (
        pd.read_csv(file, keep_default_na=False, na_values={"test_accuracy": ""})
        if file.exists()
        else pd.DataFrame()
    )


def of_set(rows: pd.DataFrame, name: str, methods: Sequence[str]) -> dict[str, dict[int, float]]:
    """Test results of one of several data sets in a table, by method and seed."""
    rows = rows[rows.settings == f"data={name}"]
    return {
        m: {int(r.seed): float(r.test_accuracy) for r in rows[rows.method == m].itertuples()} for m in methods
    }


def run(name: str, options: argparse.Namespace) -> None:
    """Every method on every seed."""
    tasks: list[Task] = [
        (name, method, {}, seed)
        for seed, method in itertools.product(options.seeds or SEEDS, options.methods or METHODS)
        if method != "human" or name in HUMAN
    ]
    work(tasks, HERE / f"{name}.csv", options.data_dir, options.jobs, one)


def tune(name: str, options: argparse.Namespace) -> None:
    """A grid for each method, and the settings by validation accuracy."""
    changes = [dict(zip(options.grid, v, strict=True)) for v in itertools.product(*options.grid.values())]
    cut = {"validation_size": VALIDATION[SETTINGS[name]["data"]]}
    tasks: list[Task] = [
        (name, method, {**c, **cut}, seed)
        for seed, method, c in itertools.product(
            options.seeds or TUNING_SEEDS, options.methods or METHODS, changes
        )
    ]
    file = HERE / f"{name}-tuning.csv"
    work(tasks, file, options.data_dir, options.jobs, one)
    table = read(file).astype({"validation_accuracy": float})
    print(
        table.groupby(["method", "settings"])["validation_accuracy"].agg(["mean", "std", "count"]).to_string()
    )


def accuracies(name: str, methods: Sequence[str] = (*METHODS, "gated")) -> dict[str, dict[int, float]]:
    """Test accuracy by method and seed, as far as it has been run."""
    rows = read(HERE / f"{name}.csv")
    if not len(rows):
        return {}
    found = {
        str(m): dict(zip(part["seed"].astype(int), part["test_accuracy"].astype(float), strict=True))
        for m, part in rows.groupby("method")
    }
    return {m: found[m] for m in methods if m in found}


def tables() -> str:
    """Markdown: test accuracy of each method, and its paired difference to two controls."""
    parts = []
    for name in SETTINGS:
        accuracy = accuracies(name)
        if not {"single", "uniform"} <= accuracy.keys():
            continue
        settings = ", ".join(f"{k} {v}" for k, v in {**SETTINGS[name], **TUNED.get(name, {})}.items())
        parts.append(f"## {name}\n\n{settings}\n\n{table(accuracy)}\n")
        variants = accuracies(name, ("single", "uniform", *VARIANTS))
        if len(variants) > 2:
            parts.append(f"Variants of MAXL (`dev/variants.py`):\n\n{table(variants)}\n")
    return "\n".join(parts)


def table(accuracy: Mapping[str, Mapping[int, float]]) -> str:
    """One table; differences and p-values are corrected over its rows, mean accuracies are not."""
    controls = ("single", "uniform")
    head = ["labels", "seeds", "test accuracy, %", *(f"against {c}, points" for c in controls)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    columns = [differences(accuracy, control) for control in controls]
    for method, by_seed in accuracy.items():
        mean = mean_interval(by_seed.values())
        share = f"{100 * mean.mean:.2f}" + (f" ± {50 * (mean.high - mean.low):.2f}" if mean.n > 1 else "")
        lines.append(f"| {' | '.join([method, str(len(by_seed)), share, *(c[method] for c in columns)])} |")
    return "\n".join(lines)


def summary() -> str:
    """Markdown: a row for each data set with all of ``SEEDS``; differences as in ``tables``, bold if claimed.

    The last column says what the seeds find: the smallest difference of MAXL to single and to uniform.
    """
    others = [m for m in METHODS if m != "single"]
    lines = [
        "| data | single, % | " + " | ".join(others) + " | maxl against uniform | finds |",
        "|---" * (len(others) + 4) + "|",
    ]
    for name in SETTINGS:
        accuracy = accuracies(name)
        if "maxl" not in accuracy or min(len(a) for a in accuracy.values()) < len(SEEDS):
            continue
        against_single = differences(accuracy, "single", short=True)
        single = mean_interval(accuracy["single"].values())
        cells = [name, f"{100 * single.mean:.1f}", *(against_single.get(m, "") for m in others)]
        cells += [differences(accuracy, "uniform", short=True)["maxl"], power(accuracy)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def power(accuracy: Mapping[str, Mapping[int, float]]) -> str:
    """The smallest differences of MAXL to both controls, in points, that are found with 80 % power."""
    found = []
    for control in ("single", "uniform"):
        others = [m for m in accuracy if m != control]
        versus = paired_differences([(accuracy[m], accuracy[control]) for m in others])
        found.append(f"{100 * versus[others.index('maxl')].detectable:.2f}")
    return ", ".join(found)


# What might have made learned labels useful: in words, and the rows that say whether it did.
HYPOTHESES: dict[str, tuple[tuple[str, str], ...]] = {
    "sharper labels: temperature 0.1": (("digits", "sharp"), ("clinc150", "sharp")),
    "one-hot labels, straight-through": (("digits", "hard"), ("clinc150", "hard")),
    "a regulariser that rewards informative labels": tuple(
        (name, "information") for name in ("digits", "mnist", "clinc150", "cifar100-long")
    ),
    "the outer loss at averaged weights": (("digits", "averaged"), ("clinc150", "averaged")),
    "the outer loss on a tenth held out for good (AuxiLearn)": tuple(
        (name, "held-out") for name in ("digits", "mnist", "clinc150")
    ),
    "the outer loss on folds in turn (cross-fitting)": (("digits", "rotating"), ("clinc150", "rotating")),
    "ten steps of lookahead instead of one, plain SGD": (("digits-sgd", "several"), ("digits-sgd", "lively")),
    "noisy labels, 40 % wrong": (("digits-noisy", "maxl"), ("clinc150-noisy", "maxl")),
    "imbalanced classes, 20 to 1": (("digits-imbalanced", "maxl"), ("clinc150-imbalanced", "maxl")),
    "training until the samples are known by heart": (("cifar100-long", "maxl"),),
    "the paper's regime: plain SGD, 200 epochs": (("digits-paper", "maxl"),),
    "the auxiliary gradient gated by its cosine with the primary one": tuple(
        (name, "gated") for name in ("digits", "mnist", "clinc150")
    ),
    "learned sample weights": tuple((name, "weighted") for name in ("digits", "mnist", "clinc150")),
}


def hypotheses() -> str:
    """Markdown: each hypothesis with its paired difference to uniform labels, not corrected for their number."""
    lines = ["| what might help | data: variant, seeds, points against uniform (p) |", "|---|---|"]
    for words, rows in HYPOTHESES.items():
        cells = []
        for name, method in rows:
            accuracy = accuracies(name, ("uniform", method))
            if method in accuracy:
                d = paired_difference(accuracy[method], accuracy["uniform"])
                cells.append(f"{name}: {method}, {d.n}, {points(d)} ({p_text(d.p)})")
        lines.append(f"| {words} | {'; '.join(cells)} |")
    return "\n".join(lines)


def differences(
    accuracy: Mapping[str, Mapping[int, float]], control: str, *, short: bool = False
) -> dict[str, str]:
    """Mean paired difference ± simultaneous 95 % interval by method, with p corrected over the methods too."""
    others = [m for m in accuracy if m != control]
    found = paired_differences([(accuracy[m], accuracy[control]) for m in others])
    cells = {control: ""}
    for method, d in zip(others, found, strict=True):
        if d.n < 2:
            cells[method] = ""
            continue
        cells[method] = emphasised(d) if short else f"{points(d)} ({p_text(d.p_corrected)})"
    return cells


def points(d: PairedDifference) -> str:
    """A difference of accuracies in points, with half the width of its interval."""
    mean = f"{100 * d.mean:+.2f}".replace("-", "−")
    return f"{mean}, too few seeds" if math.isnan(d.half) else f"{mean} ± {100 * d.half:.2f}"


def told(d: PairedDifference) -> str:
    """A difference in percent, its interval, and the smallest one that so many seeds find with 80 % power."""
    if math.isnan(d.half):
        return f"{d.mean:+.2f}, too few seeds".replace("-", "−")
    text = f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})".replace("-", "−")
    return text if math.isnan(d.detectable) else f"{text}, finds {d.detectable:.2f}"


def emphasised(d: PairedDifference) -> str:
    """The same, bold where the interval excludes zero."""
    return f"**{points(d)}**" if d.claimed else points(d)


def data_folder(name: str, data_dir: str | None) -> str | None:
    """Where below ``data_dir`` a data set's files lie; digits need none."""
    data = SETTINGS[name]["data"]
    return None if data_dir is None or data == "digits" else str(Path(data_dir, data))


def replace_sections(page: Path, sections: str) -> None:
    """Puts ``sections`` in place of all that follows a page's introduction."""
    introduction, _, _ = page.read_text().partition("\n## ")
    page.write_text(f"{introduction}\n{sections}")


def replace_table(page: Path, made: str) -> None:
    """Puts a table in place of the one that has the same head."""
    lines = page.read_text().splitlines()
    first = lines.index(made.splitlines()[0])
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
    page.write_text("\n".join([*lines[:first], made, *lines[last:]]) + "\n")


def write() -> None:
    """Puts the tables into their pages, in place of those that stand there."""
    pages = (
        (HERE.parent.parent / "docs" / "evidence.md", summary()),
        (HERE.parent.parent / "docs" / "guide.md", hypotheses()),
    )
    for page, made in pages:
        replace_table(page, made)
    replace_sections(HERE / "README.md", tables())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tune", "run", "write"))
    parser.add_argument("data", nargs="*", choices=[*SETTINGS, []], help="data sets")
    parser.add_argument("--data-dir", help="local copies of the data sets, a folder each")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, "gated", *VARIANTS))
    parser.add_argument(
        "--grid", nargs="*", default=[], metavar="NAME=A,B", help="fields to tune, with their values"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args(arguments)
    pairs = (item.split("=", 1) for item in options.grid)
    options.grid = {name: [yaml.safe_load(v) for v in values.split(",")] for name, values in pairs}
    return options


def main() -> None:
    options = parse()
    if options.what == "write":
        write()
        return
    for name in options.data:
        chosen = argparse.Namespace(**{**vars(options), "data_dir": data_folder(name, options.data_dir)})
        (run if options.what == "run" else tune)(name, chosen)


if __name__ == "__main__":
    main()
