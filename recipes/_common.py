"""What the recipes share: the paper's settings, their flags, and how a recipe's studies are run and tabled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from maxl.experiments.cli import Parser, add_config_flags, add_help_all, read_config, run_study
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.studies.intervals import mean_interval
from maxl.experiments.studies.notes import origin_notes
from maxl.experiments.studies.statistics import settings
from maxl.experiments.studies.study import Study
from maxl.presets import PRESETS

PAPER: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text())
# How the meta step is taken, unless --authors is given: in every iteration, through the update just taken, exact.
OURS: dict[str, Any] = PRESETS["exact"] | {"schedule": "iteration", "hypergradient": "forward"}
# As the authors' code does: whole epochs in turn, a virtual plain-SGD step, a gradient through the backward pass,
# labels by the statistics of their batch.
AUTHORS: dict[str, Any] = PRESETS["paper"] | {
    "schedule": "epochs",
    "hypergradient": "reverse",
    "label_statistics": "batch",
}
# For two CPU cores: few samples and passes. Plain SGD at 0.01 would hardly move in so few steps, hence Adam.
FAST: dict[str, Any] = {
    "trunk": "convnet4",
    "train_size": 1000.0,
    "epochs": 10,
    "look_every": 5,  # the test set is larger than what is trained on
    "batch_size": 50,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "decay": "cosine",
    "meta_optimizer": "adam",
    "tensorboard": False,
}
SEEDS, FAST_SEEDS = (0, 1, 2), (0, 1)

Plan = Callable[[argparse.Namespace], Mapping[str, Study]]


def recipe_parser(doc: str, out: str, *, fixed: Sequence[str]) -> Parser:
    """The flags of every recipe, and those of a run that this recipe leaves open.

    Args:
        doc: The recipe's docstring, shown by --help.
        out: Default folder of the results.
        fixed: Fields of ``RunConfig`` that the recipe sets itself, beside method and seed.
    """
    epilog = "In brackets under data to machine: the defaults of maxl train. The recipe's own come first; see its file."
    parser = Parser(description=doc, epilog=epilog)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder of the results ({out})")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds (0 1 2; with --fast 0 1)")
    parser.add_argument("--fast", action="store_true", help="a two-core version that takes minutes")
    parser.add_argument("--authors", action="store_true", help="meta steps as the authors' code takes them")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time (one a GPU, or on the CPU one a core, at most 16)",
    )
    add_help_all(parser)
    add_config_flags(parser, leave_out=("method", "seed", *fixed))
    return parser


def add_psi_flag(parser: Parser, psi: Sequence[int], fast_psi: Sequence[int]) -> None:
    """--psi with several values, each a run of its own; ``options.psi_values``, None where it is not given."""
    shown, fast = (" ".join(map(str, values)) for values in (psi, fast_psi))
    parser.add_argument(
        "--psi",
        dest="psi_values",
        type=int,
        nargs="+",
        metavar="N",
        help=f"auxiliary classes a class ({shown}; fast: {fast})",
    )


def base_config(options: argparse.Namespace, **fields: Any) -> RunConfig:
    """The paper's settings, then the recipe's ``fields``, --fast, --authors, and single flags last of all."""
    values = {**PAPER, **OURS, **fields}
    values |= FAST if options.fast else {}
    values |= AUTHORS if options.authors else {}
    return read_config(options, values)


def seeds(options: argparse.Namespace) -> Sequence[int]:
    """--seeds, or the default."""
    chosen: Sequence[int] | None = options.seeds
    return chosen or (FAST_SEEDS if options.fast else SEEDS)


def main(parser: Parser, plan: Plan, arguments: Sequence[str] | None = None) -> int:
    """Runs a recipe. Returns the exit code: 0, 2 for a mistake in what was asked, 130 if interrupted."""
    options = parser.parse_args(arguments)
    try:
        run_studies(plan(options), options.out, options.jobs)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def run_studies(studies: Mapping[str, Study], out: Path, jobs: int | None) -> None:
    """Each study in a folder of its name, with its tables and report; then all of them in one table.

    Writes ``results.csv``, a row a run, and ``results.md``, a row a setting, into ``out``.
    """
    results = []
    for name, study in studies.items():
        print(f"\n{out.name}: {name}, {len(study.plan())} runs", flush=True)
        run_study(study, out / name, jobs)
        results.append(pd.read_csv(out / name / "results.csv").assign(study=name))
    table = pd.concat(results, ignore_index=True)
    table.to_csv(out / "results.csv", index=False)
    (out / "results.md").write_text(overview(table))
    print(f"\n{overview(table)}\nTables: {out / 'results.md'}, {out / 'results.csv'}")


def overview(results: pd.DataFrame) -> str:
    """Markdown: a row for each study and ψ, a column for each method, mean test accuracy ± 95 % interval of each
    mean alone; then what the runs do not have in common, if anything.

    Args:
        results: One row a run, with the columns of a study's results and ``study``.
    """
    methods = list(dict.fromkeys(results["method"]))
    lines = [f"| study | ψ | {' | '.join(methods)} |", "|---" * (2 + len(methods)) + "|"]
    for name, of_study in results.groupby("study", sort=False):
        for setting, runs in settings(of_study):
            cells = [_cell(runs.loc[runs["method"] == method, "test_accuracy"]) for method in methods]
            psi = setting["psi"]
            shown = " ".join(map(str, psi)) if isinstance(psi, tuple) else "" if psi is None else str(psi)
            lines.append(f"| {name} | {shown} | {' | '.join(cells)} |")
    notes = origin_notes(results.to_dict("records"))
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)


def _cell(accuracies: pd.Series[float]) -> str:
    if not len(accuracies):
        return ""
    interval = mean_interval(accuracies)
    spread = "" if interval.n == 1 else f" ± {50 * (interval.high - interval.low):.2f}"
    return f"{100 * interval.mean:.2f}{spread}"
