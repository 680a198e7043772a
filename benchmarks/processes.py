"""Several processes of a benchmark, and what each of them hands over to the others."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor

import maxl
from maxl.worlds import World

CALLS = ("all_reduce", "all_gather", "broadcast")


@dataclass
class Sending:
    """Something that a process hands over.

    Attributes:
        bytes: Of it.
        sent: What a clock says by then.
        awaited: The same, each time that the process goes no further without it.
    """

    bytes: int
    sent: int
    awaited: list[int] = field(default_factory=list)


class _Watched:
    """Handed out in place of a message's handle: notes when it is waited for."""

    def __init__(self, work: dist.Work, note: Callable[[], None]) -> None:
        self._work, self._note = work, note

    def wait(self) -> None:
        self._note()
        self._work.wait()


@contextmanager
def sendings(clock: Callable[[], int]) -> Iterator[list[Sending]]:
    """What this process hands over within the block, in the order of its calls.

    Args:
        clock: Of whatever the caller counts.
    """
    told: list[Sending] = []

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            mine = args[1] if isinstance(args[0], list) else args[0]  # all_gather's first are places for all
            sending = Sending(mine.numel() * mine.element_size(), clock())
            told.append(sending)
            if not options.get("async_op"):
                sending.awaited.append(clock())
            work = original(*args, **options)
            return work and _Watched(work, lambda: sending.awaited.append(clock()))

        return call

    with mock.patch.multiple(dist, **{name: watched(getattr(dist, name)) for name in CALLS}):
        yield told


def started(script: str, count: int, role: str, *arguments: object) -> list[Any]:
    """The last line that each of ``count`` processes of a script prints, read as JSON.

    Args:
        script: Its file, called as ``script --ROLE RANK STORE *arguments``, where STORE is a file to meet at.
        count: Of processes.
        role: What they are to do.
        arguments: The same for all.

    Raises:
        RuntimeError: if a process ends with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [sys.executable, script, f"--{role}", str(rank), f"{folder}/store", *map(str, arguments)]
            for rank in range(count)
        ]
        running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
        told = [p.communicate()[0] for p in running]
    if any(p.returncode for p in running):
        raise RuntimeError(f"{script}: one of {count} processes ended with an error")
    return [json.loads(text.splitlines()[-1]) for text in told]


def meet(rank: int, store: str, count: int, backend: str = "gloo") -> None:
    """Joins the others of ``started`` in a group."""
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=count)


def part_of(world: World | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The samples of this process, of those of all: all of them where it is alone."""
    if not isinstance(world, maxl.DataParallel):
        return tensors
    return tuple(t.tensor_split(world.size)[world.rank] for t in tensors)
