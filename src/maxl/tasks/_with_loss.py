"""A task with another loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from maxl.hierarchy import Hierarchy
from maxl.tasks._task import Task, is_dense, positions_that_count


@dataclass(frozen=True)
class WithLoss:
    """A task whose loss is a function of one's own; all else is as in ``task``.

    Args:
        task: What the outputs and targets mean.
        function: (outputs, targets) → scalar.
    """

    task: Task
    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def dense(self) -> bool:
        """As the task's."""
        return is_dense(self.task)

    def weights(self, targets: Tensor) -> Tensor:
        """As a dense task's."""
        return positions_that_count(self.task, targets)

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """As the task's."""
        return self.task.num_outputs(hierarchy)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The function's value; of a dense task's outputs and targets as rows, (M, C) and (M,)."""
        if self.dense:
            return self.function(outputs.flatten(0, -2), targets.flatten(0, targets.dim() - outputs.dim()))
        return self.function(outputs, targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Refused: a scalar cannot be taken apart.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "sample weights need the loss of each sample; got a primary_loss that gives one number: pass a task "
            "(task=maxl.Classification(), or a class of yours with a method losses) instead of primary_loss"
        )

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """As the task's."""
        return self.task.rows(targets, mask)
