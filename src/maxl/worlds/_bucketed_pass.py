"""The gradients of one backward pass, in buckets that are sent as they become full."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from maxl.worlds._background import background
from maxl.worlds._buckets import buckets, flattened, together, unflattened

if TYPE_CHECKING:
    from maxl.worlds._data_parallel import DataParallel


class BucketedPass:
    """Sends a bucket once its last gradient has come, in the order of the buckets; the last bucket waits for the end.

    Args:
        world: The processes.
        like: Tensors of the shapes and types of the gradients.
        silent: Those for which the pass is not expected to give a gradient.
        now: The gradient that such a tensor has all the same, when its bucket is sent.

    Attributes:
        given: Tensors for which the pass gave a gradient.

    Raises:
        RuntimeError: if another pass is under way.
    """

    def __init__(
        self,
        world: DataParallel,
        like: Sequence[Tensor],
        silent: Collection[int] = (),
        now: Callable[[int], Tensor | None] = lambda i: None,
    ) -> None:
        self.world, self.like = world, list(like)
        self.silent, self.now = silent, now
        self.given: set[int] = set()
        self._gradients: dict[int, Tensor] = {}
        self._buckets = [
            _Bucket(found, set(found))
            for found in buckets(reversed(range(len(like))), like, world.bucket_bytes)
        ]
        self._of = {i: bucket for bucket in self._buckets for i in bucket.indices}
        self._next = 0  # the first bucket that has not been sent
        self._stream = _stream(like[0]) if like else None
        self._background = background()
        self._number = self._background.begin()

    def hook(self, i: int) -> Callable[[Tensor], None]:
        """What is to be called with the gradient of a tensor, and again if that becomes another."""

        def arrived(gradient: Tensor) -> None:
            first = not self.given
            self.given.add(i)
            # What another stream works on would have to be waited for.
            if gradient.layout != torch.strided or _stream(gradient) != self._stream:
                return
            self._gradients[i] = gradient
            for there in [i, *self.silent] if first else [i]:
                self._of[there].missing.discard(there)
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
        self._take_along(range(len(gradients), len(mine)), like)
        while self._next < len(self._buckets):
            self._send([mine[i] for i in self._buckets[self._next].indices], like)
        present = [t is not None for t in mine]
        told = self.world.sum_of_numbers([*present, *(b.has_changed(mine) for b in self._buckets)])
        sums: list[Tensor | None] = [None] * len(mine)
        for bucket, changed in zip(self._buckets, told[len(mine) :], strict=True):
            kind = [like[i] for i in bucket.indices]
            flat = bucket.received()
            if changed:
                flat = flattened([mine[i] for i in bucket.indices], kind)
                dist.all_reduce(flat, group=self._background.group)
            for i, total in zip(bucket.indices, unflattened(flat, kind), strict=True):
                sums[i] = total if told[i] else None
        self._background.under_way = False
        return sums

    def is_under_way(self) -> bool:
        """Whether it is this pass that goes on, and not one that has failed or come later."""
        now = background()
        return now is self._background and now.under_way and now.passes == self._number

    def _take_along(self, more: Sequence[int], like: Sequence[Tensor]) -> None:
        """Into the last bucket, which has not been sent, or one of their own."""
        for i in more:
            if self._buckets and together(like[i], like[self._buckets[-1].indices[0]]):
                self._buckets[-1].indices.append(i)
            else:
                self._buckets.append(_Bucket([i]))

    def _send_full(self) -> None:
        while self._next < len(self._buckets) - 1 and not self._buckets[self._next].missing:
            indices = self._buckets[self._next].indices
            gradients = [self._gradients[i] if i in self._gradients else self.now(i) for i in indices]
            self._send(gradients, self.like)

    def _send(self, gradients: list[Tensor | None], like: Sequence[Tensor]) -> None:
        bucket = self._buckets[self._next]
        bucket.parts = [_Part.of(g) for g in gradients]
        bucket.flat = flattened(gradients, [like[i] for i in bucket.indices])
        bucket.work = dist.all_reduce(bucket.flat, group=self._background.group, async_op=True)
        self._next += 1


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


@dataclass
class _Bucket:
    """Gradients that are one message.

    Attributes:
        indices: Of the tensors, in order.
        missing: Those whose gradients have not come.
        parts: The gradients as they were when it was sent.
        flat: What was sent; the sum once ``work`` has ended.
    """

    indices: list[int]
    missing: set[int] = field(default_factory=set)
    parts: list[_Part] = field(default_factory=list)
    flat: Tensor | None = None
    work: dist.Work | None = None

    def has_changed(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether something else should have been sent."""
        return not all(p.is_still(gradients[i]) for i, p in zip(self.indices, self.parts, strict=True))

    def received(self) -> Tensor:
        """The sums, once they are there."""
        assert self.work is not None
        assert self.flat is not None
        self.work.wait()
        return self.flat


def _stream(tensor: Tensor) -> object:
    """Where a device works on it now."""
    return torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None
