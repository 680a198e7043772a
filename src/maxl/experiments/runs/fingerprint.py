"""What identifies the data of a run, so that it is not continued on other data."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.data import DataSet, Samples, read_pieces

_SKETCH = 8  # projections of the features
_ROWS = 4096  # at a time: in float64 they take twice their memory
_TOLERANCE = 1e-5  # of their norm; sums over rows in another order move features by about 1e-7


def fingerprint(data: DataSet) -> dict[str, Any]:
    """Classes, numbers of samples, and what all samples and labels amount to; plain values.

    Labels and images are whole numbers and hashed to the last bit. Features are floats that statistics of the
    training set have scaled, and the last bits of these depend on the number of threads: they are projected
    onto a few fixed directions, and compared within a tolerance.
    """
    digest, sketch = hashlib.sha256(), torch.zeros(_SKETCH, dtype=torch.float64)
    norm = 0.0
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    for part in parts.values():
        if part is None:
            continue
        for samples in (part.x, part.columns, part.primary, part.human, part.probe, part.trusted):
            if samples is None:
                continue
            digest.update(repr(tuple(samples.shape)).encode())
            signs = _Signs(samples) if samples.dtype.is_floating_point else None
            for piece in read_pieces(samples, _ROWS):
                if signs is None:
                    digest.update(piece.cpu().contiguous().numpy().data)
                else:
                    signs.add(piece)
                    norm += float(piece.double().square().sum())
            if signs is not None:
                sketch += signs.sums()
    return {
        "classes": list(data.primary_names),
        "samples": {name: len(part) for name, part in parts.items() if part is not None},
        "digest": digest.hexdigest(),
        "sketch": sketch.tolist(),
        "norm": norm**0.5,
    }


def what_changed(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What two fingerprints differ in, in words, or None."""
    if before["classes"] != now["classes"]:
        return "its classes"
    if before["samples"] != now["samples"]:
        return "the number of its samples"
    if before["digest"] != now["digest"]:
        return "its samples or labels"
    far = max(abs(a - b) for a, b in zip(before["sketch"], now["sketch"], strict=True))
    return "its features" if far > _TOLERANCE * max(1.0, before["norm"]) else None


class _Signs:
    """Sums of all entries with random signs that depend on row and column."""

    def __init__(self, samples: Samples) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._total = torch.zeros(math.prod(samples.shape[1:]), _SKETCH, dtype=torch.float64)

    def add(self, piece: Tensor) -> None:
        """The next rows."""
        self._total += piece.flatten(1).cpu().double().T @ self._draw(len(piece)).double()

    def sums(self) -> Tensor:
        """Shape (8,), once all rows have been added."""
        return (self._total * self._draw(len(self._total)).double()).sum(0)

    def _draw(self, count: int) -> Tensor:
        return torch.randint(2, (count, _SKETCH), generator=self._generator) * 2.0 - 1
