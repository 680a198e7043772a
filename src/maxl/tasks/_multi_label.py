"""Any number of C labels for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maxl.hierarchy import Hierarchy, rows_of


@dataclass(frozen=True)
class MultiLabel:
    """Binary cross-entropy of C labels, the mean over labels and samples.

    A sample may use the auxiliary classes of all its labels. One without any may use all K, since nothing says which of
    them it should not; or those of a block of its own, where ψ has C + 1 blocks, the last of them for "none".

    Args:
        num_labels: C ≥ 1 where the hierarchy is flat (``maxl.Hierarchy.flat(k)``) or has a block for "none"; else ψ has
            a block for each label and says it.

    Raises:
        ValueError: if C is below 1.
    """

    num_labels: int | None = None

    def __post_init__(self) -> None:
        if self.num_labels is not None and self.num_labels < 1:
            raise ValueError(f"num_labels needs to be at least 1; got {self.num_labels}")

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """C.

        Raises:
            ValueError: if the hierarchy has several blocks, and not one for each label, or one more.
        """
        known = self.num_labels
        if known is not None and hierarchy.num_primary not in (1, known, known + 1):
            raise ValueError(
                f"the hierarchy needs one block for each label, one more for samples without a label, or a single one; got "
                f"{hierarchy.num_primary} for {known} labels"
            )
        return self.num_labels or hierarchy.num_primary

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``losses``."""
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample, the mean over its C labels.

        Args:
            outputs: Logits, shape (N, C).
            targets: 0 or 1, of any kind of number, shape (N, C); soft labels in [0, 1] also.

        Returns:
            Shape (N,).

        Raises:
            ValueError: if the shapes do not fit, or a value is outside [0, 1], where the loss has no lower bound. Values are
                not read on an accelerator, nor in a compiled pass.
        """
        _check_shapes(outputs, targets)
        if _readable(targets) and bool((odd := ~((targets >= 0) & (targets <= 1))).any()):
            raise ValueError(f"labels need to be in [0, 1]; got {targets[odd][0].item():g}")
        wanted = targets.to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(1)

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """The blocks of each sample's labels together; for one without a label the block for it, or all K classes.

        Args:
            targets: 0 or 1, shape (N, C). A hierarchy of one block uses only how many there are.
            mask: Bool of shape (C, K), or (C + 1, K) where ``num_labels`` is stated.

        Raises:
            ValueError: if there is another number of labels than of blocks, or a value is neither 0 nor 1. Values are
                not read on an accelerator, since that would wait for it, nor in a compiled pass.
        """
        if len(mask) == 1:
            return rows_of(mask, targets)
        with_none = len(mask) - 1 == self.num_labels
        if targets.dim() != 2 or targets.shape[1] != len(mask) - with_none:
            raise ValueError(
                f"labels need shape (N, {len(mask) - with_none}), one column for each block of the hierarchy; got "
                f"{tuple(targets.shape)}"
            )
        has = targets != 0
        if _readable(targets) and bool((odd := has & (targets != 1)).any()):
            raise ValueError(f"labels need to be 0 or 1; got {targets[odd][0].item():g}")
        none = ~has.any(1, keepdim=True)
        if with_none:
            return torch.cat([has, none], 1).float() @ mask.float() > 0
        return (has.float() @ mask.float() > 0) | none


def _readable(targets: Tensor) -> bool:
    return targets.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 2 or outputs.shape != targets.shape:
        raise ValueError(
            "labels need shape (N, C), as the outputs have; got "
            f"{tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}: C is the hierarchy's number of "
            "blocks, or maxl.MultiLabel(num_labels=C) with a flat one"
        )
