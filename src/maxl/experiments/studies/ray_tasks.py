"""What runs on the machines of a Ray: a look at the study's folder, and a run."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from maxl.experiments.runs.files import RunWarning
from maxl.experiments.studies.launcher import LEASE
from maxl.experiments.studies.workers import execute

DISTRIBUTION = "maxl-torch"


@dataclass(frozen=True)
class Mark:
    """A file that is the same one on every machine, if the folder is."""

    path: Path
    token: str

    def seen(self) -> bool:
        """Whether it is."""
        try:
            return self.path.read_text() == self.token
        except OSError:
            return False


@dataclass(frozen=True)
class Ended:
    """What a task says of its run: why it could not be made, if so, where in the code, and what its owner should know."""

    error: str | None = None
    trace: str = ""
    told: tuple[str, ...] = ()


def look(mark: Mark) -> tuple[bool, str]:
    """On a machine of the Ray: whether it sees the study's folder, and the version of the package there."""
    return mark.seen(), metadata.version(DISTRIBUTION)


def train_task(packed: bytes, path: Path, mark: Mark, place: Path, paths: Sequence[str]) -> Ended:
    """On a machine of the Ray: one run, made where the study's process would make it.

    Args:
        packed: Its config and label and what makes its trackers, pickled: their modules may be found by ``paths`` alone.
        path: Its folder.
        mark: Of the study's folder.
        place: The study's working folder, which names of data may begin at.
        paths: Where the study's process finds modules.
    """
    if not mark.seen():  # of a machine that has come since
        return Ended(f"{path}: its machine does not see the study's folder {mark.path.parent}")
    if place.is_dir():
        os.chdir(place)
    sys.path.extend(p for p in paths if p not in sys.path)
    told: list[str] = []
    with _interruptible(), warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **others: Any) -> None:
            if issubclass(category, RunWarning):
                told.append(str(message))
            else:
                shown(message, category, *rest, **others)

        warnings.showwarning = show
        warnings.simplefilter("always", RunWarning)
        try:
            config, label, track = pickle.loads(packed)
            execute(config, path, label, track, wait=LEASE)
        except Exception as error:  # said in words, since not every error can be sent
            said = f"{type(error).__name__}: {error}"
            known = isinstance(error, (ValueError, OSError))
            return Ended(str(error) if known else f"{path}: {said}", traceback.format_exc(), tuple(told))
    return Ended(told=tuple(told))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within, signals of Ctrl-C, which Ray blocks and which a run raises anew after it has held one back, arrive."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows, where none is blocked
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
