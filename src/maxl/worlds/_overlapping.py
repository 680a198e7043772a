"""Sums that are on their way while the backward pass still goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from maxl.worlds._bucketed_pass import BucketedPass
from maxl.worlds._reducer import Reducer

if TYPE_CHECKING:
    from maxl.worlds._data_parallel import DataParallel

_Register = Callable[[Tensor, Callable[[Tensor], None]], RemovableHandle]


class OverlappingReducer(Reducer):
    """Sends each bucket of gradients as soon as the backward pass has given all that belong to it.

    Buckets are filled from the last tensor to the first, which is how gradients come about, and always with the same
    tensors, so that a sum does not depend, to the last bit, on what was there when. All processes send them in the
    same order, through a group of their own: what else is said within a pass, by BatchNorm for instance, cannot come
    between. A gradient that has changed since it was sent, as by a second pass, is sent again with its bucket, and
    from then on waits for the end of the pass.

    Args:
        world: The processes.
    """

    def __init__(self, world: DataParallel) -> None:
        super().__init__(world)
        self._among = world
        self._pass: BucketedPass | None = None
        self._silent: set[int] = set()  # what the last pass gave no gradient for, in this process
        self._late: set[int] = set()  # have changed once after they were sent

    def watching(self, inputs: Sequence[Tensor]) -> AbstractContextManager[None]:
        """As ``Reducer.watching``."""

        def register(p: Tensor, arrived: Callable[[Tensor], None]) -> RemovableHandle:
            handle: RemovableHandle = p.register_hook(arrived)  # type: ignore[no-untyped-call]
            return handle

        return self._sending(inputs, register, lambda i: None)

    def sum(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor], *also: Tensor
    ) -> list[Tensor | None]:
        """As ``Reducer.sum``; half precision is summed as float32."""
        watched, self._pass = self._pass, None
        watched = watched or BucketedPass(self._among, like)
        sums = watched.finish(tensors, *also)
        if watched.arrived:
            self._silent = set(range(len(tensors))) - set(watched.arrived)
        self._late |= watched.changed
        return sums

    def _accumulating(self, weights: Sequence[Tensor]) -> AbstractContextManager[None]:
        def register(p: Tensor, arrived: Callable[[Tensor], None]) -> RemovableHandle:
            def accumulated(leaf: Tensor) -> None:
                if leaf.grad is not None:
                    arrived(leaf.grad)

            handle: RemovableHandle = p.register_post_accumulate_grad_hook(accumulated)  # type: ignore[no-untyped-call]
            return handle

        return self._sending(weights, register, lambda i: weights[i].grad)

    @contextmanager
    def _sending(
        self, tensors: Sequence[Tensor], register: _Register, now: Callable[[int], Tensor | None]
    ) -> Iterator[None]:
        """Within: a pass that calls what is registered with the gradient of each tensor."""
        self._pass = None
        if not tensors:
            yield
            return
        begun = BucketedPass(self._among, tensors, self._silent - self._late, now)
        hooks = [register(p, begun.arrival(i)) for i, p in enumerate(tensors) if i not in self._late]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._pass = begun
