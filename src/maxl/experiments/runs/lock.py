"""One process at a time writes into the folder of a run or a study."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from maxl.experiments.runs.files import parse_json, write_at_once
from maxl.experiments.runs.processes import Processes

_LOCK, _HOLDER = ".lock", ".holder"
_NAMED_WITHIN = 1.0  # seconds in which a new holder has written its name


@contextmanager
def locked(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Within, this process alone writes into a folder, which is made if it is missing.

    The lock is the operating system's and ends with its process, however that ends, so none is ever left behind.

    Args:
        folder: Of a run or a study.
        wait: Seconds to wait for another holder to end.

    Raises:
        ValueError: if another process holds the folder; the message names it.
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{folder} is in use by {_holder(folder)}: wait until it ends, or stop it") from None
    try:
        holder = {"process": os.getpid(), "host": socket.gethostname()}
        write_at_once(folder / _HOLDER, json.dumps(holder).encode())
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def locked_by_first(folder: Path, processes: Processes, *, wait: float = 0.0) -> Iterator[None]:
    """``locked``, where several processes train one run: the first of them holds the folder.

    Raises:
        Elsewhere: in the others, if the first one cannot have it.
    """
    held = locked(folder, wait=wait)
    processes.of_first(held.__enter__)
    try:
        yield
    finally:
        if processes.first:
            held.__exit__(None, None, None)


def require_unlocked(folder: Path, *, wait: float = 0.0) -> None:
    """What ``locked`` would say, without a file that is left in the folder.

    Raises:
        ValueError: if another process holds the folder.
    """
    if (folder / _LOCK).exists():
        with locked(folder, wait=wait):
            pass


def _holder(folder: Path) -> str:
    """Who holds a folder, in words."""
    until = time.monotonic() + _NAMED_WITHIN
    while True:
        try:
            holder = parse_json((folder / _HOLDER).read_bytes(), "holder")
        except (OSError, ValueError):  # not written yet, or gone again
            if time.monotonic() > until:
                return "another process"
            time.sleep(0.05)
        else:
            here = holder.get("host") == socket.gethostname()
            return f"process {holder.get('process')}" + ("" if here else f" on {holder.get('host')}")
