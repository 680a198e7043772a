"""What the networks of a run start from, where that is not chance: weights of a library, of a file, or of another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maxl.experiments.data import DataSet
from maxl.experiments.runs import trunks
from maxl.experiments.runs.checkpoint import content_checksum
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.libraries import pretrained_weights
from maxl.experiments.runs.mixed import MixedTrunk
from maxl.experiments.runs.names import library_of
from maxl.experiments.runs.warm import Warm, warm_start
from maxl.experiments.runs.weights_file import COUNTER, Fitted, fit, read_weights
from maxl.hierarchy import Hierarchy
from maxl.networks import LabelGenerator, MultiTaskNetwork


@dataclass(frozen=True)
class Start:
    """Weights that networks begin with.

    Attributes:
        source: What they were taken from, in words.
        sha256: Of all of them: a run is continued with the same alone.
        trunk: Under the names of the trunk's state.
        warm: What else is taken from another run.
        left: What of the source was not taken, and why.
        part: What of the trunk they are, in words: of weights of others beside columns the image trunk alone.
    """

    source: str
    sha256: str
    trunk: Mapping[str, Tensor]
    warm: Warm
    left: tuple[str, ...]
    part: str = "trunk"

    def into_trunk(self, trunk: nn.Module) -> None:
        """Sets the weights of a trunk of the run's kind."""
        _load(trunk, self.trunk, trunks.prefix(trunk))  # a decoder is not part of what weights are for

    def into_network(self, network: MultiTaskNetwork) -> None:
        """Sets those of the trunk, and of the heads that are taken."""
        self.into_trunk(network.trunk)
        if self.warm.primary_head is not None:
            _load(network.primary_head, self.warm.primary_head)
        head = self.warm.auxiliary_head
        if head is not None and _shapes(head) == _shapes(network.auxiliary_head.state_dict()):
            _load(network.auxiliary_head, head)  # of single-task training another one

    def into_generator(self, generator: LabelGenerator, *, same_trunk: bool) -> None:
        """Sets those of a label generator, or of its trunk where that is of the network's kind."""
        if (state := self.warm.generator) is not None:
            if _shapes(state) != _shapes(generator.state_dict()):
                raise ValueError(
                    f"the label generator of {self.source} has another trunk: use the --generator-trunk of that run"
                )
            _load(generator, state)
        elif same_trunk and generator.shared is None:
            self.into_trunk(generator.trunk)

    def record(self) -> dict[str, Any]:
        """As start.json has it; plain values."""
        taken = [f"{self.part} ({len(self.trunk)} tensors)", *self.warm.taken]
        return {"from": self.source, "sha256": self.sha256, "taken": taken, "left": list(self.left)}


def told(record: Mapping[str, Any]) -> str:
    """One line on what was taken and what was not, of what start.json has; empty for fresh weights."""
    if not record:
        return ""
    left = f"; left out: {', '.join(record['left'])}" if record["left"] else ""
    return f"starts from {record['from']}: {', '.join(record['taken'])}{left}"


def starts_from_weights(config: RunConfig) -> bool:
    """Whether a config names weights to start from."""
    return bool(config.pretrained or config.weights or config.from_run)


def without_run(config: RunConfig) -> RunConfig:
    """The config of networks that must not have seen some labels: another run may have been trained on the very ones.

    They begin with fresh weights and are trained as a whole; weights of a library or of a file stay what they begin with.
    """
    if config.from_run is None:
        return config
    return dataclasses.replace(config, from_run=None, freeze=None, trunk_learning_rate=None, layer_decay=None)


def load_start(config: RunConfig, data: DataSet, hierarchy: Hierarchy) -> Start | None:
    """What a run starts from; None for fresh weights.

    Raises:
        ValueError: if weights cannot be had or do not fit the trunk.
    """
    if not starts_from_weights(config):
        return None
    with torch.random.fork_rng(devices=[]):
        trunk = trunks.build_for(config.trunk, data.task, data.input_shape, trunks.Words.of(config))
        if config.from_run is not None:
            found, warm = warm_start(config, data, hierarchy, trunk)
            return _start(f"run {config.from_run}", found, warm)
        inside, before = trunks.bare(trunk), trunks.prefix(trunk)
        if config.weights is not None:
            source = f"file {config.weights}"
            found = fit(read_weights(Path(config.weights)), inside.state_dict(), config.weights)
        else:
            library, name = library_of(trunks.chosen(config.trunk, data.task, data.input_shape))
            source = f"the weights of {library or 'timm'}:{name}"
            found = pretrained_weights(library, name, inside, data.image_shape or data.input_shape)
    named = Fitted({before + name: tensor for name, tensor in found.tensors.items()}, found.left)
    return _start(source, named, Warm(), "image trunk" if isinstance(trunk, MixedTrunk) else "trunk")


def _start(source: str, found: Fitted, warm: Warm, part: str = "trunk") -> Start:
    parts = {"trunk": found.tensors, "primary": warm.primary_head, "auxiliary": warm.auxiliary_head}
    checksum = content_checksum({**parts, "generator": warm.generator})
    return Start(source, checksum, found.tensors, warm, (*found.left, *warm.left), part)


def require_same(folder: RunFolder, start: Start | None) -> None:
    """ValueError if a run that is continued began with other weights."""
    if not folder.start.is_file() or start is None:
        return
    before = folder.read_start()
    if before.get("sha256") != start.sha256:
        raise ValueError(
            f"{start.source} has changed since {folder.path} was started from it: put it back, or train the run anew"
        )


def _load(module: nn.Module, tensors: Mapping[str, Tensor], inside: str = "") -> None:
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected  # they were fitted to a module of the same kind
    assert all(name.endswith(COUNTER) for name in missing if name.startswith(inside))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
