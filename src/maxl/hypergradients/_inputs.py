"""What the networks take: one tensor, or several by name, such as the tokens of texts and which of them count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeGuard

import torch
from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]  # of N samples, in rows


def as_inputs(x: Inputs) -> Inputs:
    """The inputs, in a mapping of one's own where they are several: the caller may do with theirs what they like.

    Raises:
        ValueError: if they are neither a tensor nor tensors by name.
    """
    if isinstance(x, Tensor):
        return x
    if not _by_name(x):
        found = type(x).__name__
        if isinstance(x, Mapping):
            found += f" of {', '.join(f'{name}: {type(v).__name__}' for name, v in x.items()) or 'nothing'}"
        raise ValueError(f"inputs need to be a tensor, or tensors by name in a mapping; got {found}")
    return dict(x)


def _by_name(x: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(x, Mapping) and bool(x) and all(isinstance(v, Tensor) for v in x.values())


def tensors_of(x: Inputs) -> tuple[Tensor, ...]:
    """All of them, in order."""
    return (x,) if isinstance(x, Tensor) else tuple(x.values())


def map_tensors(do: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """What ``do`` makes of every tensor, in their places."""
    return do(x) if isinstance(x, Tensor) else {name: do(value) for name, value in x.items()}


def device_of(x: Inputs) -> torch.device:
    """Where they are; of several, where the first is."""
    return tensors_of(x)[0].device


def versions_of(x: Inputs) -> tuple[int, ...]:
    """One number a tensor, which counts writes to it."""
    return tuple(t._version for t in tensors_of(x))


def same_tensors(x: Inputs, other: Inputs) -> bool:
    """Whether they are the very tensors, not only equal ones."""
    if isinstance(x, Tensor) or isinstance(other, Tensor):
        return x is other
    return x.keys() == other.keys() and all(value is other[name] for name, value in x.items())


def some_of(x: Inputs, rows: Tensor, count: int) -> Inputs:
    """The samples at ``rows`` of ``count``.

    Raises:
        ValueError: if a tensor has another number of rows.
    """
    return map_tensors(lambda t: t[rows], _in_rows(x, count))


def parts_of(x: Inputs, size: int, count: int) -> list[Inputs]:
    """``count`` samples in parts of ``size``, the last of which may have fewer.

    Raises:
        ValueError: if a tensor has another number of rows.
    """
    split = [torch.split(t, size) for t in tensors_of(_in_rows(x, count))]
    if isinstance(x, Tensor):
        return list(split[0])
    return [dict(zip(x, part, strict=True)) for part in zip(*split, strict=True)]


def _in_rows(x: Inputs, count: int) -> Inputs:
    if any(t.dim() == 0 or len(t) != count for t in tensors_of(x)):
        shapes = [tuple(t.shape) for t in tensors_of(x)]
        named = shapes[0] if isinstance(x, Tensor) else dict(zip(x, shapes, strict=True))
        raise ValueError(
            f"a part of a batch needs inputs with one row for each of its {count} samples; got {named}: repeat what all "
            "samples share, or make it inside the network"
        )
    return x
