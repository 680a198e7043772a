"""What labels do to the training loss of a run, from the words of its config."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import information
from maxl.experiments.runs.methods import WEIGHTED_METHODS
from maxl.hierarchy import Hierarchy
from maxl.losses import focal_loss
from maxl.supervision import AuxiliaryLabels, WeightedLabels


def choose_supervision(config: RunConfig, hierarchy: Hierarchy) -> AuxiliaryLabels:
    """Of a method whose labels are learned: loss and weight of the auxiliary task, and what keeps labels from collapsing."""
    regulariser = (
        Information(hierarchy, config.entropy_weight) if config.regulariser == "information" else None
    )
    kind = (
        partial(WeightedLabels, normalise=config.normalise_weights)
        if config.method in WEIGHTED_METHODS
        else AuxiliaryLabels
    )
    return kind(
        FocalLoss(config.gamma),
        weight=config.auxiliary_weight,
        entropy_weight=config.entropy_weight,
        regulariser=regulariser,
    )


@dataclass(frozen=True)
class FocalLoss:
    """The focal loss with the run's γ, and sample weights where there are any."""

    gamma: float

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return focal_loss(logits, labels, self.gamma, weights)


@dataclass(frozen=True)
class Information:
    """Minus the weighted mutual information of the labels."""

    hierarchy: Hierarchy
    weight: float

    def __call__(self, labels: Tensor, y: Tensor) -> Tensor:
        return -self.weight * information(labels, y, self.hierarchy)
