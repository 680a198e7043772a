"""What the library asks of a primary task. Shapes: M rows (samples), C outputs each, K auxiliary classes."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from maxl.hierarchy import Hierarchy


class Task(Protocol):
    """The meaning of the primary outputs; an object with settings and no state. Any class with these methods serves."""

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """Size of the primary head."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """L_pri, a scalar: what trains the primary head, and what judges an update.

        The mean of ``losses`` over the rows, so that a batch may come in parts.
        """
        ...

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each row, shape (M,): what sample weights multiply."""
        ...

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """Which auxiliary classes each row may use.

        Args:
            targets: As the losses take them.
            mask: The hierarchy's, bool of shape (C, K), on the device of the targets.

        Returns:
            Bool of shape (M, K), at least one True in each row.
        """
        ...


def is_dense(task: Task) -> bool:
    """Whether samples have positions with a target each, as with ``Segmentation``."""
    return bool(getattr(task, "dense", False))


def positions_that_count(task: Task, targets: Tensor) -> Tensor:
    """Of a dense task: bool of the shape of the targets; all where the task ignores none."""
    weights = getattr(task, "weights", None)
    return torch.ones_like(targets, dtype=torch.bool) if weights is None else weights(targets)
