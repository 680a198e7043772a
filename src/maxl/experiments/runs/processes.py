"""One run in several processes, as torchrun starts them: each takes its part of every batch, and the first one writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.fingerprint import what_changed
from maxl.experiments.runs.launch import Elsewhere, launched, restarts
from maxl.worlds import Alone, DataParallel, Reducer, SyncBatchNorm, World

_PATIENCE = timedelta(hours=2)  # for a process that still loads data, or looks at a large test set
_OF_WHOLE_BATCHES = {"contrastive": "compares", "small-loss": "selects among"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """Those of a run.

    Attributes:
        rank: Which one this is, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1
    _said: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)  # by ``ready``

    @property
    def alone(self) -> bool:
        """Whether there is one."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def world(self) -> World:
        """For a learner, whose construction says ``ready`` before its processes talk to each other."""
        return Alone() if self.alone else _Readied(self.ready)

    def check(self, config: RunConfig) -> None:
        """ValueError if several processes could not give what one gives."""
        if self.alone:
            return
        if config.compile:
            raise ValueError("--compile is for one process: drop it, or torchrun")
        if config.method in _OF_WHOLE_BATCHES:
            raise ValueError(
                f"--method {config.method} {_OF_WHOLE_BATCHES[config.method]} the samples of a batch, of which each process has a "
                "part: use it without torchrun"
            )

    def synchronise(self, *modules: nn.Module | None) -> None:
        """BatchNorm of networks is over the whole batch, as in one process."""
        if not self.alone:
            for module in modules:
                if module is not None:
                    SyncBatchNorm.convert(module)

    def seed(self) -> None:
        """Draws of a pass, such as dropout's, differ from process to process; those of the first stay as they were."""
        if not self.first:
            torch.manual_seed(torch.initial_seed() + (self.rank << 32))

    def first_of(self, value: Any) -> Any:
        """What the first process has, in all of them."""
        return value if self.alone else self._everybodys(value)[0]

    def total(self, number: float) -> float:
        """The sum over all processes."""
        if self.alone:
            return number
        return float(sum(self._everybodys(number)))

    def together(self, state: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        """A state with what the other processes have under ``names``, in the order of their ranks."""
        if self.alone:
            return state
        return {**state, "others": self._everybodys({name: state[name] for name in names})[1:]}

    def own(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """This process's part of a state that ``together`` has put together.

        Raises:
            ValueError: if it is of another number of processes.
        """
        others = state.get("others", [])
        if len(others) + 1 != self.size:
            raise ValueError(
                f"it was written by a run in {len(others) + 1} processes and goes on in as many alone; got {self.size}: "
                f"use torchrun --nproc-per-node={len(others) + 1}"
            )
        return {**state, **(others[self.rank - 1] if self.rank else {})}

    def of_first(self, act: Callable[[], _T]) -> _T:
        """What ``act`` gives in the first process, the only one that calls it; a copy of it elsewhere.

        Raises:
            Elsewhere: in the others, where it fails in the first one, which raises its error.
        """
        if self.alone:
            return act()
        error: Exception | None = None
        said: list[Any] = [None, False]
        if self.first:
            try:
                said = [act(), True]
            except Exception as mine:  # the others wait for an answer, whatever happens here
                error = mine
        dist.broadcast_object_list(said)
        if error is not None:
            raise error
        if not said[1]:
            raise Elsewhere
        result: _T = said[0]
        return result

    def agreed(self, act: Callable[[], _T]) -> _T:
        """What ``act`` gives here, where it fails nowhere.

        Raises:
            Elsewhere: where it has failed in a process before this one, which raises its error.
        """
        if self.alone:
            return act()
        error: Exception | None = None
        try:
            result = act()
        except Exception as mine:  # the others wait for an answer, whatever happens here
            error = mine
        failed = self._everybodys(error is not None)
        if error is not None and not any(failed[: self.rank]):
            raise error
        if any(failed):
            raise Elsewhere
        return result

    def built(self, act: Callable[[], _T]) -> _T:
        """What ``act`` gives here, which says ``ready`` before it talks to the others.

        Raises:
            Elsewhere: where it has failed before that in a process before this one, which raises its error. One that fails
                later raises its own, and ends; the others hear that it is gone.
        """
        told = len(self._said)
        try:
            return act()
        except Elsewhere:
            raise
        except Exception as mine:
            if self.alone or len(self._said) > told or True not in self._everybodys(True)[: self.rank]:
                raise
            raise Elsewhere from mine

    def compare_data(self, own: dict[str, Any]) -> None:
        """Within ``built``: all processes have loaded the same data, of which each takes its part of every batch.

        Args:
            own: The fingerprint of this process's.

        Raises:
            ValueError: in all of them, where one has others.
            Elsewhere: where one has failed before this.
        """
        if self.alone:
            return
        everybodys: list[Any] = self._everybodys(own)
        if True in everybodys:
            raise Elsewhere
        for rank, other in enumerate(everybodys):
            if (changed := what_changed(everybodys[0], other)) is not None:
                raise ValueError(
                    f"--data needs to be the same in every process; that of process {rank} differs from the first's in {changed}: "
                    "copy the files to all machines alike"
                )

    def ready(self) -> None:
        """Within ``built``: nothing has failed here so far.

        Raises:
            Elsewhere: where something has in another process.
        """
        if self.alone:
            return
        failed = any(self._everybodys(False))
        self._said.append(True)
        if failed:
            raise Elsewhere

    def _everybodys(self, value: _T) -> list[_T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


class _Readied(DataParallel):
    """All processes, which hear from each other first that nothing has failed so far."""

    def __init__(self, ready: Callable[[], None]) -> None:
        super().__init__()
        self._ready = ready

    def reducer(self) -> Reducer:
        """As ``DataParallel.reducer``; the first thing that a learner asks for."""
        self._ready()
        return super().reducer()


ALONE = Processes()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Within: the processes that torchrun has started form a group; ALONE where it has not.

    Args:
        device: As in a config. On GPUs each process takes the one of its local rank, and they talk by NCCL; by gloo
            on CPUs.

    Raises:
        ConnectionResetError: within, once another process has ended too early.
    """
    if launched() == 1:
        yield ALONE
        return
    on_gpu = device.split(":")[0] == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
        # torchrun may keep its store when it starts processes again, and with it the addresses of those that are gone.
        fresh = dist.PrefixStore(f"start {restarts()}", store)  # type: ignore[attr-defined]
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=_PATIENCE)
        yield Processes(rank, size)
    except RuntimeError as error:  # of torch.distributed, too
        if not _lost(error):
            raise
        raise ConnectionResetError(
            "another process of this run ended before its time; what it said stands above, if it could"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost(error: Exception) -> bool:
    """Whether an error says that another process no longer answers; gloo says so in words alone."""
    words = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Connection refused",
        "Timed out",
        "Broken pipe",
    )
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or any(
        w in str(error) for w in words
    )
