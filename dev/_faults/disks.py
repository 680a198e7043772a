"""Disks that are full or cannot be written."""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from _faults.commands import EPOCHS, TINY, Outcome, run, train, what_counts


def full(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """A disk that is full at some moment: one sentence, and with room again the same run to the last bit."""
    assert train("maxl", work / "whole").code == 0
    good = what_counts(work / "whole")
    largest = max(file.stat().st_size for file in (work / "whole").rglob("*"))
    for case in range(cases):
        out, more = work / f"run {case}", ["--tensorboard"] if case % 4 == 3 else []
        limit = _no_file_above(chance.randrange(largest)) if case % 2 else _full_from(chance.randrange(1, 40))
        result = train("maxl", out, *more, before=limit)
        if result.code not in (0, 2) or (result.code == 2 and not result.refused):
            yield "wrong", result.told()
            continue
        if (
            result.code == 2 and not (out / "summary.json").exists()
        ):  # the last file may be there all the same
            begun = (out / "config.yaml").exists()
            begin = ["train", *TINY, "--epochs", EPOCHS, "--method", "maxl", *more, "--out", out]
            again = run(*(["train", "--resume", out] if begun else begin))
            if again.code != 0:
                yield "wrong", f"with room again: {again.told()}"
                continue
        yield ("right", "") if what_counts(out) == good else ("wrong", "with room again: another result")


def _no_file_above(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _full_from(write: int) -> Callable[[], None]:
    """No space left from the so-many-th file on that is brought to the disk."""

    def install() -> None:
        sync, count = os.fsync, 0

        def full(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count >= write:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        importlib.import_module("os").fsync = full  # type: ignore[attr-defined]

    return install


def read_only(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Folders that may not be written: refused; what only reads them works."""
    del cases, chance
    assert train("maxl", work / "run").code == 0
    shutil.copytree(work / "run", work / "stopped")
    (work / "stopped" / "summary.json").unlink()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(work / "a.png")
    (work / "free").mkdir()
    (work / "free").chmod(0o777)
    for path in sorted(work.rglob("*")):
        if path.name != "free":
            path.chmod(0o555 if path.is_dir() else 0o444)
    work.chmod(0o555)
    refused: list[list[Any]] = [
        ["train", *TINY, "--epochs", 1, "--out", work / "new"],
        ["train", "--resume", work / "stopped"],
        ["report", work / "run"],
        ["predict", work / "run", work / "a.png", "--out", work / "run" / "p.csv"],
        ["export", work / "run", "--out", work / "run" / "m.safetensors"],
        ["compare", *TINY, "--epochs", 1, "--methods", "single", "--seeds", 0, "--out", work / "study"],
    ]
    fine: list[list[Any]] = [
        ["predict", work / "run", work / "a.png"],
        ["report", work / "run", "--out", work / "free" / "report.html"],
        ["export", work / "run", "--out", work / "free" / "m.safetensors"],
    ]
    try:
        for line in refused:
            result = run(*line, before=_bound_by_permissions)
            yield ("refused" if result.refused else "wrong", f"{line[0]}: {result.told()}")
        for line in fine:
            result = run(*line, before=_bound_by_permissions)
            yield ("right" if result.code == 0 else "wrong", f"{line[0]}: {result.told()}")
    finally:
        for path in [work, *work.rglob("*")]:
            path.chmod(0o755)


def _bound_by_permissions() -> None:
    """Gives up the right of root to read and write everything: Linux's capabilities 1 and 2."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of the low 32 and the high ones
    assert libc.capget(header, sets) == 0
    for i in range(3):
        sets[i] &= ~0b110
    assert libc.capset(header, sets) == 0
