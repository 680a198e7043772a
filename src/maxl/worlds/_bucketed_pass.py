"""The gradients of one backward pass, in buckets that are sent as they become full."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from maxl.worlds._buckets import buckets, flattened, together, unflattened

if TYPE_CHECKING:
    from maxl.worlds._data_parallel import DataParallel


class BucketedPass:
    """Sends a bucket once its last gradient has come, in the order of the buckets; the last bucket waits for the end.

    Args:
        world: The processes. Each has such an object for the same pass.
        like: Tensors of the shapes and types of the gradients.
        silent: Those whose gradients the pass is not expected to give; they are as ``now`` says when the first other comes.
        now: The gradient of a tensor that the pass has not given, as it is.

    Attributes:
        arrived: The gradients that the pass has given, by tensor.
        changed: Tensors whose gradient was another in the end than the one that was sent; after ``finish``.
    """

    def __init__(
        self,
        world: DataParallel,
        like: Sequence[Tensor],
        silent: Collection[int] = (),
        now: Callable[[int], Tensor | None] = lambda i: None,
    ) -> None:
        self.world = world
        self.like = list(like)
        self.buckets = buckets(reversed(range(len(like))), like, world.bucket_bytes)
        self.silent, self.now = silent, now
        self.arrived: dict[int, Tensor] = {}
        self.changed: set[int] = set()
        self._place = {i: k for k, bucket in enumerate(self.buckets) for i in bucket}
        self._missing = [set(bucket) for bucket in self.buckets]
        self._sent: list[_Sent] = []
        self._stream = _stream(like[0]) if like else None

    def arrival(self, i: int) -> Callable[[Tensor], None]:
        """What is to be called with the gradient of a tensor, and again if that becomes another."""

        def arrived(gradient: Tensor) -> None:
            if gradient.layout == torch.strided and _stream(gradient) == self._stream:
                self._are_there([i] if self.arrived else [i, *self.silent])
                self.arrived[i] = gradient
                self._send_full()

        return arrived

    def finish(self, gradients: Sequence[Tensor | None], *also: Tensor) -> list[Tensor | None]:
        """The sums over all processes, once all of them have called it.

        Args:
            gradients: As they are after the pass; None for zero.
            also: Small tensors that every process has, summed along.

        Returns:
            A tensor for each, None where it is None everywhere.
        """
        mine, like = [*gradients, *also], [*self.like, *also]
        for i in range(len(gradients), len(mine)):
            if self.buckets and together(like[i], like[self.buckets[-1][0]]):
                self.buckets[-1].append(i)
            else:
                self.buckets.append([i])
        for bucket in self.buckets[len(self._sent) :]:
            self._send([mine[i] for i in bucket], [like[i] for i in bucket])
        pairs = list(zip(self.buckets, self._sent, strict=True))
        self.changed = {
            i
            for bucket, sent in pairs
            for i, part in zip(bucket, sent.parts, strict=True)
            if not part.is_still(mine[i])
        }
        present = [t is not None for t in mine]
        told = self.world.sum_of_numbers(
            [*present, *(not self.changed.isdisjoint(bucket) for bucket in self.buckets)]
        )
        sums: list[Tensor | None] = [None] * len(mine)
        for (bucket, sent), again in zip(pairs, told[len(mine) :], strict=True):
            sent.work.wait()
            kind, flat = [like[i] for i in bucket], sent.flat
            if again:
                flat = flattened([mine[i] for i in bucket], kind)
                dist.all_reduce(flat, group=self.world.group)
            for i, total in zip(bucket, unflattened(flat, kind), strict=True):
                sums[i] = total if told[i] else None
        return sums

    def _are_there(self, which: Collection[int]) -> None:
        for i in which:
            self._missing[self._place[i]].discard(i)

    def _send_full(self) -> None:
        while len(self._sent) < len(self.buckets) - 1 and not self._missing[len(self._sent)]:
            bucket = self.buckets[len(self._sent)]
            gradients = [self.arrived[i] if i in self.arrived else self.now(i) for i in bucket]
            self._send(gradients, [self.like[i] for i in bucket])

    def _send(self, gradients: list[Tensor | None], like: list[Tensor]) -> None:
        flat = flattened(gradients, like)
        work = dist.all_reduce(flat, group=self.world.background, async_op=True)
        self._sent.append(_Sent(flat, work, [_Part.of(g) for g in gradients]))


class _Part(NamedTuple):
    """A gradient as it was when it was sent."""

    gradient: Tensor | None
    version: int

    @classmethod
    def of(cls, gradient: Tensor | None) -> _Part:
        return cls(gradient, 0 if gradient is None else gradient._version)

    def is_still(self, now: Tensor | None) -> bool:
        """Whether ``now`` is that gradient, and nothing has been written to it since."""
        if now is None or self.gradient is None:
            return now is self.gradient
        same_place = (
            now.data_ptr() == self.gradient.data_ptr()
            and now.shape == self.gradient.shape
            and now.stride() == self.gradient.stride()
        )
        return same_place and now._version == self.gradient._version == self.version


class _Sent(NamedTuple):
    """A bucket on its way: ``flat`` is the sum once ``work`` has ended."""

    flat: Tensor
    work: dist.Work
    parts: list[_Part]


def _stream(tensor: Tensor) -> object:
    """Where a device works on it now; a copy made elsewhere could be too early."""
    return torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None
