"""``maxl train``: one run, in this process or in those that torchrun has started beside it."""

from __future__ import annotations

import argparse
import shlex
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from maxl.experiments.runs.launch import Elsewhere, follows, restarts
from maxl.experiments.runs.names import names_code

if TYPE_CHECKING:
    from maxl.experiments.runs.folder import RunFolder
    from maxl.experiments.runs.processes import Processes

# What may stand beside --resume, or is set without a flag.
_NOT_SETTINGS = {"typed", "command", "run", "config", "resume", "preset", "fast", "trust", "quiet", "verbose"}
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
    from maxl.experiments.runs.processes import joined_processes

    try:
        folder, config = _run_asked_for(namespace)
    except (ValueError, OSError) as error:
        raise once(error) from None
    with joined_processes(config.device) as processes:
        _train_together(namespace, folder, config, processes)


def _run_asked_for(namespace: argparse.Namespace) -> tuple[RunFolder, RunConfig]:
    """The folder and the settings of ``maxl train``; its --resume is set where torchrun starts it once more."""
    from maxl.experiments.runs.folder import RunFolder
    from maxl.experiments.runs.own_inputs import settled

    if namespace.resume is not None:
        folder = RunFolder(namespace.resume)
        given = set(vars(namespace)) - _NOT_SETTINGS
        if given or namespace.config is not None or namespace.preset is not None or namespace.fast:
            raise ValueError("--resume takes a run's settings from its folder; leave out the other flags")
        return folder, folder.read_config(trust=namespace.trust) if folder.config.exists() else RunConfig()
    folder = RunFolder(out_folder(namespace))
    config = settled(read_config(namespace), trust=namespace.trust)
    if restarts() and folder.config.exists() and folder.read_config(trust=True) == config:
        namespace.resume, namespace.trust = folder.path, True  # what was typed is what was begun
    return folder, config


def _train_together(
    namespace: argparse.Namespace, folder: RunFolder, config: RunConfig, processes: Processes
) -> None:
    from maxl.experiments.cli.show import console, progress_bar, run_table
    from maxl.experiments.data import Unreadable
    from maxl.experiments.runs.build import left_out
    from maxl.experiments.runs.loading import load_data
    from maxl.experiments.runs.start import told
    from maxl.experiments.runs.trainer import require_new, resume, train
    from maxl.experiments.studies.remaining import StepClock, duration_text

    data = None
    if namespace.resume is None:
        processes.of_first(lambda: require_new(folder))  # before data are read for nothing
        data = processes.agreed(lambda: load_data(config))
    started = time.monotonic()
    before = len(folder.read_metrics()) if folder.started else 0

    def expected(seconds: float) -> None:
        if seconds > _LONG and processes.first:
            note(
                f"about {duration_text(seconds)} for {config.epochs - before} epochs, looks at the test part not counted"
            )

    bar = progress_bar(config.method, config.epochs, before) if processes.first else nullcontext(_silent)
    with bar as advance:

        def report(row: dict[str, Any]) -> None:
            if row["epoch"] == 1 and data is not None:  # it trains, so no error will be the one line
                note(data.saw)
                note(told(folder.read_start()))
                note(left_out(config, data))
            pace = (time.monotonic() - started) / max(1, row["epoch"] - before)
            left = pace * (config.epochs - row["epoch"])
            advance(row["epoch"], (f"{duration_text(left)} left  " if left else "") + _said(row))

        watch = StepClock(config.epochs - before, expected)
        try:
            if namespace.resume is not None:
                summary = resume(
                    folder.path, report=report, watch=watch, trust=namespace.trust, processes=processes
                )
            else:
                summary = train(
                    config, folder.path, data=data, report=report, watch=watch, processes=processes
                )
        except Unreadable as error:
            if not folder.started:
                raise
            trust = " --trust" if names_code(config.to_dict()) else ""
            raise ValueError(
                f"{error}; what is finished is kept: put the data back as they were, and continue with: "
                f"maxl train --resume {shlex.quote(str(folder.path))}{trust}"
            ) from error
        except FloatingPointError as error:  # of a loss or weights that are the same everywhere
            raise once(error) from None
    if not processes.first:
        return
    out = console()
    out.print(run_table(summary))
    if "kept_epoch" in summary:
        out.print(f"Kept: epoch {summary['kept_epoch']} ({shown(summary['kept_because'])}).")
    if summary["label_verdict"]:
        out.print(f"Note: {shown(summary['label_verdict'])}.")
    out.print(f"Run folder: {shown(folder.path)}", soft_wrap=True)


def _said(row: dict[str, Any]) -> str:
    """An epoch's metrics in a line."""
    from maxl.experiments.runs.measures import ACCURACY, MEASURES

    said = f"loss {row['train_loss']:.3f}"
    for measure in (measures[0] for measures in MEASURES.values()):
        if row.get(measure.key) is not None:
            said += (
                f"  test {'' if measure is ACCURACY else measure.title + ' '}{measure.text(row[measure.key])}"
            )
    if row.get("label_entropy") is not None:
        said += f"  label entropy {row['label_entropy']:.2f} of {row['label_entropy_max']:.2f}"
    return said


def _silent(epoch: int, note: str) -> None:
    """A progress bar of a process that does not speak."""


def once(error: Exception) -> Exception:
    """What a process raises for an error that all processes of a run meet: one of them says it."""
    return Elsewhere() if follows() else error
