"""``maxl tune``."""

from __future__ import annotations

import argparse
import dataclasses
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
from maxl.experiments.cli.place import command_line
from maxl.experiments.cli.terminal import shown
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.names import names_code

if TYPE_CHECKING:
    from rich.table import Table

    from maxl.experiments.studies.tuning import Tuned


def add_tune(commands: Any) -> None:
    """Adds the command to the subparsers of ``maxl``."""
    tune = commands.add_parser(
        "tune",
        help="searches for the settings with the best validation result",
        description="Trains with one setting after another, stops runs that fall behind, and keeps what is best on validation data.\n"
        "What is given stays as it is. Calling it again continues where it stopped, or adds trials.",
        epilog="example:\n  maxl tune --data digits --train-size 300 --method single --epochs 20 --trials 20 --out tune",
    )
    tune.add_argument("--trials", type=int, default=30, metavar="N", help="runs in all (30)")
    tune.add_argument("--budget", type=float, default=60.0, metavar="MINUTES", help="minutes in all (60)")
    tune.add_argument(
        "--space", type=Path, metavar="FILE", help="YAML: name: {low: X, high: X}, [choices] or null"
    )
    tune.add_argument("--out", type=Path, default=Path("tune"), help="folder (default: tune)")
    tune.add_argument("--config", type=Path, help="YAML file with settings; flags override it")
    add_trust_flag(tune)
    add_preset_flag(tune)
    add_help_all(tune)
    add_config_flags(tune, defaults={"validation_size": 0.2})
    tune.set_defaults(run=_tune)


def _tune(namespace: argparse.Namespace) -> None:
    from maxl.experiments.cli.show import console, progress_bar
    from maxl.experiments.report.commands import new_folder
    from maxl.experiments.studies.space import default_space, read_space
    from maxl.experiments.studies.tuning import tune

    base = read_config(namespace)
    typed = {f.name for f in dataclasses.fields(RunConfig)} & set(vars(namespace))
    space = default_space(base, typed)
    if namespace.space is not None:
        space = read_space(namespace.space, space)
    with progress_bar("tune", namespace.trials, unit="trials") as advance:
        found = tune(
            base,
            namespace.out,
            trials=namespace.trials,
            budget=namespace.budget,
            space=space,
            progress=lambda done, _, said: advance(done, said),
            tell=note,
            estimate=note,
        )
    out = console()
    out.print(_table(found))
    states = found.trials["state"].value_counts()
    said = ", ".join(f"{count} {state}" for state, count in states.items())
    count = len(found.trials)
    ended = f" The budget ended it before {namespace.trials}." if count < namespace.trials else ""
    out.print(
        f"{count} trial{'s' if count != 1 else ''}: {said}.{ended} Chosen by validation results; the test part decided nothing."
    )
    best = namespace.out / "best.yaml"
    out.print(f"Trials, trials.csv and journal: {shown(namespace.out)}", soft_wrap=True)
    out.print(f"Best settings: {shown(best)}", soft_wrap=True)
    trust = ["--trust"] * names_code(vars(base))
    run = Path("run")
    run = new_folder(run) if run.exists() else run
    again = command_line(["train", "--config", str(best), *trust, "--out", str(run)])
    out.print(f"Next: {shown(again)}", soft_wrap=True)


def _table(found: Tuned) -> Table:
    """The best trials."""
    from rich.table import Table

    from maxl.experiments.runs.measures import MEASURES

    name = found.measure.removeprefix("validation_")
    measure = next(m for measures in MEASURES.values() for m in measures if m.name == name)
    ranked = found.ranked()
    fields = [c for c in ranked.columns if c not in ("trial", "state", "value", "epochs")]
    table = Table(title=shown(f"{found.best.method} on {found.best.data}"), title_justify="left")
    for heading in ("trial", f"validation {measure.title}", *(f.replace("_", " ") for f in fields)):
        table.add_column(shown(heading), justify="right")
    for row in ranked.to_dict("records"):
        values = (f"{row[f]:.3g}" if isinstance(row[f], float) else shown(row[f]) for f in fields)
        table.add_row(str(row["trial"]), measure.text(row["value"]), *values)
    return table
