"""Samples that stay on disk: read when a batch asks for them, ahead of time by threads, and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data._source import IntArray

AHEAD = 256 << 20  # bytes of batches that are read and not yet taken, at most, where one is smaller
PIECE = 16 << 20  # bytes of samples that are looked at together where the number does not matter


class Unreadable(ValueError):
    """Samples that were there when the data set was opened cannot be read any more, or have changed; the message names them."""


@dataclass(frozen=True)
class StreamedSamples:
    """Samples in place of a tensor of them: of its shape and kind, but read whenever they are asked for.

    Threads read, not processes: decoders and reads of files let go of Python's lock, a thread needs no memory of its own,
    and nothing is copied between processes.

    Attributes:
        read: From rows, int64 of shape (n,), to the samples there, of shape (n, ...) as ``sample_shape`` goes on.
        rows: The rows that there are, int64 of shape (N,).
        sample_shape: (C, H, W) of images as uint8, (D,) of features as float32.
        workers: Threads that read batches ahead of their use.
    """

    read: Callable[[IntArray], Tensor]
    rows: IntArray
    sample_shape: tuple[int, ...]
    workers: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """As of a tensor, (N, C, H, W) or (N, D)."""
        return torch.Size((len(self), *self.sample_shape))

    @property
    def ndim(self) -> int:
        """4 for images, 2 for features."""
        return 1 + len(self.sample_shape)

    @property
    def dtype(self) -> torch.dtype:
        """uint8 for images, float32 for features."""
        return torch.uint8 if self.ndim == 4 else torch.float32

    @property
    def device(self) -> torch.device:
        """The CPU, to which they are read."""
        return torch.device("cpu")

    @property
    def sample_bytes(self) -> int:
        """What one sample takes once it is read."""
        return prod(self.sample_shape) * self.dtype.itemsize

    def __getitem__(self, index: Tensor | Sequence[int] | slice) -> Tensor:
        """The samples at some positions, read.

        Args:
            index: Positions, whole numbers of shape (n,); or a bool mask of shape (N,).

        Raises:
            IndexError, TypeError: if it is none of these.
            Unreadable: if one of them cannot be read, or is of another shape than it was.
        """
        rows = self.rows[index if isinstance(index, slice) else _positions(index)]
        if not len(rows):
            return torch.empty((0, *self.sample_shape), dtype=self.dtype)
        try:
            x = self.read(rows)
        except (ValueError, OSError) as error:
            raise Unreadable(str(error)) from error
        if x.shape[1:] != self.sample_shape:
            raise Unreadable(
                f"samples need to stay as they were when the run began, {_by(self.sample_shape)}; some are "
                f"{_by(tuple(x.shape[1:]))} now: put the data back"
            )
        return x

    def select(self, index: Tensor) -> StreamedSamples:
        """Those at some positions (int64, or a bool mask), still unread."""
        return replace(self, rows=self.rows[index.cpu().numpy()])

    def changed(self, change: Callable[[Tensor], Tensor], sample_shape: tuple[int, ...]) -> StreamedSamples:
        """The same, each batch changed as it is read to samples of another shape."""
        read = self.read
        return replace(self, read=lambda rows: change(read(rows)), sample_shape=sample_shape)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """The samples at the positions of each batch, in the order of the batches, whatever thread is done first.

        While one is used, others are read: two for each worker, fewer where they would exceed ``AHEAD`` bytes.

        Raises:
            Unreadable: as indexing does, when the turn of that batch comes.
        """
        with ThreadPoolExecutor(self.workers, "maxl-read") as pool:
            waiting = deque[Future[Tensor]]()
            try:
                for index in indices:
                    waiting.append(pool.submit(self.__getitem__, index))
                    if len(waiting) > min(2 * self.workers, AHEAD // max(1, len(index) * self.sample_bytes)):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


Samples: TypeAlias = Tensor | StreamedSamples


def read_batches(x: Samples, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """The samples at the positions of each batch, from memory or disk."""
    return x.batches(indices) if isinstance(x, StreamedSamples) else (x[index] for index in indices)


def read_pieces(x: Samples, most: int = 4096) -> Iterator[Tensor]:
    """All samples in order, so many together that they are neither more than ``most`` nor, by much, than 16 MiB."""
    bytes_of_one = max(1, prod(x.shape[1:]) * x.dtype.itemsize)
    size = max(1, min(most, PIECE // bytes_of_one))
    if isinstance(x, StreamedSamples):
        return x.batches(torch.split(torch.arange(len(x)), size))
    return iter(torch.split(x, size))


def _positions(index: Tensor | Sequence[int]) -> np.ndarray:
    found = np.asarray(index)
    found = found.astype(np.int64) if not found.size else found
    if found.ndim != 1 or found.dtype.kind not in "iub":
        raise TypeError(
            f"streamed samples are indexed by positions, whole numbers of shape (n,), or by a mask; got {found.dtype} of shape "
            f"{found.shape}: pass [i] for one sample"
        )
    return found


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
