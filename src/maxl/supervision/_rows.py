"""Dense outputs, targets and signals as rows, ignored positions with weight 0."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from maxl.hypergradients import Signals
from maxl.tasks import Task, is_dense, positions_that_count


def rows_of_positions(task: Task, outputs: Tensor, labels: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (M, K) and labels for a loss; of a dense task the labels of ignored positions are all 0.

    A loss that is linear in soft labels, as the focal loss and cross-entropy are, is 0 there. Selecting the others
    would make shapes depend on values, and wait for an accelerator.

    Args:
        task: Says whether there are positions, and which of them count.
        outputs: Shape (N, ..., K).
        labels: Int64 of shape (N, ...) in [0, K), or soft of shape (N, ..., K); anything at ignored positions.
        y: Targets, shape (N, ...).

    Raises:
        ValueError: if labels of a dense task have another shape, or one of a position that counts is out of range; values are
            not read on an accelerator.
    """
    if not is_dense(task):
        return outputs, labels
    if labels.shape not in (outputs.shape, outputs.shape[:-1]):
        raise ValueError(
            f"labels of positions need the shape of the outputs, {tuple(outputs.shape)}, or without their last dimension, "
            f"{tuple(outputs.shape[:-1])}, for classes; got {tuple(labels.shape)}"
        )
    rows = outputs.flatten(0, -2)
    counts = counting(task, y, len(rows))
    if labels.shape == outputs.shape:
        soft = labels.flatten(0, -2)
    else:
        soft = F.one_hot(classes_that_count(labels.flatten(), counts, rows.shape[1]), rows.shape[1])
        soft = soft.to(rows.dtype)
    return rows, torch.where(counts.unsqueeze(1), soft, 0)


def counting(task: Task, y: Tensor, rows: int) -> Tensor:
    """Which of a dense task's positions count, bool of shape (M,); ``rows`` is M, as targets may have several numbers each."""
    counts = positions_that_count(task, y)
    return counts.flatten() if counts.numel() == rows else counts.reshape(rows, -1).any(1)


def classes_that_count(labels: Tensor, counts: Tensor, number: int) -> Tensor:
    """Classes, int64 of shape (M,), with some class, 0, at ignored positions.

    Raises:
        ValueError: if one that counts is outside [0, number); values are not read on an accelerator, where indexing fails.
    """
    classes = torch.where(counts, labels, 0)
    readable = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if readable and bool((odd := (classes < 0) | (classes >= number)).any()):
        raise ValueError(
            f"labels of positions need to be classes in [0, {number}) wherever the target counts; got "
            f"{int(classes[odd][0])}: ignore the position in the targets (the task's ignore_index), or give it a class"
        )
    return classes


def of_mean_one(weights: Tensor, counts: Tensor | None) -> Tensor:
    """Weights divided by their mean; with ``counts``, bool of their shape, by that of those that count, the others 0."""
    if counts is None:
        return weights / weights.mean()
    weights = torch.where(counts, weights, 0)
    number = counts.sum()
    mean = torch.where(number > 0, weights.sum() / number.clamp_min(1), 1)  # a batch may ignore all positions
    return weights / mean


def check_weights(task: Task, outputs: Tensor, weights: Tensor) -> None:
    """Weights of samples, or of positions of a dense task, one number each: others would be broadcast, or change places.

    Raises:
        ValueError: if they have another shape.
    """
    wanted = outputs.shape[:-1] if is_dense(task) else outputs.shape[:1]
    if weights.shape not in (wanted, outputs.shape[:-1]):
        raise ValueError(
            f"sample weights need one number a {'position' if is_dense(task) else 'sample'}, shape {tuple(wanted)}; got "
            f"{tuple(weights.shape)}: let the generator drop dimensions of size 1 by squeeze"
        )


def flat(task: Task, signals: Signals) -> Signals:
    """Numbers, one a position, as one of shape (M,)."""
    return tuple(s.flatten() for s in signals) if is_dense(task) else signals
