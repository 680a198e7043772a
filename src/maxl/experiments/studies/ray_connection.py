"""A connection to a Ray: to one that is there, or to one that is started here for as long as it is needed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO

_logger = logging.getLogger(__name__)

_CONNECT = 10.0  # seconds in which a Ray that is there takes a connection
_STORE = 80 << 20  # bytes of Ray's shared memory, near the least it takes: runs exchange files alone
_LONGEST = (
    40  # characters of a temporary folder in which Ray's sockets, whose names are limited, still find a place
)


@contextmanager
def connected(address: str | None, cores: int) -> Iterator[Any]:
    """The module ray, connected: to the Ray to which this process is already, to one at an address, or to a new one.

    Args:
        address: Of a Ray that is there, as HOST:PORT, or "auto" for the one of this machine; None for a new one.
        cores: CPUs of a new one.

    Raises:
        ValueError: if none answers, or none can be started.
    """
    # Else Ray packs the working folder and starts `uv run` on every machine, for a process that uv has started.
    with _environment(RAY_ENABLE_UV_RUN_RUNTIME_ENV="0", RAY_USAGE_STATS_ENABLED="0"):
        import ray

        with redirect_stdout(_WithoutRay(sys.stdout)):
            if ray.is_initialized():
                yield ray
            elif address is not None:
                with _ended(ray):
                    _begin(ray, address)
                    yield ray
            else:
                short = len(tempfile.gettempdir()) <= _LONGEST or not Path("/tmp").is_dir()
                where = tempfile.TemporaryDirectory(
                    prefix="maxl-ray-", dir=None if short else "/tmp", ignore_cleanup_errors=True
                )
                with where as folder, _ended(ray):
                    _begin(
                        *(ray, "local"),
                        num_cpus=cores,
                        include_dashboard=False,
                        object_store_memory=_STORE,
                        _temp_dir=folder,
                    )
                    yield ray


def _begin(ray: Any, address: str, **options: Any) -> None:
    """``ray.init``, whose errors are many, without its messages."""
    try:
        if address not in ("local", "auto"):
            _require_answer(address)
        with _own_signals():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if address == "local":
            raise ValueError(f"--launcher ray cannot start a Ray here: {last_line(error)}") from error
        raise ValueError(
            f"--ray-address {address} cannot be used here: {last_line(error)}; `ray start --head` starts a Ray, and "
            "`ray start --address=HOST:PORT` lets a machine take part in it"
        ) from error


def _require_answer(address: str) -> None:
    """OSError unless something listens at HOST:PORT, for which Ray would wait many minutes."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT):
        pass


@contextmanager
def _ended(ray: Any) -> Iterator[None]:
    """In the end the connection is closed, and what was started for it has ended."""
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Within, Ray takes SIGTERM for itself, as it does while it connects; then whose it was gets it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Within, variables of the environment have these values where they have none."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


class _WithoutRay(TextIOBase):
    """Standard output without what a thread of Ray's prints there, which a user hears with --verbose."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Passes text on, or notes it."""
        if not threading.current_thread().name.startswith("ray_"):
            return self._out.write(text)
        if text.strip():
            _logger.debug("%s", text.strip())
        return len(text)

    def flush(self) -> None:
        """Passes it on."""
        self._out.flush()

    def isatty(self) -> bool:
        """Whether what is underneath is a terminal."""
        return self._out.isatty()


def last_line(error: BaseException) -> str:
    """What an error says in the end, without the trace that Ray puts before it."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return said[-1] if said else type(error).__name__
