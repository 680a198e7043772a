"""``maxl advise``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.cli._arguments import (
    MAIN_FLAGS,
    add_config_flags,
    add_help_all,
    add_preset_flag,
    add_trust_flag,
    read_config,
)
from maxl.experiments.cli._study import LINES_APART
from maxl.experiments.cli.listen import note
from maxl.experiments.cli.place import command_line
from maxl.experiments.cli.terminal import shown

if TYPE_CHECKING:
    from maxl.experiments.report.parts import Decision

_DEFAULTS = {"cluster_features": "trunk"}
_AIMS = ("accuracy", "structure", "noise")  # those of ``studies.aims``, which --help cannot wait for


def add_advise(commands: Any) -> None:
    """Adds the command to the subparsers of ``maxl``."""
    advise = commands.add_parser(
        "advise",
        help="do finer labels help on your data? the cheapest tests first",
        description="Tunes training without finer labels, tries cheap ones (evenly spread, clusters, finer classes made by people)\n"
        "on validation data, learned ones only where that leaves something open, and lets fresh seeds tell on the test part\n"
        "whether the best of them helps. Calling it again continues where it stopped.",
        epilog="example:\n  maxl advise --data table.csv --primary label --trunk mlp --budget 30 --out advice\n"
        "  maxl advise ... --aim structure --probe breed\n"
        "  maxl advise ... --aim noise --trusted checked",
    )
    advise.add_argument(
        "--aim",
        default="accuracy",
        metavar="NAME",
        help="what is to get better (accuracy): " + ", ".join(_AIMS),
    )
    advise.add_argument("--budget", type=float, default=60.0, metavar="MINUTES", help="minutes in all (60)")
    advise.add_argument("--out", type=Path, default=Path("advice"), help="folder (default: advice)")
    advise.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time, changes no result but the budget's"
    )
    advise.add_argument("--config", type=Path, help="YAML file with settings; flags override it")
    add_trust_flag(advise)
    add_preset_flag(advise)
    add_help_all(advise)
    main = MAIN_FLAGS - {"stream", "optimizer"} | {"probe", "trusted"}  # a screen holds no more
    defaults = {**_DEFAULTS, "validation_size": 0.2}  # half of what is trusted with --aim noise
    add_config_flags(advise, leave_out=("method", "seed"), main=main, defaults=defaults)
    advise.set_defaults(run=_advise)


def _advise(namespace: argparse.Namespace) -> None:
    from maxl.experiments.cli.show import console
    from maxl.experiments.report.advice import decided, write_advice
    from maxl.experiments.runs.own_inputs import settled
    from maxl.experiments.studies.advice import advise

    base = settled(read_config(namespace, dict(_DEFAULTS)), trust=namespace.trust)
    with _bars() as progress:
        advice = advise(
            base,
            namespace.out,
            aim=namespace.aim,
            budget=namespace.budget,
            jobs=namespace.jobs,
            progress=progress,
            tell=note,
        )
    report = write_advice(namespace.out)
    found, out = decided(namespace.out), console()
    out.print(_box(advice, found))
    if found.command is not None:  # below the box, whose border would be copied with it
        out.print(shown(f"  {command_line(shlex.split(found.command)[1:])}"), soft_wrap=True)
    out.print(f"Studies, plan.json and advice.json: {shown(namespace.out)}", soft_wrap=True)
    out.print(f"Report: {shown(report)}", soft_wrap=True)


@contextmanager
def _bars() -> Iterator[Any]:
    """A bar for each step, one after another; yields ``progress(step, done, total, note)``."""
    from contextlib import ExitStack

    from maxl.experiments.cli.show import progress_bar

    with ExitStack() as stack:
        current: dict[str, Any] = {}

        def progress(step: str, done: int, total: int, note: str) -> None:
            if current.get("step") != (step, total):
                stack.close()
                current["advance"] = stack.enter_context(progress_bar(step, total, done, every=LINES_APART))
                current["step"] = (step, total)
            current["advance"](done, note)

        yield progress


def _box(advice: Mapping[str, Any], found: Decision) -> Any:
    """The verdict, by how much, against what, at what cost, and what to do next."""
    from rich import box
    from rich.panel import Panel

    from maxl.experiments.report.advised import to_use
    from maxl.experiments.runs.measures import MEASURES, PROBE

    against = f"{advice['method']} against {advice['against']}"
    facts = [f"{asked}: {told}." for asked, told in found.facts if asked in ("Against what", "At what cost")]
    lines = [*advice["sentences"], *facts, f"Next: {found.advice}"]
    every = [PROBE, *(m for measures in MEASURES.values() for m in measures)]
    titles = {m.key: m.title for m in every}
    title = f"{advice['verdict']}: {against}, {titles.get(advice['measure'], advice['measure'])}"
    if (use := to_use(advice)) not in (advice["method"], advice["against"]):
        title += f"; not shown to beat {use}"
    return Panel(
        shown("\n".join(lines)), title=shown(title), title_align="left", box=box.ROUNDED, safe_box=True
    )
