"""Tensors put together into messages of some size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def buckets(indices: Iterable[int], like: Sequence[Tensor], size: int) -> list[list[int]]:
    """Neighbours of one type on one device, up to ``size`` bytes together; the same in every process.

    Args:
        indices: Into ``like``, in the order in which they are to be sent.
        like: Tensors of the sizes and types of what is sent.
        size: In bytes, as they are sent. A tensor that is larger has a bucket to itself.
    """
    found: list[list[int]] = []
    bytes_ = 0
    for i in indices:
        own = like[i].numel() * _wide(like[i].dtype).itemsize
        if not found or bytes_ + own > size or not together(like[i], like[found[-1][0]]):
            found.append([])
            bytes_ = 0
        found[-1].append(i)
        bytes_ += own
    return found


def together(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors may be in one bucket."""
    return a.dtype == b.dtype and a.device == b.device


def flattened(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """One tensor of all their numbers, half precision as float32; None stands for zeros."""
    wide = _wide(like[0].dtype)
    return torch.cat(
        [
            torch.zeros(p.numel(), dtype=wide, device=p.device)
            if t is None
            else t.detach().resolve_conj().reshape(-1).to(wide)
            for t, p in zip(tensors, like, strict=True)
        ]
    )


def unflattened(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, of the shapes and types of ``like``."""
    pieces = torch.split(flat, [p.numel() for p in like])
    return [piece.view(p.shape).to(p.dtype) for piece, p in zip(pieces, like, strict=True)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Half precision is summed in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
