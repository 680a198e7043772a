"""Where signals come from."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from maxl.hypergradients import Signals


class Source(Protocol):
    """Signals for a training step."""

    def constant(self, x: Any, y: Tensor, index: Tensor | None) -> Signals:
        """Signals of a batch, without a graph; an empty tuple for none.

        Args:
            x: Inputs, as the networks take them: a tensor, or tensors by name. A source may take one kind alone.
            y: Targets of the primary task.
            index: Positions of the samples in the training set, int64 of shape (N,), where they are known.
        """
        ...
