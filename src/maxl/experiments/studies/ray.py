"""Runs as tasks of Ray: on a Ray of many machines, or on one that is started here for as long as it is needed.

Ray places the runs and notices machines that are gone. Retrying is ours: Ray's own retries say nothing to the user, and begin
again without end where memory is short.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import secrets
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import RunWarning, write_at_once
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.studies.launcher import Crew, Job
from maxl.experiments.studies.ray_connection import connected, last_line
from maxl.experiments.studies.ray_tasks import DISTRIBUTION, Ended, Mark, look, train_task
from maxl.experiments.studies.remaining import lines
from maxl.experiments.tracking import TrackerFactory

_logger = logging.getLogger(__name__)

_MARK = ".shared-"  # and a number, in the study's folder while it goes on: who reads what it holds sees the same folder
_MOST_HERE = (
    16  # runs at a time on a Ray that is started here: each has PyTorch and the data set in memory of its own
)
_TRIES = (
    2  # of a run whose process dies, without an epoch between: a full memory does so to an innocent one too
)
_PATIENCE = 30.0  # seconds in which a run that is cancelled saves what it has reported
_ANSWER = 120.0  # seconds in which a machine has started a process and looked at the folder


class RayTasks:
    """Tasks of Ray, each of which asks for the run's CPU threads and, where it trains on CUDA, for one GPU.

    Args:
        address: Of a Ray that is there, as HOST:PORT, or "auto" for the one of this machine. None: the one that the
            environment names in RAY_ADDRESS; else one is started here, and ended. A Ray to which this process is connected
            already comes first, and stays.

    Raises:
        ValueError: if the address is none of these.
    """

    elsewhere = True

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        if self.address is not None and re.fullmatch(r"auto|[^/]+:\d+", self.address) is None:
            raise ValueError(
                f"--ray-address needs HOST:PORT or auto, where RAY_ADDRESS is not to be taken; got {self.address}: call this "
                "on a machine of that Ray"
            )

    @contextmanager
    def open(self, out: Path, configs: Sequence[RunConfig]) -> Iterator[Crew]:
        """As ``Launcher.open``; every machine is asked whether it sees the folder, and has this version of maxl.

        Raises:
            ValueError: if ray is not installed or none answers, if no machine of it has what a run needs, if one
                does not see the folder, or has another version.
        """
        if find_spec("ray") is None:
            raise ValueError('--launcher ray needs ray: pip install "maxl-torch[ray]"')
        cores = max(os.cpu_count() or 1, *(config.threads for config in configs))
        most = _MOST_HERE * max(config.threads for config in configs)
        with connected(self.address, min(cores, most)) as ray:
            crew = _RayCrew(ray, configs)
            with _marked(out) as mark:
                crew.require_shared(mark)
                yield crew


class _RayCrew:
    def __init__(self, ray: Any, configs: Sequence[RunConfig]) -> None:
        self._ray = ray
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        self._gpus = any(node["Resources"].get("GPU", 0) for node in self._nodes)
        needs = [self._needs(config) for config in configs]
        most = {name: max(need[name] for need in needs) for name in ("num_cpus", "num_gpus")}
        self._places = sum(self._room(node["Resources"], most) for node in self._nodes)
        if not self._places:
            gpu = " and a GPU" if most["num_gpus"] else ""
            raise ValueError(
                f"--launcher ray needs a machine with {most['num_cpus']:g} free CPUs{gpu} for a run; the Ray has "
                f"{', '.join(self._has(node) for node in self._nodes) or 'no machine'}: add one, or ask for less with "
                "--threads and --device"
            )

    def at_a_time(self, most: int | None) -> int:
        """As ``Crew.at_a_time``."""
        return min(most or self._places, self._places)

    def require_shared(self, mark: Mark) -> None:
        """ValueError unless every machine sees the study's folder, and has this version of the package."""
        self._mark = mark
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        looks = {}
        for node in self._nodes:
            place = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            # No CPU is asked for: a machine that is busy answers, too.
            task = self._ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(look)
            looks[task.remote(mark)] = node["NodeManagerHostname"]
        self._ray.wait(list(looks), num_returns=len(looks), timeout=_ANSWER)
        here = metadata.version(DISTRIBUTION)
        blind = []
        for answer, name in looks.items():
            try:
                seen, version = self._ray.get(answer, timeout=0)
            except self._ray.exceptions.RayError as error:
                raise ValueError(
                    f"every machine of the Ray needs this maxl and Python; {name} cannot start it: {last_line(error)}"
                ) from error
            if version != here:
                raise ValueError(
                    f"every machine of the Ray needs the same maxl; {name} has {version}, this one {here}: install one there"
                )
            if not seen:
                blind.append(name)
        if blind:
            raise ValueError(
                f"--out needs a folder that every machine of the Ray sees; {mark.path.parent} is another one, or none, on "
                f"{', '.join(sorted(blind))}: name one of a shared file system, mounted at the same place"
            )

    def train(
        self,
        jobs: Sequence[Job],
        *,
        most: int | None,
        tick: Callable[[int], None],
        track: Sequence[TrackerFactory] = (),
    ) -> Mapping[Path, str]:
        """As ``Crew.train``; a run that cannot be made does not end the others.

        A run whose process or machine is gone goes on from its checkpoint, unless this happens twice without an epoch
        between.
        """
        waiting, running = deque(jobs), dict[Any, tuple[Job, int]]()
        deaths, failed = dict[Path, int](), dict[Path, str]()
        try:
            while waiting or running:
                while waiting and (most is None or len(running) < most):
                    job = waiting.popleft()
                    running[self._submit(job, track)] = (job, lines(RunFolder(job[1])))
                done, _ = self._ray.wait(list(running), timeout=0.5)
                for task in done:
                    job, before = running.pop(task)
                    path = job[1]
                    try:
                        ended: Ended = self._ray.get(task)
                    except self._ray.exceptions.RayError as error:
                        _logger.debug("%s: %s", path, error)
                        progressed = lines(RunFolder(path)) > before
                        deaths[path] = 1 if progressed else deaths.get(path, 0) + 1
                        if deaths[path] < _TRIES:
                            waiting.appendleft(job)
                            warnings.warn(
                                f"{path}: its process died (killed, out of memory, or its machine is gone); it goes on "
                                "from its checkpoint",
                                RunWarning,
                                stacklevel=2,
                            )
                        else:
                            failed[path] = (
                                f"the process of {path} died twice without an epoch between: {last_line(error)}"
                            )
                        continue
                    for message in ended.told:
                        warnings.warn(message, RunWarning, stacklevel=2)
                    if ended.error is not None:
                        _logger.debug("%s", ended.trace)
                        failed[path] = ended.error.replace(str(path.absolute()), str(path))
                tick(len(waiting) + len(running))
        except BaseException:
            self._cancel(list(running))
            raise
        return failed

    def _submit(self, job: Job, track: Sequence[TrackerFactory]) -> Any:
        config, path, label = job
        # With no retries of Ray's own, among them those after a full memory, which it does not count.
        task = self._ray.remote(max_retries=0, **self._needs(config))(train_task)
        packed = pickle.dumps((config, label, tuple(track)))
        return task.remote(packed, path.absolute(), self._mark, Path.cwd(), list(sys.path))

    def _cancel(self, tasks: list[Any]) -> None:
        """Ends tasks as Ctrl-C would, with time to save what they have reported."""
        for task in tasks:
            self._ray.cancel(task)
        if tasks:
            _, left = self._ray.wait(tasks, num_returns=len(tasks), timeout=_PATIENCE)
            for task in left:
                self._ray.cancel(task, force=True)

    def _needs(self, config: RunConfig) -> dict[str, float]:
        """What a run asks Ray for; "auto" is a GPU where the Ray has any."""
        if ":" in config.device:
            raise ValueError(
                f"--device {config.device} is one of a single machine; with --launcher ray each run gets its own: give "
                f"{config.device.partition(':')[0]}"
            )
        gpu = config.device == "cuda" or (config.device == "auto" and self._gpus)
        return {"num_cpus": float(config.threads), "num_gpus": float(gpu)}

    @staticmethod
    def _room(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
        """Runs that a machine holds at a time."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        return min(int(has.get(names[name], 0) // need) for name, need in needs.items() if need)

    @staticmethod
    def _has(node: Mapping[str, Any]) -> str:
        has = node["Resources"]
        return f"{node['NodeManagerHostname']}: {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"


@contextmanager
def _marked(out: Path) -> Iterator[Mark]:
    """The study's folder with a mark in it, which is gone in the end; so is the folder, where it is new and empty."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    mark = Mark(out.absolute() / f"{_MARK}{secrets.token_hex(4)}", secrets.token_hex(16))
    try:
        write_at_once(mark.path, mark.token.encode())
        yield mark
    finally:
        mark.path.unlink(missing_ok=True)
        if made and not any(out.iterdir()):
            out.rmdir()
