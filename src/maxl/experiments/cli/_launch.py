"""Where ``maxl compare`` trains: here, on a Ray, by a job array of Slurm, or a part of the runs."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maxl.experiments.cli.listen import note
from maxl.experiments.cli.place import command_line
from maxl.experiments.cli.terminal import shown

if TYPE_CHECKING:
    from maxl.experiments.studies.launcher import Launcher
    from maxl.experiments.studies.study import Study

LAUNCHERS = ("local", "ray", "slurm")
_SCRIPT = "slurm.sh"


def add_launcher_flags(parser: argparse.ArgumentParser) -> None:
    """--launcher, and what goes with it."""
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default=LAUNCHERS[0],
        metavar="NAME",
        help="where runs are trained: local, ray or slurm (local)",
    )
    for flag, metavar, said in (
        (
            "--ray-address",
            "HOST:PORT",
            "of a running Ray cluster, or auto (RAY_ADDRESS, else one is started)",
        ),
        (
            "--part",
            "K/N",
            "every N-th run alone, from the K-th on, beside other parts in one folder; no table",
        ),
    ):
        action = parser.add_argument(flag, metavar=metavar, help=argparse.SUPPRESS)
        action.full_help = said  # type: ignore[attr-defined]


def launch(study: Study, namespace: argparse.Namespace) -> None:
    """Trains a study as the flags say.

    Raises:
        ValueError: if they do not go together, or as ``Study.run``.
        ChildProcessError: as ``Study.run``.
    """
    from maxl.experiments.cli._study import require_jobs, run_part, run_study

    require_jobs(namespace.jobs)
    part = None if namespace.part is None else _part(namespace.part)
    if namespace.ray_address is not None and namespace.launcher != "ray":
        raise ValueError("--ray-address needs --launcher ray")
    if namespace.launcher == "slurm":
        if part is not None:
            raise ValueError("--part is what --launcher slurm gives to each task: leave one of them out")
        _write_array(study, namespace)
        return
    launcher: Launcher | None = None
    if namespace.launcher == "ray":
        from maxl.experiments.studies.ray import RayTasks

        launcher = RayTasks(namespace.ray_address)
    if part is None:
        run_study(study, namespace.out, namespace.jobs, launcher)
    else:
        whole = command_line(without(namespace.typed, "--part"))
        run_part(study, namespace.out, part, namespace.jobs, launcher, whole)


def without(words: Sequence[str], flag: str) -> list[str]:
    """A command without a flag that takes one value, in either way of writing it.

    Example:
        >>> without(["compare", "--launcher", "slurm", "--jobs=2"], "--launcher")
        ['compare', '--jobs=2']
    """
    kept, skip = [], False
    for word in words:
        if not skip and word != flag and not word.startswith(f"{flag}="):
            kept.append(word)
        skip = not skip and word == flag
    return kept


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise ValueError(f"--part needs K/N with K from 1 to N, as 2/12; got {text!r}")
    return int(found[1]), int(found[2])


def _write_array(study: Study, namespace: argparse.Namespace) -> None:
    """Writes the script of a job array into the study's folder, and says what to type."""
    from maxl.experiments.runs.files import write_at_once
    from maxl.experiments.studies.slurm import array_script

    out: Path = namespace.out
    collect = without(namespace.typed, "--launcher")
    planned = study.plan()
    if devices := sorted({p.config.device for p in planned if ":" in p.config.device}):
        raise ValueError(
            f"--device {devices[0]} is one of a single machine; with --launcher slurm each run gets its own: give "
            f"{devices[0].partition(':')[0]}"
        )
    missing = study.missing(out, tell=note)
    if not missing:
        print(f"No run is missing. The table: {shown(command_line(collect))}")
        return
    gpu = any(p.config.device == "cuda" for p in planned)
    if not gpu and any(p.config.device == "auto" for p in planned):
        note("no GPU is asked for: --device cuda asks for one for each run")
    script = array_script(
        [sys.executable, "-m", "maxl", *collect],
        missing,
        len(planned),
        folder=Path.cwd(),
        threads=max(p.config.threads for p in planned),
        gpu=gpu,
        most=namespace.jobs,
    )
    content = os.fsencode(script)  # names of folders are any bytes
    out.mkdir(parents=True, exist_ok=True)
    write_at_once(out / _SCRIPT, content)
    print(f"{len(missing)} of {len(planned)} runs are missing. Train them:")
    print(f"  {shown(shlex.join(['sbatch', os.fspath(out / _SCRIPT)]))}")
    print("When they have ended, the table (which trains what is missing still):")
    print(f"  {shown(command_line(collect))}")
