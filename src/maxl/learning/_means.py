"""Whether a loss is a mean over samples, so that parts of a batch can be put together."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, Signals, TrainingLoss

TOLERANCE = 1e-3  # relative; rounding in float32 stays far below, a wrong normalisation far above


@torch.no_grad()
def check_mean(loss: TrainingLoss, outputs: Outputs, y: Tensor, signals: Signals) -> None:
    """Compares the loss with that of two halves, which costs passes over the outputs alone.

    Raises:
        ValueError: if the loss of all samples is not the mean of both halves' losses by their number of samples.
    """
    total = len(y)
    half = total // 2
    if half == 0:
        return
    # By target, so that halves differ in whatever hangs on it; and moved, as an untrained network's outputs are alike.
    order = y.reshape(total, -1)[:, 0].argsort()
    moved = tuple(_moved(o.detach()) for o in outputs)
    weighed = tuple(_weighed(s.detach()) for s in signals)  # a generator's first ones are alike, too

    def of(start: int, end: int) -> Tensor:
        rows = order[start:end]
        return loss(tuple(o[rows] for o in moved), y[rows], tuple(s[rows] for s in weighed))

    whole = of(0, total)
    parts = (half * of(0, half) + (total - half) * of(half, total)) / total
    if bool((whole - parts).abs() > TOLERANCE * whole.abs().clamp_min(1e-6)):
        raise ValueError(
            "a step on parts of a batch needs losses that are means over samples; got one that is "
            f"{whole.item():.6g} on all and {parts.item():.6g} by halves: use no sum, class weights or ignore_index "
            "there (weigh each sample's loss and take the mean instead)"
        )


def joined(
    one: tuple[Outputs, Tensor, Signals], other: tuple[Outputs, Tensor, Signals]
) -> tuple[Outputs, Tensor, Signals]:
    """The rows of both, where they fit together; else those of the other."""
    ours, theirs = ([*outputs, y, *signals] for outputs, y, signals in (one, other))
    count = len(one[0])
    if count != len(other[0]) or [t.shape[1:] for t in ours] != [t.shape[1:] for t in theirs]:
        return other
    rows = [torch.cat(pair) for pair in zip(ours, theirs, strict=True)]
    return tuple(rows[:count]), rows[count], tuple(rows[count + 1 :])


def _weighed(signals: Tensor) -> Tensor:
    """Other signals, of the same sign and no larger, by a factor that differs from row to row."""
    steps = torch.arange(len(signals), dtype=signals.dtype, device=signals.device)
    return signals * (0.75 + 0.25 * steps.sin()).view(-1, *[1] * (signals.dim() - 1))


def _moved(outputs: Tensor) -> Tensor:
    """Other outputs than these, different from row to row, without drawing random numbers."""
    steps = torch.arange(outputs.numel(), dtype=outputs.dtype, device=outputs.device)
    return outputs + steps.sin().view(outputs.shape)
