"""Processes that train the runs of a study: one run each at a time, none outliving the study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.studies.launcher import Crew, Job
from maxl.experiments.tracking import TrackerFactory

_MOST_AT_A_TIME = 16  # by default: each has PyTorch and the data set in memory of its own
# Of a process that ends without a word. The last one: it runs the script again from its top, as a new process does.
_CAUSES = "killed, out of memory, or started by a script of yours outside of `if __name__ == '__main__':`"
_TRIES = 2  # of a run whose process dies, which a full memory does to an innocent one too
_PATIENCE = 30.0  # seconds in which a process that is asked to end saves what it has reported
_STALE = 10.0  # seconds in which a process whose study has ended does so too


class LocalProcesses:
    """Processes of this machine: one on each GPU, or on the CPU as many as its cores hold, at most 16.

    Args:
        wait: Seconds to wait for another process to leave the folder of a run.
    """

    elsewhere = False

    def __init__(self, wait: float = _STALE) -> None:
        self.wait = wait

    @contextmanager
    def open(self, out: Path, configs: Sequence[RunConfig]) -> Iterator[Crew]:
        """As ``Launcher.open``; processes start with the first runs."""
        yield _LocalCrew(configs, self.wait)


class _LocalCrew:
    def __init__(self, configs: Sequence[RunConfig], wait: float) -> None:
        self._wait = wait
        self._devices = max(device_count(config.device) for config in configs)
        self._places = runs_at_a_time(configs)

    def at_a_time(self, most: int | None) -> int:
        """As ``Crew.at_a_time``."""
        return most or self._places

    def train(
        self,
        jobs: Sequence[Job],
        *,
        most: int | None,
        tick: Callable[[int], None],
        track: Sequence[TrackerFactory] = (),
    ) -> Mapping[Path, str]:
        """As ``Crew.train``; a run that cannot be made ends the others."""
        processes = max(1, min(self.at_a_time(most), len(jobs)))
        dead = run_jobs(
            jobs, processes=processes, devices=self._devices, tick=tick, track=track, wait=self._wait
        )
        return {path: f"the process of {path} died twice ({_CAUSES})" for path in dead}


def runs_at_a_time(configs: Sequence[RunConfig]) -> int:
    """Of some runs as many as this machine has GPUs for, or processors, where nobody says how many."""
    fitting = (os.cpu_count() or 1) // max(config.threads for config in configs)
    return max(1, max(device_count(config.device) for config in configs) or min(_MOST_AT_A_TIME, fitting))


def device_count(name: str) -> int:
    """GPUs among which runs on a device of that name may be spread: 0 for the CPU, 1 for one that is numbered."""
    if name == "cpu" or not torch.accelerator.is_available():
        return 0
    return 1 if ":" in name else torch.accelerator.device_count()


def run_jobs(
    jobs: Sequence[Job],
    *,
    processes: int,
    devices: int,
    tick: Callable[[int], None],
    track: Sequence[TrackerFactory] = (),
    wait: float = _STALE,
) -> list[Path]:
    """Trains runs, each in a process of its own.

    Args:
        jobs: The runs.
        processes: Runs at a time, at least 1.
        devices: GPUs that processes share in turn; 0 or 1 leaves the choice to each run.
        tick: Called about twice a second with the number of runs that have not ended.
        track: What makes trackers of each run, besides those that its config names; other processes import it.
        wait: Seconds to wait for another process to leave the folder of a run.

    Returns:
        The folders of runs whose process died twice. Runs that diverge have ended: their folders say so.

    Raises:
        ValueError: if a run cannot be made; the others stop and keep what they have.
    """
    before = set(multiprocessing.active_children())
    places = [_Place(i % devices if devices > 1 else None) for i in range(processes)]
    waiting, running = deque(jobs), dict[Future[None], tuple[_Place, Job]]()
    deaths = Counter[Path]()
    try:
        while waiting or running:
            for place in [p for p in places if all(p is not taken for taken, _ in running.values())]:
                if waiting:
                    job = waiting.popleft()
                    running[place.pool.submit(execute, *job, track, wait=wait)] = (place, job)
            done, _ = wait_for(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                place, job = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool:
                    place.renew()
                    path = job[1]
                    deaths[path] += 1
                    if deaths[path] < _TRIES:
                        waiting.appendleft(job)
                        message = f"{path}: its process died ({_CAUSES}); it is started once more"
                        warnings.warn(message, RunWarning, stacklevel=2)
            tick(len(waiting) + len(running))
    except BaseException:
        _end(places, before)
        raise
    for place in places:
        place.pool.shutdown()
    return [path for path, count in deaths.items() if count >= _TRIES]


class _Place:
    """A pool of one process, so that a death is the death of one run."""

    def __init__(self, device: int | None) -> None:
        self._device = device
        self.renew()

    def renew(self) -> None:
        """A new process, made when it is first used."""
        context = multiprocessing.get_context("spawn")  # fork and threads do not mix
        self.pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=start_worker, initargs=(self._device,)
        )


def _end(places: Sequence[_Place], before: set[BaseProcess]) -> None:
    """Ends the processes that a study has started, with time to save what they have reported."""
    for place in places:
        place.pool.shutdown(wait=False, cancel_futures=True)
    ours = [process for process in multiprocessing.active_children() if process not in before]
    for process in ours:
        process.terminate()
    for process in ours:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()


def start_worker(device: int | None) -> None:
    """In a new process: takes its GPU, leaves Ctrl-C to the study's process, and ends when that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device is not None:
        torch.accelerator.set_device_index(device)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # of a process that multiprocessing has started
    parent.join()
    os._exit(1)  # as if killed too: every file is whole at any moment


def execute(
    config: RunConfig,
    path: Path,
    label: str,
    track: Sequence[TrackerFactory] = (),
    *,
    wait: float = _STALE,
) -> None:
    """One run, begun or continued; one that another process ends meanwhile is taken as it is.

    Args:
        config: Its settings.
        path: Its folder.
        label: Its name in the table.
        track: What makes trackers of it, besides those that its config names.
        wait: Seconds to wait for another process to leave the folder.

    Raises:
        ValueError: if the run cannot be made.
    """
    folder = RunFolder(path)
    try:
        if not folder.started:
            train(config, path, label=label, track=track, wait=wait)
        elif not _ended(folder):
            stored = folder.read_config(trust=True)
            if (stored.trunk, stored.generator_trunk) != (config.trunk, config.generator_trunk):
                raise ValueError("its config names another trunk than the study")
            resume(path, label=label, track=track, trust=True, wait=wait)  # no other code than the study's
    except FloatingPointError:
        return  # the folder says so
    except (ValueError, OSError) as error:
        if not _ended(folder):
            named = str(error).startswith(f"{path} ")
            raise ValueError(str(error) if named else f"{path}: {error}") from error


def _ended(folder: RunFolder) -> bool:
    return folder.finished or folder.diverged
