"""Dense outputs, targets and signals as rows, ignored positions with weight 0."""

from __future__ import annotations

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
        labels: Int64 of shape (N, ...) or soft of shape (N, ..., K).
        y: Targets, shape (N, ...).

    Raises:
        ValueError: if labels of a dense task have another shape.
    """
    if not is_dense(task):
        return outputs, labels
    counts = positions_that_count(task, y).flatten()
    if labels.shape not in (outputs.shape, outputs.shape[:-1]):
        raise ValueError(
            f"labels of positions need the shape of the outputs, {tuple(outputs.shape)}, or without their last dimension, "
            f"{tuple(outputs.shape[:-1])}, for classes; got {tuple(labels.shape)}"
        )
    rows = outputs.flatten(0, -2)
    if labels.shape == outputs.shape:
        soft = labels.flatten(0, -2)
    else:
        known = labels.flatten().clamp(0, rows.shape[1] - 1) * counts
        soft = F.one_hot(known, rows.shape[1]).to(rows.dtype)
    return rows, soft * counts.unsqueeze(1)


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
