"""``maxl train``: one run, in this process or in those that torchrun has started beside it."""

from __future__ import annotations

import argparse
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
from maxl.experiments.cli.terminal import shown, tell_task
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.launch import Elsewhere, follows, restarted

if TYPE_CHECKING:
    from maxl.experiments.runs.folder import RunFolder
    from maxl.experiments.runs.processes import Processes


def add_train(commands: Any) -> None:
    """The command ``maxl train``."""
    train = commands.add_parser(
        "train",
        help="one run: a data set, a method, a seed",
        description="Trains one run and writes its folder: config, metrics, summary, checkpoint, model.",
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

    if namespace.resume is not None:
        folder = RunFolder(namespace.resume)
        given = set(vars(namespace)) - {"command", "run", "config", "resume", "preset", "trust"}
        if given or namespace.config is not None or namespace.preset is not None:
            raise ValueError("--resume takes a run's settings from its folder; leave out the other flags")
        return folder, folder.read_config(trust=namespace.trust) if folder.config.exists() else RunConfig()
    from maxl.experiments.runs.own_inputs import settled

    folder = RunFolder(out_folder(namespace))
    config = settled(read_config(namespace), trust=namespace.trust)
    if restarted() and folder.config.exists() and folder.read_config(trust=True) == config:
        namespace.resume, namespace.trust = folder.path, True  # what was typed is what was begun
    return folder, config


def _train_together(
    namespace: argparse.Namespace, folder: RunFolder, config: RunConfig, processes: Processes
) -> None:
    from maxl.experiments.cli.show import console, progress_bar, run_table
    from maxl.experiments.runs.loading import load_data
    from maxl.experiments.runs.lock import require_unlocked
    from maxl.experiments.runs.measures import ACCURACY, MEASURES
    from maxl.experiments.runs.start import told
    from maxl.experiments.runs.trainer import resume, train

    data = None
    if namespace.resume is None:

        def require_free() -> None:
            require_unlocked(folder.path)
            folder.require_free()

        processes.of_first(require_free)
        data = processes.agreed(lambda: load_data(config))
    with progress_bar(config.method, config.epochs) if processes.first else nullcontext(_silent) as advance:

        def report(row: dict[str, Any]) -> None:
            if row["epoch"] == 1 and data is not None:  # it trains, so no error will be the one line
                tell_task(data.saw)
                tell_task(told(folder.read_start()))
            note = f"loss {row['train_loss']:.3f}"
            for measure in (measures[0] for measures in MEASURES.values()):
                if row.get(measure.key) is not None:
                    note += f"  test {'' if measure is ACCURACY else measure.title + ' '}{measure.text(row[measure.key])}"
            if row.get("label_entropy") is not None:
                note += f"  label entropy {row['label_entropy']:.2f} of {row['label_entropy_max']:.2f}"
            advance(row["epoch"], note)

        try:
            if namespace.resume is not None:
                summary = resume(folder.path, report=report, trust=namespace.trust, processes=processes)
            else:
                summary = train(config, folder.path, data=data, report=report, processes=processes)
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


def _silent(epoch: int, note: str) -> None:
    """A progress bar of a process that does not speak."""


def once(error: Exception) -> Exception:
    """What a process raises for an error that all processes of a run meet: one of them says it."""
    return Elsewhere() if follows() else error
