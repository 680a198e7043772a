"""Whether there is memory for a data set, before it is asked for: a system that promises too much ends the process later."""

from __future__ import annotations

from pathlib import Path

_SMALL = 256 << 20  # bytes that are not worth the question
_REMEDY = "leave it on disk with --stream, or take less of it with --image-size N or --train-size N"
# Linux alone. Elsewhere nothing is refused beforehand.
_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # of a container, which sees its own here


def available_memory() -> int | None:
    """Bytes that can be taken without ending another program or this one, swap included; None where nobody says."""
    if not _SYSTEM.is_file():
        return None
    lines = (line.split() for line in _SYSTEM.read_text().splitlines())
    kibibytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    if "MemAvailable" not in kibibytes:
        return None
    free = 1024 * (kibibytes["MemAvailable"] + kibibytes.get("SwapFree", 0))
    most, used = (_number(_GROUP / name) for name in ("memory.max", "memory.current"))
    if most is None or used is None:
        return free
    return min(free, max(0, most - used + _cached()))


def require_memory(needed: int, what: str, remedy: str = _REMEDY) -> None:
    """ValueError if a data set needs more memory than there is.

    Args:
        needed: Bytes, at least.
        what: Needs them.
        remedy: What its reader can do, if not what serves for most.
    """
    free = available_memory() if needed > _SMALL else None
    if free is not None and needed > free:
        raise ValueError(
            f"a data set is read into memory; {what} need {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are available: "
            f"{remedy}"
        )


def _number(file: Path) -> int | None:
    """What a file of the kernel says; None where there is none, or no limit."""
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def _cached() -> int:
    """Bytes that count as used and are only kept copies of files."""
    file = _GROUP / "memory.stat"
    lines = (line.split() for line in file.read_text().splitlines()) if file.is_file() else ()
    return sum(int(words[1]) for words in lines if words[0] in ("inactive_file", "active_file"))
