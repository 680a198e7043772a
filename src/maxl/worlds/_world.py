"""What a step has to hear from the other processes: what a world has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from maxl.worlds._reducer import Reducer


class World(ABC):
    """The processes that train one network together, each on its own samples of the batch.

    Every method is called by all of them, in the same order.

    Attributes:
        alone: Whether there is one process.
    """

    alone: ClassVar[bool]

    @abstractmethod
    def share(self, count: int, alike: Mapping[str, int] | None = None) -> float:
        """This process's share in the samples of all; a mean over its own times this is its summand of the whole mean.

        Args:
            count: Number of its samples.
            alike: What has to be the same in every process, as numbers from 0 to 65535 by name.

        Raises:
            ValueError: in every process, if one has no sample or something is not alike.
        """

    @abstractmethod
    def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """The sums over all processes.

        Args:
            tensors: This process's summands; None stands for zero.
            like: One tensor of the same shape, type and device for each, where they are None.

        Returns:
            One tensor each, the same everywhere; None where it is None everywhere.
        """

    def reducer(self) -> Reducer:
        """For a gradient that is taken step after step; by ``sum`` unless a world knows better."""
        return Reducer(self)

    @abstractmethod
    def gather(self, *rows: Tensor) -> tuple[list[Tensor], int]:
        """The rows of all processes, and where this process's begin.

        Args:
            rows: Tensors with one row for each of this process's samples.
        """

    @abstractmethod
    def every(self, flag: bool) -> bool:
        """Whether it holds in every process."""

    @abstractmethod
    def align(self, *modules: nn.Module) -> None:
        """Gives every process the weights and buffers of the first."""
