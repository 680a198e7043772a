"""Small networks and batches that the tests of the mathematics share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import maxl

PSI = [3, 2, 4]


def conv_trunk(dropout: float = 0.0) -> nn.Sequential:
    """Convolution, BatchNorm, max pooling and, if asked for, dropout; 3×8×8 inputs, 16 features."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 16),
    )


def pair(dropout: float = 0.0, seed: int = 0) -> tuple[maxl.MultiTaskNetwork, maxl.LabelGenerator]:
    torch.manual_seed(seed)
    hierarchy = maxl.Hierarchy(PSI)
    return (
        maxl.MultiTaskNetwork(conv_trunk(dropout), hierarchy),
        maxl.LabelGenerator(conv_trunk(), hierarchy),
    )


def batch(n: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 8, 8, generator=random)
    return x, torch.randint(0, len(PSI), (n,), generator=random)


def flatten(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
