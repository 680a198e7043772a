"""What a run's numbers depend on beside its config: machine, threads and versions; and the memory it took."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within: PyTorch's CPU operations use so many threads, whatever the machine has.

    A sum over several threads is rounded in another order than over one, so the number belongs to the run.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tensor_float32(enabled: bool) -> Iterator[None]:
    """Within: matrix products and convolutions in float32 may round their inputs to TF32 on a GPU."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches if enabled else ():
            switch.fp32_precision = "tf32"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def origin(device: torch.device, threads: int, processes: int = 1) -> dict[str, Any]:
    """Where a run is made, for its summary: machine, device, processes, threads of each, and versions.

    Two runs of one config agree to the last bit where all of these agree.
    """
    return {
        "machine": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": threads,
        "processes": processes,
        "versions": versions(),
    }


def joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The origin of a run that was begun at one and continued at another: "this, then that" where they differ."""
    result: dict[str, Any] = {}
    for name, value in now.items():
        first = before.get(name, value)  # an older version did not say
        if isinstance(value, Mapping):
            result[name] = joined(first, value)
        else:
            same = first == value or str(first).endswith(f", then {value}")
            result[name] = first if same else f"{first}, then {value}"
    return result


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "maxl": version("maxl-torch"),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


class PeakMemory:
    """The most memory taken since it was made.

    What earlier runs of the process have left is given back first, as far as the allocator does, so that a run
    counts its own: within a tenth of what it takes in a process of its own.

    Args:
        device: Of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known = device.type == "cuda"
        if self.known:
            torch.cuda.reset_peak_memory_stats(device)
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if device.type == "cpu" and trim is not None and os.access(_CLEAR, os.W_OK):
            gc.collect()
            trim(0)
            _CLEAR.write_text(_CLEAR_PEAK)
            self.known = True

    def read(self) -> int | None:
        """Bytes: of the allocator on a GPU; of the whole process, libraries and data included, on the CPU.

        None where the system does not tell: on the CPU without Linux and glibc, and on other accelerators.
        """
        if not self.known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        lines = _STATUS.read_text().splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return 1024 * int(kibibytes)


# Linux: the process's peak of resident memory, and the file that takes "forget it".
_STATUS, _CLEAR, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


def _processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
