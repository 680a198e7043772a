"""How fast the parts of a network learn: rates by part and layer, what is frozen, and how rates change with time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.methods import WITHOUT_LABELS
from maxl.experiments.runs.mixed import MixedTrunk
from maxl.experiments.runs.trunks import bare
from maxl.finetuning import freeze, parameter_groups

_ALL = "trunk"  # as a part to freeze


@dataclass(frozen=True)
class Schedule:
    """Factor on learning rates: a rise from 0 during ``warmup`` epochs, then the decay over those that remain.

    The rise is linear and by steps, and reaches 1 with its last; the decay is by epochs.

    Args:
        kind: "step", halved at each quarter (the paper: every 50 of 200 epochs), "cosine" or "constant".
        epochs: Of the run.
        warmup: At least 0, and less than ``epochs``.
        anew: The epoch in which it begins anew, without a rise; none by default.
    """

    kind: str
    epochs: int
    warmup: float = 0.0
    anew: int | None = None

    def __call__(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """At a step, of so many of an epoch, both counted from 0."""
        epochs = self.epochs
        if self.anew is not None:
            if epoch >= self.anew:
                return self._decay(epoch - self.anew, self.epochs - self.anew)
            epochs = self.anew
        done = epoch * steps + step + 1
        rise = min(1.0, done / (self.warmup * steps)) if self.warmup else 1.0
        return rise * self._decay(max(0.0, epoch - self.warmup), epochs - self.warmup)

    def _decay(self, epoch: float, epochs: float) -> float:
        if self.kind == "step":
            return float(0.5 ** (4 * min(epoch, epochs - 1) // epochs))
        if self.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        return 1.0


def freeze_parts(config: RunConfig, trunk: nn.Module) -> list[nn.Module]:
    """Freezes what ``config.freeze`` names; returns the modules that stay in eval mode.

    Raises:
        ValueError: if the trunk has no such part, or nothing is left through which auxiliary labels could teach the
            primary task.
    """
    parts = config.freeze or ()
    if not parts:
        return []
    try:
        frozen = freeze(bare(trunk), () if _ALL in parts else parts)
    except ValueError as error:
        raise ValueError(f"--freeze: {error}; or {_ALL} for all of it") from error
    if config.method not in WITHOUT_LABELS and not any(p.requires_grad for p in trunk.parameters()):
        raise ValueError(
            f"--freeze leaves nothing of the trunk to train, and the heads share nothing else: labels of --method "
            f"{config.method} could change nothing of the primary task; freeze its first parts, or use --method single"
        )
    return frozen


def network_groups(config: RunConfig, network: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of a network's optimizer, with their learning rates; the heads' last.

    Beside images the layers of columns learn as the heads do: rates of a trunk are those of the image trunk.

    Raises:
        ValueError: if rates are by layer, and the layers of the trunk are not known.
    """
    if config.trunk_learning_rate is None and config.layer_decay is None:
        return [{"params": [p for p in network.parameters() if p.requires_grad], "lr": config.learning_rate}]
    if isinstance(trunk := network.get_submodule("trunk"), MixedTrunk):
        heads = {name: part for name, part in network.named_children() if name != "trunk"}
        network = nn.ModuleDict({"trunk": trunk.image, "columns": trunk.columns, **heads})
    try:
        return parameter_groups(
            network,
            config.learning_rate,
            trunk_lr=config.trunk_learning_rate,
            layer_decay=config.layer_decay,
        )
    except ValueError as error:
        raise ValueError(f"--layer-decay: {error}") from error


def optimizer_of(
    kind: str, groups: list[dict[str, Any]], weight_decay: float, momentum: float = 0.0
) -> Optimizer:
    """Of parameter groups with their learning rates; ``kind`` is "sgd", "adam" or "adamw", and momentum is SGD's."""
    if kind == "sgd":
        return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)
    adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return adam(groups, weight_decay=weight_decay)
