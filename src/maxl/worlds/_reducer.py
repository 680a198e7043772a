"""The sum over processes of a gradient that is taken step after step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from maxl.worlds._world import World


class Reducer:
    """Sums a gradient by ``World.sum`` once all of it is there. One object for each gradient, called by all processes alike.

    Args:
        world: The processes.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    @contextmanager
    def summing(self, weights: Sequence[Tensor], *, overlap: bool = True) -> Iterator[None]:
        """Within: a backward pass. After: what it has added to ``p.grad`` is the sum over all processes.

        What was there in ``p.grad`` before is not sent again.

        Args:
            weights: Leaves, the same everywhere, in the same order.
            overlap: Whether sums may be sent within: the pass has to be one, and nothing may write to ``p.grad`` once
                the pass has added to it.
        """
        if self.world.alone:
            yield
            return
        before = [p.grad for p in weights]
        for p in weights:
            p.grad = None
        try:
            with self._accumulating(weights if overlap else ()):
                yield
        except BaseException:
            for p, old in zip(weights, before, strict=True):
                p.grad = old
            raise
        sums = self.sum([p.grad for p in weights], weights)
        for p, old, new in zip(weights, before, sums, strict=True):
            p.grad = new if old is None else old if new is None else old.add_(new)

    def watching(self, inputs: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within: ``torch.autograd.grad`` for these inputs, once; what it returns goes to ``sum`` next, as it is.

        Args:
            inputs: Leaves; none where what is summed comes otherwise, in several calls for instance.
        """
        return nullcontext()

    def sum(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor], *also: Tensor
    ) -> list[Tensor | None]:
        """As ``World.sum``, of tensors of the same shapes step after step.

        Args:
            tensors, like: As there.
            also: Small tensors that every process has, to be summed along; the last of the result.
        """
        return self.world.sum([*tensors, *also], [*like, *also])

    def _accumulating(self, weights: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within: a backward pass that adds to ``p.grad``."""
        return nullcontext()
