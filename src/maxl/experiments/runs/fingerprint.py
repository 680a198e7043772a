"""What identifies the data of a run, so that it is not continued on other data."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.data import DataSet

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
        for tensor in (part.x, part.primary, part.human, part.probe):
            if tensor is None:
                continue
            digest.update(repr(tuple(tensor.shape)).encode())
            if tensor.is_floating_point():
                sketch += _project(tensor)
                norm += sum(float(rows.double().square().sum()) for rows in torch.split(tensor, _ROWS))
            else:
                digest.update(tensor.cpu().contiguous().numpy().data)
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


def _project(x: Tensor) -> Tensor:
    """Sums of all entries with random signs that depend on row and column."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2, (len(x), _SKETCH), generator=generator) * 2.0 - 1
    columns = torch.randint(2, (x[0].numel(), _SKETCH), generator=generator) * 2.0 - 1
    total = torch.zeros(columns.shape, dtype=torch.float64)
    for part, signs in zip(torch.split(x, _ROWS), torch.split(rows, _ROWS), strict=True):
        total += part.flatten(1).cpu().double().T @ signs.double()
    return (total * columns.double()).sum(0)
