"""One class of C for each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maxl.hierarchy import Hierarchy, rows_of
from maxl.losses import focal_losses


@dataclass(frozen=True)
class Classification:
    """Focal loss over C classes (paper, section 3.1).

    Args:
        gamma: Focusing exponent γ ≥ 0: the paper's 2 by default, 0 for cross-entropy.
        class_weights: C factors of at least 0, one a class; each sample's loss is multiplied by its class's, and the
            plain mean is taken. (PyTorch divides by the sum of the weights instead, which depends on the batch: no
            mean over samples, so a batch could not come in parts.) A soft label has the mean of its classes' weights.
        label_smoothing: ε in [0, 1): targets become (1 − ε) y + ε/C.

    Raises:
        ValueError: if γ or a weight is negative, all weights are 0, or ε is outside [0, 1).
    """

    gamma: float = 2.0
    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"gamma needs to be at least 0; got {self.gamma}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing needs to be in [0, 1); got {self.label_smoothing}")
        if self.class_weights is not None:
            weights = tuple(float(weight) for weight in self.class_weights)
            for c, weight in enumerate(weights):
                if not 0 <= weight < math.inf:
                    raise ValueError(
                        f"class_weights need finite numbers of at least 0; got {weight} for class {c}"
                    )
            if not any(weights):
                raise ValueError(f"class_weights need one above 0; got {weights}")
            object.__setattr__(self, "class_weights", weights)  # a tuple: can be compared and hashed

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """C.

        Raises:
            ValueError: if there is another number of class weights.
        """
        self._check_weights(hierarchy.num_primary)
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

        Raises:
            ValueError: as ``rows`` for classes.
        """
        if targets.dim() == 1:
            _check_classes(targets, outputs.shape[-1])
        smoothed = targets
        if self.label_smoothing:
            soft = targets
            if targets.dim() == 1:
                soft = F.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
            smoothed = (1 - self.label_smoothing) * soft + self.label_smoothing / outputs.shape[-1]
        losses = focal_losses(outputs, smoothed, self.gamma)
        if self.class_weights is None:
            return losses
        self._check_weights(outputs.shape[-1])
        weights = outputs.new_tensor(self.class_weights)
        return losses * (weights[targets] if targets.dim() == 1 else targets.to(weights.dtype) @ weights)

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """The block of each sample's class; all K classes where there is a single block.

        Args:
            targets: Classes, int64 of shape (N,) in [0, C). A hierarchy of one block uses only how many there are.
            mask: Bool of shape (C, K).

        Raises:
            ValueError: if there is no one class for each sample, of another kind of number, or one outside [0, C): indexing
                would take a negative one for one counted from the end. Targets are not read on an accelerator, since that
                would wait for it, nor in a compiled pass.
        """
        if len(mask) > 1 and targets.dim() != 1:
            raise ValueError(
                f"classes need shape (N,); got {tuple(targets.shape)}: say what targets mean with task=, of the network "
                "and of the generator"
            )
        if len(mask) > 1:
            _check_classes(targets, len(mask))
        return rows_of(mask, targets)

    def _check_weights(self, classes: int) -> None:
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights need one number a class; got {len(self.class_weights)} for {classes} classes"
            )


def _check_classes(targets: Tensor, count: int) -> None:
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"classes need to be int64; got {str(targets.dtype).removeprefix('torch.')}: use targets.long(), or say what they "
            "mean with task="
        )
    if targets.device.type != "cpu" or torch.compiler.is_compiling() or not len(targets):
        return
    if (least := int(targets.min())) < 0:
        raise ValueError(f"primary labels need to be at least 0; got {least}: drop samples without a label")
    if (most := int(targets.max())) >= count:
        raise ValueError(f"primary labels need to be below the number of classes, {count}; got {most}")
