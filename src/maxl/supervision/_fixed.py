"""Sources that no generator is behind: none, uniform, fixed."""

from __future__ import annotations

from torch import Tensor

from maxl.hierarchy import Hierarchy
from maxl.hypergradients import Inputs, Signals
from maxl.supervision._positions import checked_positions
from maxl.tasks import Classification, Task


class NoLabels:
    """Single-task training."""

    def constant(self, x: Inputs, y: Tensor, index: Tensor | None) -> Signals:
        """Nothing."""
        return ()


class UniformLabels:
    """Soft labels spread evenly over each sample's block: a second primary head in disguise, a control.

    Args:
        hierarchy: ψ.
        task: Says which block is a sample's.
    """

    def __init__(self, hierarchy: Hierarchy, task: Task | None = None) -> None:
        self.mask = hierarchy.mask
        self.task: Task = task or Classification()

    def constant(self, x: Inputs, y: Tensor, index: Tensor | None) -> Signals:
        """(labels,) of shape (N, K)."""
        self.mask = self.mask.to(y.device)
        rows = self.task.rows(y, self.mask).float()
        return (rows / rows.sum(-1, keepdim=True),)


class FixedLabels:
    """Labels that stand in a table: random, clusters, human.

    Args:
        table: Labels by position in the training set, int64 of shape (n,) or soft of shape (n, K).
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def constant(self, x: Inputs, y: Tensor, index: Tensor | None) -> Signals:
        """(labels,) of the batch.

        Raises:
            ValueError: without the samples' positions, or with those of others.
        """
        index = checked_positions(index, len(y), len(self.table), "labels come from a table")
        self.table = self.table.to(index.device)
        return (self.table[index],)
