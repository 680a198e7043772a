"""One class of C for each position of a sample: a pixel, a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from maxl.hierarchy import Hierarchy, rows_of
from maxl.tasks._classification import Classification


@dataclass(frozen=True)
class Segmentation:
    """Classification of every position; positions to ignore have weight 0.

    Positions are whatever dimensions lie between samples and classes: (H, W) of an image, (T,) of a text, which makes
    it token classification, or none. Outputs and targets become rows before a loss sees them. Losses are means over
    all positions, the ignored ones as zeros: divided by those that count, as PyTorch does, a batch could not come in
    parts, since the divisor would differ from part to part.

    Args:
        ignore_index: Target of positions that count for nothing: not in the primary loss, not in the auxiliary one.
        gamma, class_weights, label_smoothing: As for ``Classification``.

    Raises:
        ValueError: as ``Classification``.

    Example:
        >>> maxl.MultiTaskNetwork(trunk, hierarchy, feature_dim=32, task=maxl.Segmentation(ignore_index=255))
    """

    ignore_index: int = -100
    gamma: float = 2.0
    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0

    dense: ClassVar[bool] = True  # the trunk's features have positions, and heads act on each

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", self._each.class_weights)
        _ = self._each  # checks the settings

    @property
    def _each(self) -> Classification:
        return Classification(self.gamma, self.class_weights, self.label_smoothing)

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """C."""
        return self._each.num_outputs(hierarchy)

    def weights(self, targets: Tensor) -> Tensor:
        """Whether each position counts, bool of the shape of the targets, without the last dimension of soft ones."""
        if targets.is_floating_point():
            return (targets.detach() != 0).any(-1)
        return targets != self.ignore_index

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``losses``."""
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each position.

        Args:
            outputs: Logits, shape (N, ..., C), M positions in all.
            targets: Classes, int64 of shape (N, ...) in [0, C) or ``ignore_index``; or soft labels of the shape of the
                outputs, all 0 where a position is to be ignored.

        Returns:
            Shape (M,), 0 for ignored positions.

        Raises:
            ValueError: if the shapes do not fit, or a class is out of range; values are not read on an accelerator.
        """
        rows = outputs.flatten(0, -2)
        if targets.shape == outputs.shape:
            soft = targets.flatten(0, -2)
            return self._each.losses(rows, soft) * (soft.detach() != 0).any(1)
        if targets.shape != outputs.shape[:-1]:
            raise ValueError(
                "segmentation needs a target for each position, shape (N, ...) for outputs of shape (N, ..., C); got "
                f"{tuple(targets.shape)} for {tuple(outputs.shape)}: scale the features to the size of the targets"
            )
        counts = self.weights(targets)
        classes = self._classes(targets, counts, outputs.shape[-1])
        return self._each.losses(rows, classes.flatten()) * counts.flatten()

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """The block of each position's class; all K classes for an ignored one, whose label counts for nothing.

        Args:
            targets: Classes, int64 of shape (N, ...) in [0, C) or ``ignore_index``.
            mask: Bool of shape (C, K).

        Returns:
            Bool of shape (N, ..., K).

        Raises:
            ValueError: if a class is out of range; values are not read on an accelerator.
        """
        counts = self.weights(targets)
        classes = targets if len(mask) == 1 else self._classes(targets, counts, len(mask))
        allowed = rows_of(mask, classes.flatten()).reshape(*targets.shape, mask.shape[1])
        return allowed | ~counts.unsqueeze(-1)

    def _classes(self, targets: Tensor, counts: Tensor, number: int) -> Tensor:
        """The targets with some class, 0, at ignored positions."""
        classes = torch.where(counts, targets, 0)
        readable = targets.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and classes.numel() and bool((odd := (classes < 0) | (classes >= number)).any()):
            raise ValueError(
                f"targets need to be classes in [0, {number}) or ignore_index={self.ignore_index}; got "
                f"{int(classes[odd][0])}: name the value to ignore as ignore_index="
            )
        return classes
