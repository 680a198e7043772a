"""When a meta step is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """When a meta step is due. Any class with this method serves; one with ``Part.rows`` also says on what, of
    several processes None in all of them or in none."""

    def due(self, step: int) -> bool:
        """Whether the training step with this number, counted from 0, is one to learn from."""
        ...


@dataclass(frozen=True)
class Every:
    """At every k-th training step, the first included.

    Args:
        k: At least 1.

    Raises:
        ValueError: if it is not.
    """

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"the k of a schedule (meta_every) needs to be at least 1; got {self.k}")

    def due(self, step: int) -> bool:
        """As ``Schedule.due``."""
        return step % self.k == 0
