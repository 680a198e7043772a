"""What labels do to the training loss of a run, from the words of its config."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import information
from maxl.experiments.runs.methods import PROTOTYPE_METHODS, WEIGHTED_METHODS
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import Outputs, Signals
from maxl.losses import contrastive_loss, focal_loss
from maxl.supervision import (
    AuxiliaryLabels,
    CorrectedLabels,
    GeneralizedCrossEntropy,
    Losses,
    SampleWeights,
    SmallLosses,
    Supervision,
    WeightedLabels,
)
from maxl.tasks import Task


def judges_by_features(config: RunConfig) -> bool:
    """Whether a run has a loss on features of its trunk: what judges its labels, or trains it."""
    taught = config.method in PROTOTYPE_METHODS and config.outer_term == "contrastive"
    return taught or config.method == "contrastive"


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


class Contrastive(Supervision):
    """L_in = L_pri(f(x), y) + W L_con(h, t, y), with h the trunk's features and L_con ``maxl.losses.contrastive_loss``.

    What ``ContrastiveTask`` judges labels by, put into the training loss itself: its control.

    Args:
        weight: W > 0.
    """

    signals: ClassVar[tuple[str, ...]] = ("labels",)
    trains_on_outer_loss = True

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As above; features are the network's auxiliary outputs."""
        (labels,) = self.check_signals(signals)
        return Losses(task.loss(outputs[0], y), self.weight * contrastive_loss(outputs[1], labels, y))


@dataclass(frozen=True)
class ContrastiveTask:
    """A classification that is trained by its own loss, and judged by L_pri + W L_con(h, t, y).

    Outputs are logits and features h side by side, shape (N, C + D). Targets of what trains are classes, int64 of shape
    (N,); of what judges they are ``with_labels``, classes and the labels t of the same samples. These are constants: labels
    are taught by what they do to the weights alone, as by the primary loss, and cannot please by what they say of h.

    Attributes:
        task: The classification.
        classes: C.
        weight: W > 0.
    """

    task: Task
    classes: int
    weight: float

    @staticmethod
    def with_labels(y: Tensor, labels: Tensor) -> Tensor:
        """Targets that judge, shape (N, 1 + K)."""
        return torch.cat([y.unsqueeze(1).to(labels.dtype), labels.detach()], 1)

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """C."""
        return self.task.num_outputs(hierarchy)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As above."""
        if targets.dim() == 1:
            return self.task.loss(outputs[:, : self.classes], targets)
        y = targets[:, 0].long()
        primary = self.task.loss(outputs[:, : self.classes], y)
        return primary + self.weight * contrastive_loss(outputs[:, self.classes :], targets[:, 1:], y)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample, the classification's."""
        return self.task.losses(outputs[:, : self.classes], targets)

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """As the classification's."""
        return self.task.rows(targets, mask)


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


def robust(config: RunConfig) -> Supervision | None:
    """The training loss of a method that bears wrong labels by its loss alone."""
    if config.method == "gce":
        return GeneralizedCrossEntropy()
    return SmallLosses(config.keep_part) if config.method == "small-loss" else None


def of_given_labels(config: RunConfig) -> Supervision | None:
    """What a generator does to given labels; None where it gives labels of a second task."""
    if config.method == "reweighted":
        return SampleWeights(normalise=True, effective=config.effective_samples)
    return CorrectedLabels() if config.method == "corrected" else None
