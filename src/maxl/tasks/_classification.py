"""One class of C for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maxl.hierarchy import Hierarchy, rows_of
from maxl.losses import focal_losses


@dataclass(frozen=True)
class Classification:
    """Focal loss over C classes (paper, section 3.1).

    Args:
        gamma: Focusing exponent γ ≥ 0: the paper's 2 by default, 0 for cross-entropy.

    Raises:
        ValueError: if γ is negative.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"gamma needs to be at least 0; got {self.gamma}")

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """C."""
        return hierarchy.num_primary

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``losses``."""
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample.

        Args:
            outputs: Logits, shape (N, C).
            targets: Classes, int64 of shape (N,) in [0, C), or soft labels, float of shape (N, C).

        Returns:
            Shape (N,).
        """
        return focal_losses(outputs, targets, self.gamma)

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """The block of each sample's class; all K classes where there is a single block.

        Args:
            targets: Classes, int64 of shape (N,) in [0, C). A hierarchy of one block looks at their number alone.
            mask: Bool of shape (C, K).

        Raises:
            ValueError: if a class is negative, which indexing would take for one counted from the end. Targets are not
                read on an accelerator, since that would wait for it, nor in a compiled pass.
        """
        readable = len(mask) > 1 and targets.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and len(targets) and int(targets.min()) < 0:
            raise ValueError(
                f"primary labels need to be at least 0; got {int(targets.min())}: drop samples without a label"
            )
        return rows_of(mask, targets)
