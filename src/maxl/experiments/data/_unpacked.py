"""A temporary file of rows or images that can be read from any place, which parquet files cannot.

Parquet is compressed in pages of thousands of rows, and a shuffled batch wants a hundred rows from as many places: each
would unpack a page. The file is unpacked once instead, a few megabytes at a time, next to other temporary files (TMPDIR),
and is gone when the process ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from maxl.experiments.data._source import IntArray

_MOUNTS = Path("/proc/mounts")  # Linux alone
_MEMORY = ("tmpfs", "ramfs")  # kinds of file systems that are no disks


class _File:
    """A temporary file that threads read at once, each at its own place; gone when nothing reads it any more."""

    def __init__(self) -> None:
        self.stream: IO[bytes] = tempfile.TemporaryFile(prefix="maxl-")  # noqa: SIM115  # closed below
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self.stream)

    def write(self, parts: Iterable[Any]) -> Iterator[int]:
        """Writes bytes, part after part, and gives the length of each; what they are made of is gone by the next.

        Raises:
            ValueError: if there is no room.
        """
        try:
            for part in parts:
                self.stream.write(part)
                yield len(part)
            self.stream.flush()
        except OSError as error:
            raise ValueError(
                f"--stream has no room for its temporary file in {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a "
                "folder with more"
            ) from error

    def read(self, start: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            content = os.pread(self.stream.fileno(), count, start)
        else:  # on Windows
            with self._lock:
                self.stream.seek(start)
                content = self.stream.read(count)
        if len(content) != count:
            raise OSError(f"the temporary file of --stream in {tempfile.gettempdir()} has been cut short")
        return content


class Rows:
    """Rows of numbers of one kind, (N, D).

    Args:
        parts: The rows in order, arrays (n, D) of that kind.
    """

    def __init__(self, parts: Iterable[npt.NDArray[Any]], kind: np.dtype[Any], width: int) -> None:
        self._file, self._kind, self._width, self._count = _File(), kind, width, 0
        plain = (np.ascontiguousarray(part, dtype=kind) for part in parts)
        for length in self._file.write(part.data for part in plain):
            self._count += length

    def __len__(self) -> int:
        return self._count

    def read(self, rows: IntArray) -> npt.NDArray[Any]:
        """The rows asked for, (n, D)."""
        size = self._width * self._kind.itemsize
        found = np.empty((len(rows), self._width), dtype=self._kind)
        # One read for neighbours, as whole passes over the data have them.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            content = self._file.read(int(rows[start]) * size, (end - start) * size)
            found[start:end] = np.frombuffer(content, self._kind).reshape(-1, self._width)
        return found


class Items:
    """Byte strings of any lengths; eight bytes of memory each.

    Args:
        items: In order.
    """

    def __init__(self, items: Iterable[bytes]) -> None:
        self._file, ends = _File(), array("q", [0])
        for length in self._file.write(items):
            ends.append(ends[-1] + length)
        self._ends = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, row: int) -> bytes:
        """One of them."""
        start, end = self._ends[row : row + 2].tolist()
        return self._file.read(start, end - start)


def _close(stream: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, which was said when it was written to
        stream.close()


def require_room(needed: int, what: str) -> None:
    """ValueError unless the folder of temporary files is on a disk with so many bytes free.

    Args:
        needed: Bytes.
        what: Is to be unpacked there, for the message.
    """
    folder = Path(tempfile.gettempdir())
    if file_system(folder) in _MEMORY:
        raise ValueError(
            f"--stream unpacks {what} into a temporary file, {needed / 2**30:.2f} GiB; {folder} lies in memory: set TMPDIR to "
            "a folder on a disk"
        )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"--stream unpacks {what} into a temporary file, {needed / 2**30:.2f} GiB; {folder} has {free / 2**30:.2f} GiB "
            "free: set TMPDIR to a folder with more"
        )


def file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on; "" where the system does not say."""
    if not _MOUNTS.is_file():
        return ""
    real, found, longest = folder.resolve(), "", -1
    for line in _MOUNTS.read_text(errors="replace").splitlines():
        _, place, kind = line.split(" ")[:3]
        place = place.replace("\\040", " ")  # how it writes a space
        if real.is_relative_to(place) and len(place) >= longest:
            found, longest = kind, len(place)
    return found
