"""Labels that are learned before a run and judged by samples that their networks have not seen: the method ``prototypes``.

1. Clusters within each class, as ``kmeans`` finds them, give a ``PrototypeGenerator`` its start, in the features that were
   clustered. They are moved and scaled as a whole, to a mean of 0 and a spread of 1, so that a learning rate means the same
   in all of them; τ is such that labels begin with a share (``prototype_softness``) of uniform labels' entropy.
2. The samples are cut into J folds with their classes in proportion, J = 1 / ``held_out``. Of J networks the j-th, with weights of its own, is
   trained on all samples but fold j, with the generator's current labels, and judges them on batches of fold j: an
   auxiliary task is worth what it gives on samples outside the training set, and no network has those in it. In each epoch
   the networks train one after another, from fresh weights where the run starts from another one's, which may know the labels
   of all samples. They take turns with meta steps, one in J iterations of each, so that the generator
   takes as many as one that is trained beside a single network. Nothing decays the prototypes. With ``outer_term`` the
   features on those batches judge, too: see ``supervisions.ContrastiveTask``.
3. The labels of all training samples are what the run proper trains a fresh network on, soft and fixed.

All of it is a function of the config and the data. A run that goes on does it again, as ``kmeans`` does.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.experiments.data import Batch, DataSet, Split
from maxl.experiments.runs.baselines import cluster_centres
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import some_of
from maxl.experiments.runs.machine import tensor_float32
from maxl.experiments.runs.outer import fold_count, folds, over_and_over
from maxl.experiments.runs.rates import optimizer_of
from maxl.experiments.runs.start import without_run
from maxl.experiments.runs.stepping import taught_step, training_stream
from maxl.experiments.runs.supervisions import ContrastiveTask, choose_supervision
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.learning import MetaAuxiliaryLearner
from maxl.networks import MultiTaskNetwork, PrototypeGenerator, masked_softmax
from maxl.tasks import Task

if TYPE_CHECKING:
    from maxl.experiments.runs.build import Setup

_MOST = 2000  # samples by which the temperature is found
_ROWS = 4096  # samples labelled at a time
_HALVINGS = 60  # of the range of the temperature's logarithm: beyond the digits of a float64
_RANGE = 1e6  # times the mean squared distance, and its inverse: between them labels go from hard to uniform
_logger = logging.getLogger(__name__)


def cross_fitted_labels(
    config: RunConfig,
    data: DataSet,
    hierarchy: Hierarchy,
    task: Task,
    points: Tensor,
    device: torch.device,
    build: Callable[[RunConfig], Setup],
) -> Tensor:
    """Soft labels of all training samples, float32 of shape (N, K), each a distribution over what its sample may use.

    Torch's global generator is left as it was. Passes are eager, whatever the config says of compilation.

    Args:
        config: The run.
        data: Its data.
        hierarchy: ψ.
        task: What targets mean.
        points: Features of the training samples, shape (N, D).
        device: Where to compute.
        build: Builds everything of another run on the same data and device.

    Raises:
        ValueError: if a class has fewer samples than clusters.
        FloatingPointError: if the training diverges.
    """
    generator, points = starting_generator(config, data, hierarchy, task, points.to(device))
    try:
        with RandomState.capture(device).replay(), tensor_float32(config.precision != "float32"):
            torch.manual_seed(config.seed)
            _teach(generator, config, data, hierarchy, points, device, build)
        labels = labels_of(generator, points, data.train.primary.to(device))
    except FloatingPointError:
        labels = torch.full((1,), torch.nan)
    if not labels.isfinite().all():
        raise FloatingPointError(
            f"--method {config.method} needs networks that train on parts of the samples; a loss or label of theirs is not "
            "finite: lower --learning-rate or --meta-learning-rate"
        )
    return labels


def starting_generator(
    config: RunConfig, data: DataSet, hierarchy: Hierarchy, task: Task, points: Tensor
) -> tuple[PrototypeGenerator, Tensor]:
    """The generator before it is taught, which takes features for inputs, and the features of the samples as it takes them.

    Args:
        config, data, hierarchy, task, points: As for ``cross_fitted_labels``.

    Raises:
        ValueError: if a class has fewer samples than clusters.
    """
    centres = cluster_centres(points, data.train.primary, hierarchy, config.seed)
    middle = points.mean(0)
    spread = float((points - middle).square().mean().sqrt()) or 1.0
    points, centres = (points - middle) / spread, (centres - middle) / spread
    allowed = task.rows(data.train.primary.cpu(), hierarchy.mask)
    some = some_of(len(points), _MOST)
    temperature = temperature_of(
        points[some.to(points.device)].cpu(), centres.cpu(), allowed[some], config.prototype_softness
    )
    generator = PrototypeGenerator(nn.Identity(), hierarchy, centres, temperature=temperature, task=task)
    return generator.to(points.device), points


def temperature_of(points: Tensor, prototypes: Tensor, allowed: Tensor, softness: float) -> float:
    """τ at which labels have a share of the entropy that uniform ones have, in the mean over samples.

    Entropy rises with τ, so halving a range finds it.

    Args:
        points: Features, shape (N, D).
        prototypes: Shape (K, D).
        allowed: What each sample may use, bool of shape (N, K).
        softness: The share, in (0, 1).

    Returns:
        1 where no sample has a choice. Where τ makes no difference, for all distances are alike, some τ above 0.
    """
    most = allowed.sum(1).double().log().mean()
    if float(most) == 0.0:
        return 1.0
    distances = torch.cdist(points.double(), prototypes.double()).square()
    scale = float(distances[allowed].mean()) or 1.0
    low, high = -math.log(_RANGE), math.log(_RANGE)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        labels = masked_softmax(-distances / (scale * math.exp(middle)), allowed)
        entropy = torch.special.entr(labels).sum(1).mean()
        low, high = (low, middle) if entropy > softness * most else (middle, high)
    return scale * math.exp((low + high) / 2)


def labels_of(generator: PrototypeGenerator, points: Tensor, primary: Tensor) -> Tensor:
    """Labels of samples by their features, shape (N, K)."""
    with torch.no_grad():
        parts = zip(torch.split(points, _ROWS), torch.split(primary, _ROWS), strict=True)
        return torch.cat([generator(x, y) for x, y in parts])


@dataclass(frozen=True)
class Turn:
    """When one of several networks takes the meta step, in turns.

    Attributes:
        number: Which of the networks, from 0.
        of: How many there are.
        every: At each so many-th iteration one of them does.
    """

    number: int
    of: int
    every: int = 1

    def due(self, step: int) -> bool:
        """Whether it is at a training step of this network, counted from 0."""
        return step % self.every == 0 and step // self.every % self.of == self.number


class _OfInputs(nn.Module):
    """A network that is given inputs and features of samples, and looks at the inputs."""

    def __init__(self, network: MultiTaskNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.network(x["inputs"])
        return outputs


class _WithFeatures(_OfInputs):
    """The same, and the features of its trunk beside its primary outputs, as a ``ContrastiveTask`` takes them."""

    def forward(self, x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        features = self.network.trunk(x["inputs"])
        primary = torch.cat([self.network.primary_head(features), features], 1)
        return primary, self.network.auxiliary_head(features)


class _OfFeatures(nn.Module):
    """A generator that is given the same, and looks at the features."""

    def __init__(self, generator: PrototypeGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Mapping[str, Tensor], y: Tensor) -> Tensor:
        labels: Tensor = self.generator(x["features"], y)
        return labels


@dataclass(frozen=True)
class _Fold:
    """A network, the positions of the samples that it trains on and of those that judge it, and what draws their order."""

    setup: Setup
    learner: MetaAuxiliaryLearner
    training: Tensor
    judging: Tensor
    seed: int


def _teach(
    generator: PrototypeGenerator,
    config: RunConfig,
    data: DataSet,
    hierarchy: Hierarchy,
    points: Tensor,
    device: torch.device,
    build: Callable[[RunConfig], Setup],
) -> None:
    """Moves the generator in place."""
    rate = config.meta_learning_rate
    meta_optimizer = optimizer_of(
        config.meta_optimizer, [{"params": list(generator.parameters()), "lr": rate}], 0.0
    )
    epochs = config.prototype_epochs or config.epochs
    config = dataclasses.replace(without_run(config), method="uniform", epochs=epochs, compile=False)
    parts = folds(data.train, fold_count(config), config.seed)
    seeds = _seeds(config.seed, len(parts))
    networks = [
        _fold(j, parts, seed, generator, meta_optimizer, config, hierarchy, device, build)
        for j, seed in enumerate(seeds)
    ]
    _logger.debug(
        "prototypes: %d networks, each trained for %d epochs without the samples that judge it",
        *(len(networks), epochs),
    )
    for epoch in range(epochs):
        for fold in networks:
            _epoch(fold, epoch, meta_optimizer, config, data, points, device)


def _seeds(seed: int, count: int) -> list[int]:
    """Of networks other than the run's, which are no other run's either."""
    drawn = torch.randint(2**32, (count,), generator=torch.Generator().manual_seed(seed))
    return [int(value) for value in drawn]


def _fold(
    number: int,
    parts: Sequence[Tensor],
    seed: int,
    generator: PrototypeGenerator,
    meta_optimizer: Optimizer,
    config: RunConfig,
    hierarchy: Hierarchy,
    device: torch.device,
    build: Callable[[RunConfig], Setup],
) -> _Fold:
    setup = build(dataclasses.replace(config, seed=seed))
    setup.train()
    task, network = setup.network.task, _OfInputs(setup.network)
    if config.outer_term == "contrastive":
        task = ContrastiveTask(task, task.num_outputs(hierarchy), config.outer_weight)
        network = _WithFeatures(setup.network)
    learner = MetaAuxiliaryLearner(
        network,
        _OfFeatures(generator),
        setup.optimizers[0],
        meta_optimizer,
        task=task,
        supervision=choose_supervision(config, hierarchy),
        hypergradient=config.hypergradient,
        lookahead=config.lookahead,
        lookahead_rule=config.lookahead_rule,
        schedule=Turn(number, len(parts), config.meta_every),
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
        check_finite=device.type == "cpu",
    )
    training = torch.cat([part for i, part in enumerate(parts) if i != number]).sort().values
    return _Fold(setup, learner, training, parts[number], seed)


def _epoch(
    fold: _Fold,
    epoch: int,
    meta_optimizer: Optimizer,
    config: RunConfig,
    data: DataSet,
    points: Tensor,
    device: torch.device,
) -> None:
    """One pass of a network over its samples."""

    def given(batch: Batch, positions: Tensor) -> dict[str, Tensor]:
        taken = positions.to(batch.index.device)[batch.index]
        return {"inputs": batch.x, "features": points[taken]}

    def part(positions: Tensor) -> Split:
        return data.train.select(positions.to(data.train.x.device))

    stream = training_stream(config, data, part(fold.training), fold.seed, device)
    judges = training_stream(config, data, part(fold.judging), fold.seed + 1, device)
    pairs = zip(stream.epoch(epoch), over_and_over(judges, len(stream), epoch), strict=False)
    for i, (batch, judge) in enumerate(pairs):
        fold.setup.set_learning_rates(epoch, i, len(stream))
        factor = fold.setup.schedule(epoch, i, len(stream))
        for group in meta_optimizer.param_groups:
            group["lr"] = config.meta_learning_rate * factor
        x, y = given(judge, fold.judging), judge.primary
        if isinstance(fold.learner.task, ContrastiveTask):
            y = fold.learner.task.with_labels(y, fold.learner.generator(x, y))
        taught_step(
            fold.learner,
            given(batch, fold.training),
            batch.primary,
            batch.index,
            (x, y),
            config.max_grad_norm,
        )
