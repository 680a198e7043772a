"""Commands in several processes, as torchrun would start them, but forked from one that has imported all they need."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int | None
    stdout: str
    stderr: str


def together(
    arguments: Sequence[str],
    folder: Path,
    size: int = 2,
    environment: Mapping[str, str] | None = None,
    machines: Sequence[Path] = (),
) -> list[Ended]:
    """``maxl`` in ``size`` processes that know of each other, started in a folder, or each in that of its machine."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["maxl.experiments.runs.trainer", "sklearn.datasets"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        told = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        process = context.Process(
            target=_one,
            args=(list(arguments), folder, {**told, **(environment or {})}, rank, *machines[rank : rank + 1]),
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join(TIMEOUT)
    ended = [
        Ended(p.exitcode, *((folder / f"{stream}{rank}").read_text() for stream in ("stdout", "stderr")))
        for rank, p in enumerate(processes)
    ]
    for process in processes:
        process.kill()
    for rank in range(size):
        for stream in ("stdout", "stderr"):
            (folder / f"{stream}{rank}").unlink()
    return ended


def _one(
    arguments: list[str], folder: Path, environment: dict[str, str], rank: int, machine: Path | None = None
) -> None:
    os.environ.update(environment)
    os.chdir(machine or folder)
    for stream in (sys.stdout, sys.stderr):
        name = folder / f"{'stdout' if stream is sys.stdout else 'stderr'}{rank}"
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), stream.fileno())
    from maxl.experiments.cli import main

    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)
