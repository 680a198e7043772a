"""The networks of a run, from the words of its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maxl.experiments.runs import trunks
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.methods import LEARNED_METHODS, OWN, SHARED, WEIGHTED_METHODS
from maxl.hierarchy import Hierarchy
from maxl.networks import (
    LabelGenerator,
    MultiTaskNetwork,
    PowerOfTwo,
    SharedTrunk,
    WeightedLabelGenerator,
    head,
)
from maxl.supervision import LabelCorrector, WeightGenerator
from maxl.tasks import Task
from maxl.trunks import infer_feature_dim

if TYPE_CHECKING:
    from maxl.experiments.runs.start import Start

GENERATOR_METHODS = ("frozen", *LEARNED_METHODS)  # those whose labels a network gives


@contextmanager
def seeded(seed: int, part: int) -> Iterator[None]:
    """Draws of one part of a run, so that what methods share starts from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1000 + part)
        yield


def memory_format(config: RunConfig, device: torch.device) -> torch.memory_format:
    """The layout of weights, which activations follow. MPS is left out: PyTorch does not promise channels-last there."""
    wanted = config.channels_last and device.type in ("cpu", "cuda")
    return torch.channels_last if wanted else torch.preserve_format


def build_network(
    config: RunConfig,
    hierarchy: Hierarchy,
    task: Task,
    kind: str,
    input_shape: tuple[int, ...],
    start: Start | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> MultiTaskNetwork:
    """Trunk and heads, as they are before training.

    Args:
        config: Names the trunk.
        hierarchy: ψ.
        task: What the primary outputs mean.
        kind: Its name, as in a summary.
        input_shape: Of one sample.
        start: Weights to begin with; fresh ones by default.
        architecture: Of a trunk of transformers, to be looked up by name by default.

    Raises:
        ValueError: if the trunk does not fit the samples.
    """
    words = replace(trunks.Words.of(config), architecture=architecture)
    with seeded(config.seed, 0):
        trunk = trunks.build_for(config.trunk, kind, input_shape, words)
    width = infer_feature_dim(trunk)
    assert width is not None  # every trunk that is built by name states it
    with seeded(config.seed, 1):
        primary_head = head(width, task.num_outputs(hierarchy))
    with seeded(config.seed, 2):
        auxiliary_head: nn.Module = head(width, hierarchy.num_auxiliary)
    if config.method == "contrastive":  # a loss on the features themselves
        auxiliary_head = nn.Identity()
    network = MultiTaskNetwork(
        trunk, hierarchy, primary_head=primary_head, auxiliary_head=auxiliary_head, task=task
    )
    if start is not None:
        start.into_network(network)
    return network


def build_generator(
    config: RunConfig,
    network: MultiTaskNetwork,
    kind: str,
    input_shape: tuple[int, ...],
    start: Start | None = None,
) -> LabelGenerator:
    """The label generator of one of ``GENERATOR_METHODS``, as it is before training.

    Args:
        config: Names method and trunk.
        network: As ``build_network`` gives it; the generator may share its trunk.
        kind: Name of the task, as in a summary.
        input_shape: Of one sample.
        start: Weights to begin with, of its trunk where that is of the network's kind; fresh ones by default.

    Raises:
        ValueError: if the trunk does not fit the samples.
    """
    make = _generator_kind(config)
    # Labels of a generator that is not trained are those of one function throughout.
    alike = config.generator_trunk in (OWN, SHARED, config.trunk)
    with seeded(config.seed, 3):
        if config.generator_trunk == SHARED and config.method in LEARNED_METHODS:
            generator = make.sharing(network)
        else:
            name = config.trunk if alike else config.generator_trunk
            words = _words(config, network) if alike else None
            trunk = trunks.build_for(name, kind, input_shape, words)
            generator = make(trunk, network.hierarchy, task=network.task)
    if start is not None:
        start.into_generator(generator, same_trunk=alike)
    return generator


def build_judged(
    config: RunConfig, network: MultiTaskNetwork, kind: str, input_shape: tuple[int, ...]
) -> WeightGenerator | LabelCorrector:
    """The generator of one of ``JUDGED_METHODS``, as it is before training; arguments and errors as above."""
    with seeded(config.seed, 3):
        if config.generator_trunk == SHARED:
            trunk: nn.Module = SharedTrunk(network)
        else:
            alike = config.generator_trunk == OWN
            name = config.trunk if alike else config.generator_trunk
            trunk = trunks.build_for(name, kind, input_shape, _words(config, network) if alike else None)
        classes = network.hierarchy.num_primary
        if config.method == "reweighted":
            return WeightGenerator(trunk, classes)
        return LabelCorrector(trunk, classes, confidence=config.confidence)


def _words(config: RunConfig, network: MultiTaskNetwork) -> trunks.Words:
    """What makes a trunk as the network's own was made, with nothing looked up again."""
    return replace(trunks.Words.of(config), architecture=trunks.architecture(network.trunk))


def _generator_kind(config: RunConfig) -> _MakeGenerator:
    """The generator's class, with what it makes of the scores of its weights."""
    if config.method == "wamal":
        return _MakeGenerator(WeightedLabelGenerator, {"weighting": PowerOfTwo(config.weight_range)})
    return _MakeGenerator(WeightedLabelGenerator if config.method in WEIGHTED_METHODS else LabelGenerator, {})


@dataclass(frozen=True)
class _MakeGenerator:
    kind: type[LabelGenerator]
    options: dict[str, Any]

    def sharing(self, network: MultiTaskNetwork) -> LabelGenerator:
        return self.kind.sharing(network, **self.options)

    def __call__(self, trunk: nn.Module, hierarchy: Hierarchy, task: Task) -> LabelGenerator:
        return self.kind(trunk, hierarchy, task=task, **self.options)
