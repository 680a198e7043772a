"""Positions of a batch's samples in the training set."""

from __future__ import annotations

import torch
from torch import Tensor


def checked_positions(index: Tensor | None, count: int, size: int, what: str) -> Tensor:
    """The positions, which index a table of labels.

    Args:
        index: int64 or int32 of shape (N,), each in [0, size). Numbers are not read on an accelerator, since that would wait
            for it.
        count: N, the number of samples of the batch.
        size: Number of training samples.
        what: Needs them, for the message.

    Raises:
        ValueError: if they are missing or others. A mask, and numbers counted from the end, would index other samples.
    """
    if index is None:
        raise ValueError(f"{what}: pass index=, the samples' positions in the training set")
    kind = getattr(index, "dtype", type(index).__name__)
    if (
        not isinstance(index, Tensor)
        or index.dtype not in (torch.int64, torch.int32)
        or index.shape != (count,)
    ):
        raise ValueError(
            f"{what}: index= needs one position for each of the {count} samples, int64 of shape ({count},); got "
            f"{str(kind).removeprefix('torch.')} of shape {tuple(getattr(index, 'shape', ()))}"
        )
    if index.device.type == "cpu" and count:
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"{what}: positions need to be from 0 to {size - 1}, of the {size} training samples; got {low} to {high}"
            )
    return index
