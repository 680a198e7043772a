"""Which labels a run without a generator trains on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maxl.experiments.data import Batch, DataSet, evaluation_batches
from maxl.experiments.runs import trunks
from maxl.experiments.runs.baselines import (
    AUTO_ENCODER_EPOCHS,
    auto_encode,
    cluster_labels,
    random_labels,
    shuffled_within_classes,
    shuffled_within_labels,
)
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.crossfit import cross_fitted_labels
from maxl.experiments.runs.machine import tensor_float32
from maxl.experiments.runs.methods import CLUSTER_METHODS, PROTOTYPE_METHODS, WITHOUT_LABELS
from maxl.experiments.runs.networks import seeded
from maxl.experiments.runs.pixels import (
    Features,
    pixel_cluster_labels,
    surroundings,
    trained_auto_encoder,
)
from maxl.experiments.runs.prototypes import prototypical_labels
from maxl.experiments.runs.stepping import train_plainly, training_stream
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.networks import MultiTaskNetwork
from maxl.supervision import FixedLabels, NoLabels, Source, UniformLabels
from maxl.tasks import Task

if TYPE_CHECKING:
    from maxl.experiments.runs.build import Setup
    from maxl.experiments.runs.start import Start

_BATCH, _PIXELS = 500, 2**18  # inputs, and pixels, looked at a time

Build = Callable[[RunConfig], "Setup"]


def fixed_source(
    config: RunConfig,
    data: DataSet,
    hierarchy: Hierarchy,
    task: Task,
    device: torch.device,
    build: Build,
    start: Start | None = None,
) -> Source:
    """Where auxiliary labels come from when there is no generator.

    Args:
        config: The run.
        data: Its data.
        hierarchy: ψ.
        task: What targets mean.
        device: Where the labels are to be.
        build: Builds everything of another run on the same data and device.
        start: Weights that a trunk begins with; fresh ones by default.

    Raises:
        ValueError: if the method does not fit the data.
        FloatingPointError: if networks that are trained for the labels diverge.
    """
    if config.method in WITHOUT_LABELS:
        return NoLabels()
    if config.method == "uniform":
        return UniformLabels(hierarchy, task)
    return FixedLabels(_table(config, data, hierarchy, task, device, build, start).to(device))


def _table(
    config: RunConfig,
    data: DataSet,
    hierarchy: Hierarchy,
    task: Task,
    device: torch.device,
    build: Build,
    start: Start | None,
) -> Tensor:
    """Auxiliary labels by position in the training set, int64 of shape (n,); soft, (n, K), where one is not enough."""
    primary, method = data.train.primary, config.method
    if method in PROTOTYPE_METHODS and data.task == "segmentation":
        raise ValueError(
            f"--method {method} learns a label for each image, and segmentation has them for pixels: use kmeans"
        )
    if method == "random":
        return random_labels(primary, hierarchy, config.seed, task)
    if method in ("human", "human-shuffled"):
        assert data.train.human is not None  # choose_hierarchy has asked for them
        human = data.train.human
        return human if method == "human" else shuffled_within_classes(human, primary, config.seed)
    if method in CLUSTER_METHODS and data.task == "segmentation":
        labels = _of_pixels(config, data, hierarchy, task, device, build)
        if "shuffled" not in method:
            return labels
        pixels = shuffled_within_classes(labels.flatten(), primary.flatten(), config.seed)
        return pixels.view(labels.shape)
    if method in CLUSTER_METHODS:
        points = _cluster_features(config, data, device, build)
        if method in PROTOTYPE_METHODS:
            labels = cross_fitted_labels(config, data, hierarchy, task, points, device, build)
        else:
            labels = cluster_labels(points, primary, hierarchy, config.seed)
        if "shuffled" not in method:
            return labels
        if hierarchy.num_primary > 1 and primary.dim() > 1:
            return shuffled_within_labels(labels, primary, hierarchy, config.seed)
        classes = primary if hierarchy.num_primary > 1 else torch.zeros(len(primary), dtype=torch.int64)
        return shuffled_within_classes(labels, classes, config.seed)
    assert data.train.human is not None  # as above
    with seeded(config.seed, 4):
        embedding = trunks.build_for(config.trunk, data.task, data.input_shape, trunks.Words.of(config))
    if start is not None:
        start.into_trunk(embedding)
    return prototypical_labels(
        _inputs(data, device),
        primary.to(device),
        data.train.human.to(device),
        hierarchy,
        embedding.to(device),
        seed=config.seed,
    )


def _cluster_features(config: RunConfig, data: DataSet, device: torch.device, build: Build) -> Tensor:
    """What k-means clusters, shape (n, D)."""
    if config.cluster_features == "trunk":
        return single_task_features(config, data, device, build)
    x = _inputs(data, device)
    return x.flatten(1) if config.cluster_features == "input" else auto_encode(x, seed=config.seed)


def _of_pixels(
    config: RunConfig, data: DataSet, hierarchy: Hierarchy, task: Task, device: torch.device, build: Build
) -> Tensor:
    """Clusters of pixels, (n, H, W)."""
    if config.cluster_features == "trunk":
        features: Features = single_task_network(config, data, device, build).trunk
    elif config.cluster_features == "input":
        features = surroundings
    else:
        stream = training_stream(config, data, data.train, config.seed, device)
        epochs = map(stream.epoch, range(AUTO_ENCODER_EPOCHS))
        features = trained_auto_encoder(epochs, data.input_shape[0], device, config.seed).codes
    size = max(1, min(config.batch_size, _PIXELS // data.train.primary[0].numel()))

    def images() -> Iterator[Batch]:
        return evaluation_batches(data.train, size, data.mean, data.std, device)

    with torch.no_grad():
        try:
            return pixel_cluster_labels(
                images, features, data.train.primary.cpu(), hierarchy, task, config.seed
            )
        except FloatingPointError as error:
            raise _not_finite() from error


def single_task_features(config: RunConfig, data: DataSet, device: torch.device, build: Build) -> Tensor:
    """Features, shape (n, D), of the trunk that ``--method single`` of the same seed ends with, bit for bit.

    Torch's global generator is left as it was.

    Raises:
        FloatingPointError: if the training diverges.
    """
    network = single_task_network(config, data, device, build)
    batches = evaluation_batches(data.train, _BATCH, data.mean, data.std, device)
    with torch.no_grad():
        features = torch.cat([network.trunk(b.x) for b in batches])
    if not features.isfinite().all():
        raise _not_finite()
    return features


def single_task_network(
    config: RunConfig, data: DataSet, device: torch.device, build: Build
) -> MultiTaskNetwork:
    """The network of ``single_task_features``, in eval mode.

    Raises:
        FloatingPointError: if the training diverges.
    """
    lower = config.precision != "float32"
    with RandomState.capture(device).replay(), tensor_float32(lower):
        setup = build(dataclasses.replace(config, method="single"))
        torch.manual_seed(config.seed)
        stream = training_stream(config, data, data.train, config.seed, device)
        try:
            train_plainly(setup, stream, config)
        except FloatingPointError as error:
            raise _not_finite() from error
    return setup.network.eval()


def _not_finite() -> FloatingPointError:
    return FloatingPointError(
        "--cluster-features trunk needs a single-task network that trains; its loss or features are not finite: lower "
        "--learning-rate"
    )


def _inputs(data: DataSet, device: torch.device) -> Tensor:
    """All training inputs as the networks take them."""
    return torch.cat([b.x for b in evaluation_batches(data.train, _BATCH, data.mean, data.std, device)])
