"""Whether tensors are finite, at the price of a sum."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no number is nan or infinite, whatever the kind of tensor; waits for the device once.

    A sum with such a number in it is not finite. Only where the sum is not, which may be an overflow, every number is
    looked at.
    """
    numbers = [torch.view_as_real(t) if t.is_complex() else t for t in tensors if t.numel()]
    if not numbers:
        return True
    sums = [t.detach().sum().to(numbers[0].device, torch.float32) for t in numbers]
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum()
    return math.isfinite(total.item()) or all(bool(t.isfinite().all()) for t in numbers)
