"""``maxl train``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from maxl.experiments.cli._arguments import (
    add_config_flags,
    add_help_all,
    add_preset_flag,
    add_trust_flag,
    read_config,
)
from maxl.experiments.cli.listen import note
from maxl.experiments.cli.terminal import shown
from maxl.experiments.runs.config import RunConfig

# What may stand beside --resume, or is set without a flag.
_NOT_SETTINGS = {"command", "run", "config", "resume", "preset", "trust", "quiet", "verbose"}
_LONG = 15.0  # seconds from which on it is worth saying how long a run will take


def add_train(commands: Any) -> None:
    """Adds the command to the subparsers of ``maxl``."""
    train = commands.add_parser(
        "train",
        help="trains one model and writes its folder",
        description="Trains one model and writes its folder: settings, metrics, result, checkpoints, weights.",
        epilog="(defaults in brackets)\nexample:\n"
        "  maxl train --data digits --method maxl --psi 5 --epochs 20 --out run",
    )
    train.add_argument("--out", type=Path, default=argparse.SUPPRESS, help="folder to write (default: run)")
    train.add_argument("--config", type=Path, help="YAML file with settings; flags override it")
    train.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue an interrupted run, as its own settings say"
    )
    add_trust_flag(train)
    add_preset_flag(train)
    add_help_all(train)
    add_config_flags(train)
    train.set_defaults(run=_train)


def out_folder(namespace: argparse.Namespace) -> Path:
    """Where ``maxl train`` writes."""
    out: Path = getattr(namespace, "out", Path("run"))
    return out


def _train(namespace: argparse.Namespace) -> None:
    from maxl.experiments.cli.show import console, progress_bar, run_table
    from maxl.experiments.runs.folder import RunFolder
    from maxl.experiments.runs.loading import load_data
    from maxl.experiments.runs.lock import require_unlocked
    from maxl.experiments.runs.measures import ACCURACY, MEASURES
    from maxl.experiments.runs.trainer import resume, train
    from maxl.experiments.studies.remaining import StepClock, duration_text

    if namespace.resume is not None:
        folder = RunFolder(namespace.resume)
        given = set(vars(namespace)) - _NOT_SETTINGS
        if given or namespace.config is not None or namespace.preset is not None:
            raise ValueError("--resume takes a run's settings from its folder; leave out the other flags")
        config = folder.read_config(trust=namespace.trust) if folder.config.exists() else RunConfig()
        data = None
    else:
        folder = RunFolder(out_folder(namespace))
        config = read_config(namespace)
        require_unlocked(folder.path)
        folder.require_free()
        data = load_data(config)
    started = time.monotonic()
    before = len(folder.read_metrics()) if folder.started else 0

    def told(seconds: float) -> None:
        if seconds > _LONG:
            note(
                f"about {duration_text(seconds)} for {config.epochs - before} epochs, looks at the test part not counted"
            )

    with progress_bar(config.method, config.epochs, before) as advance:

        def report(row: dict[str, Any]) -> None:
            if row["epoch"] == 1 and data is not None:  # it trains, so no error will be the one line
                note(data.saw)
            pace = (time.monotonic() - started) / max(1, row["epoch"] - before)
            left = pace * (config.epochs - row["epoch"])
            said = f"{duration_text(left)} left  " if left else ""
            said += f"loss {row['train_loss']:.3f}"
            for measure in (measures[0] for measures in MEASURES.values()):
                if row.get(measure.key) is not None:
                    said += f"  test {'' if measure is ACCURACY else measure.title + ' '}{measure.text(row[measure.key])}"
            if row.get("label_entropy") is not None:
                said += f"  label entropy {row['label_entropy']:.2f} of {row['label_entropy_max']:.2f}"
            advance(row["epoch"], said)

        clock = StepClock(config.epochs - before, told)
        if namespace.resume is not None:
            summary = resume(folder.path, report=report, watch=clock, trust=namespace.trust)
        else:
            summary = train(config, folder.path, data=data, report=report, watch=clock)
    out = console()
    out.print(run_table(summary))
    if summary["label_verdict"]:
        out.print(f"Note: {shown(summary['label_verdict'])}.")
    out.print(f"Run folder: {shown(folder.path)}", soft_wrap=True)
