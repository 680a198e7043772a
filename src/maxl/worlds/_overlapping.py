"""Sums that are on their way while the backward pass still goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from maxl.worlds._bucketed_pass import BucketedPass
from maxl.worlds._reducer import Reducer

if TYPE_CHECKING:
    from maxl.worlds._data_parallel import DataParallel

_Hook = Callable[[Tensor], None]  # called with a gradient


class OverlappingReducer(Reducer):
    """Sends each bucket of gradients as soon as the backward pass has given all that belong to it.

    Buckets are filled from the last tensor to the first, which is how gradients come about, and always with the same
    tensors, so that a sum does not depend, to the last bit, on what was there when. All processes send them in the
    same order, through a group of their own: what else is said within a pass, by BatchNorm for instance, cannot come
    between. A gradient that is another once the pass has ended, or that PyTorch knows to have been written to, is sent
    again with its bucket.

    Args:
        world: All processes.
    """

    world: DataParallel

    def __init__(self, world: DataParallel) -> None:
        super().__init__(world)
        self._pass: BucketedPass | None = None
        self._silent: set[int] = set()  # what the last pass gave no gradient for, in this process

    def watching(self, inputs: Sequence[Tensor]) -> AbstractContextManager[None]:
        """As ``Reducer.watching``."""

        def register(p: Tensor, hook: _Hook) -> RemovableHandle:
            handle: RemovableHandle = p.register_hook(hook)  # type: ignore[no-untyped-call]
            return handle

        return self._sending(inputs, register, lambda i: None)

    def sum(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor], *also: Tensor
    ) -> list[Tensor | None]:
        """As ``Reducer.sum``; half precision is summed as float32."""
        watched, self._pass = self._pass, None
        if watched is None or not watched.is_under_way():
            watched = BucketedPass(self.world, like)
        sums = watched.finish(tensors, *also)
        if watched.given:
            self._silent = set(range(len(tensors))) - watched.given
        return sums

    def _accumulating(self, weights: Sequence[Tensor]) -> AbstractContextManager[None]:
        def register(p: Tensor, hook: _Hook) -> RemovableHandle:
            def accumulated(leaf: Tensor) -> None:
                if leaf.grad is not None:
                    hook(leaf.grad)

            handle: RemovableHandle = p.register_post_accumulate_grad_hook(accumulated)  # type: ignore[no-untyped-call]
            return handle

        return self._sending(weights, register, lambda i: weights[i].grad)

    @contextmanager
    def _sending(
        self,
        tensors: Sequence[Tensor],
        register: Callable[[Tensor, _Hook], RemovableHandle],
        now: Callable[[int], Tensor | None],
    ) -> Iterator[None]:
        """Within: a pass that calls what is registered with the gradient of each tensor."""
        self._pass = None
        if not tensors:
            yield
            return
        silent = self._silent & set(range(len(tensors)))  # weights may have been frozen since
        begun = BucketedPass(self.world, tensors, silent, now)
        with ExitStack() as hooks:
            for i, p in enumerate(tensors):
                hooks.callback(register(p, begun.hook(i)).remove)
            yield
        self._pass = begun
