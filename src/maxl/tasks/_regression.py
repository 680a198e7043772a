"""One number or several for each sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from maxl.hierarchy import Hierarchy, rows_of


@dataclass(frozen=True)
class Regression:
    """Squared error of D numbers, the mean over them and over samples; Huber's loss with a ``huber``.

    Targets are best standardised, mean 0 and standard deviation 1: one of them then counts as much as another, and as
    much as the auxiliary task. There are no primary classes, so the hierarchy is flat: ``maxl.Hierarchy.flat(k)``.

    Args:
        num_targets: D ≥ 1.
        huber: δ > 0: errors e beyond it cost ``δ(|e| − δ/2)``, those below e²/2. None for the squared error e².

    Raises:
        ValueError: if D is below 1, or δ is not above 0.

    Example:
        >>> maxl.MultiTaskNetwork(trunk, maxl.Hierarchy.flat(5), task=maxl.Regression())
    """

    num_targets: int = 1
    huber: float | None = None

    def __post_init__(self) -> None:
        if self.num_targets < 1:
            raise ValueError(f"num_targets needs to be at least 1; got {self.num_targets}")
        if self.huber is not None and not 0 < self.huber < math.inf:
            raise ValueError(f"huber needs to be a number above 0, or None; got {self.huber}")

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """D.

        Raises:
            ValueError: unless the hierarchy is flat.
        """
        _check_flat(hierarchy.num_primary)
        return self.num_targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``losses``."""
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample, the mean over its D numbers.

        Args:
            outputs: Predictions, shape (N, D).
            targets: Numbers of shape (N, D); also (N,) where D is 1.

        Returns:
            Shape (N,).

        Raises:
            ValueError: if the shapes do not fit. They are not broadcast: a column against a row would train on
                every pair of samples.
        """
        wanted = targets.unsqueeze(1) if targets.dim() == 1 else targets
        if outputs.shape != wanted.shape:
            raise ValueError(
                "regression needs outputs of shape (N, D) and targets of shape (N, D), or (N,) where D is 1; got "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)}: D is maxl.Regression(num_targets=D)"
            )
        wanted = wanted.to(outputs.dtype)
        if self.huber is None:
            return F.mse_loss(outputs, wanted, reduction="none").mean(1)
        # δ times the smooth L1 loss is Huber's, and unlike PyTorch's own it can be differentiated forwards.
        return self.huber * F.smooth_l1_loss(outputs, wanted, reduction="none", beta=self.huber).mean(1)

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """All K classes for every sample.

        Args:
            targets: Of length N; their values do not matter.
            mask: Bool of shape (1, K).

        Raises:
            ValueError: unless the hierarchy is flat.
        """
        _check_flat(len(mask))
        return rows_of(mask, targets)


def _check_flat(blocks: int) -> None:
    if blocks != 1:
        raise ValueError(
            f"regression has no primary classes and needs a flat hierarchy; got one of {blocks} blocks: "
            "maxl.Hierarchy.flat(k)"
        )
