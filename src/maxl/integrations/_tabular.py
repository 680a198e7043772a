"""Training on a table with a weight for each sample: network, losses and loop of the scikit-learn estimators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maxl.hierarchy import Hierarchy
from maxl.hypergradients import Outputs, Signals
from maxl.learning import MetaAuxiliaryLearner, MultiTaskLearner, Next
from maxl.losses import focal_losses
from maxl.networks import LabelGenerator, MultiTaskNetwork
from maxl.supervision import AuxiliaryLabels, Losses, NoLabels, UniformLabels
from maxl.tasks import Task
from maxl.trunks import ResidualTrunk


@dataclass(frozen=True)
class Weighted:
    """A task whose targets have one more column, a weight of at least 0 for each sample.

    Args:
        task: Of the other columns.
        classes: Whether these are one column of class numbers.
    """

    task: Task
    classes: bool

    def split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The task's targets, and the weights, shape (N,)."""
        own = targets[:, :-1]
        return (own.squeeze(1).long() if self.classes else own), targets[:, -1]

    def num_outputs(self, hierarchy: Hierarchy) -> int:
        """As the task's."""
        return self.task.num_outputs(hierarchy)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of ``losses``."""
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's, each times its weight."""
        own, weights = self.split(targets)
        return self.task.losses(outputs, own) * weights

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        """As the task's."""
        return self.task.rows(self.split(targets)[0], mask)


class WeightedAuxiliary(AuxiliaryLabels):
    """Auxiliary labels whose loss and entropy count each sample by its weight.

    Args:
        task: Has the weights.
        weight: Factor on the auxiliary loss.
    """

    def __init__(self, task: Weighted, weight: float) -> None:
        super().__init__(weight=weight)
        self.task = task

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """As ``AuxiliaryLabels.losses``."""
        primary = task.loss(outputs[0], y)
        if not signals:
            return Losses(primary, None)
        of_samples = focal_losses(outputs[1], signals[0], 0.0)
        return Losses(primary, self.weight * (of_samples * self.task.split(y)[1]).mean())

    def penalty(self, signals: Signals, y: Tensor) -> Tensor:
        """λ Σ_k ȳ_k log ȳ_k of the weighted mean label ȳ."""
        weights = self.task.split(y)[1].unsqueeze(1)
        mean = (signals[0] * weights).sum(0) / weights.sum()
        return self.entropy_weight * (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def build_network(
    inputs: int, task: Weighted, hierarchy: Hierarchy, *, width: int, depth: int, dropout: float
) -> MultiTaskNetwork:
    """A new network in float64; arguments as for ``Training.build``."""
    return MultiTaskNetwork(ResidualTrunk(inputs, width, depth, dropout), hierarchy, task=task).double()


@dataclass
class Training:
    """Networks and optimizers, and a loop over the rows of a table.

    Args:
        network, learner, supervision: As built by ``build``.
        batch_size: Rows in a step.
        rate: Learning rate.

    Attributes:
        losses: Mean primary training loss of each epoch.
    """

    network: MultiTaskNetwork
    learner: MultiTaskLearner
    supervision: WeightedAuxiliary
    batch_size: int
    rate: float
    losses: list[float] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        inputs: int,
        task: Weighted,
        hierarchy: Hierarchy,
        *,
        method: str,
        width: int,
        depth: int,
        dropout: float,
        rate: float,
        alpha: float,
        auxiliary_weight: float,
        batch_size: int,
    ) -> Training:
        """New networks, drawn by torch's global generator of random numbers.

        Args:
            inputs: Number of columns.
            task, hierarchy: Of the targets.
            method: "maxl", "uniform" or "single".
            width, depth, dropout: Of the trunk.
            rate, alpha: Learning rate and weight decay of AdamW.
            auxiliary_weight: Factor on the auxiliary loss.
            batch_size: Rows in a step.
        """
        network = build_network(inputs, task, hierarchy, width=width, depth=depth, dropout=dropout)
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=alpha)
        supervision = WeightedAuxiliary(task, auxiliary_weight)
        learner: MultiTaskLearner
        if method == "maxl":
            generator = LabelGenerator.sharing(network).double()
            learner = MetaAuxiliaryLearner(
                network,
                generator,
                optimizer,
                torch.optim.Adam(generator.parameters(), lr=rate),
                supervision=supervision,
                lookahead=Next(),
            )
        else:
            source: Any = UniformLabels(hierarchy, task) if method == "uniform" else NoLabels()
            learner = MultiTaskLearner(network, optimizer, source=source, supervision=supervision)
        return cls(network, learner, supervision, batch_size, rate)

    def set(self, rate: float, alpha: float, auxiliary_weight: float, batch_size: int) -> None:
        """What may change between epochs; arguments as for ``build``."""
        self.rate, self.batch_size, self.supervision.weight = rate, batch_size, auxiliary_weight
        for group in self.learner.optimizer.param_groups:
            group["weight_decay"] = alpha
        if isinstance(self.learner, MetaAuxiliaryLearner):
            for group in self.learner.meta_optimizer.param_groups:
                group["lr"] = rate

    def epochs(self, x: Tensor, y: Tensor, count: int, *, horizon: int | None = None) -> Iterator[None]:
        """Trains, and yields after each epoch.

        Args:
            x: Shape (N, inputs).
            y: Targets and weights, shape (N, columns + 1).
            count: Number of epochs.
            horizon: Epochs over which the learning rate falls along half a cosine to 0; constant without.
        """
        for epoch in range(count):
            for group in self.learner.optimizer.param_groups:
                fall = 1.0 if horizon is None else 0.5 + 0.5 * math.cos(math.pi * epoch / horizon)
                group["lr"] = self.rate * fall
            total = 0.0
            for rows in torch.split(torch.randperm(len(x)), self.batch_size):
                result = self.learner.step(x[rows], y[rows])
                assert result.primary_loss is not None
                total += float(result.primary_loss) * len(rows) / len(x)
            self.losses.append(total)
            yield


def losses_until(
    training: Training,
    rows: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    *,
    most: int,
    patience: int,
    told: Callable[[Training], None],
) -> list[float]:
    """Trains until the loss of samples held out has not fallen for some epochs; that loss after each epoch.

    Args:
        training: Moved.
        rows, held_out: Inputs, and targets with weights.
        most: Epochs at most.
        patience: Epochs without a new least loss, after which training ends.
        told: Called after each epoch.
    """
    network, losses = training.network, list[float]()
    for _ in training.epochs(*rows, most, horizon=most):
        network.eval()
        with torch.no_grad():
            losses.append(float(network.task.loss(network.predict(held_out[0]), held_out[1])))
        network.train()
        told(training)
        if len(losses) - losses.index(min(losses)) > patience:
            break
    return losses
