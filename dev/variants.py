"""Variants of MAXL and of the data that were hypotheses about when learned labels help; see docs/guide.md.

None of them earned a place in the package. ``dev/evidence.py run NAME --methods sharp hard ...`` repeats them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from averaged import Averaged
from maxl.experiments.data import DataSet
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.runs.trunks import build
from maxl.learning import MetaAuxiliaryLearner
from several_steps import SeveralSteps

SHARPNESS = 10.0  # 1 / temperature of the labels
AVERAGING = 0.1  # of each step's weights in the running average
STEPS = 10
NOISE = 0.4  # part of the training labels that are replaced by another class
RAREST = 0.05  # samples of the rarest class, as a part of those of the most frequent one


@dataclass(frozen=True)
class Variant:
    """MAXL with other settings, and with a change made to the trainer before it starts."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Trainer], None] = lambda trainer: None
    tuned_as: str | None = None  # the method whose tuned settings it has; its own name's by default


def sharp(trainer: Trainer) -> None:
    """Labels at a temperature of 1 / SHARPNESS."""

    class Scale(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return SHARPNESS * logits

    generator = _generator(trainer)
    generator.head = nn.Sequential(generator.head, Scale())


def hard(trainer: Trainer) -> None:
    """One-hot labels, with the gradient of the soft ones: straight-through (Bengio et al., 2013)."""

    def harden(module: nn.Module, inputs: object, labels: Tensor) -> Tensor:
        one_hot = torch.zeros_like(labels).scatter_(1, labels.detach().argmax(1, keepdim=True), 1.0)
        return one_hot + labels - labels.detach()

    _generator(trainer).register_forward_hook(harden)


def averaged(trainer: Trainer) -> None:
    """The outer loss at a running average of the weights."""
    _learner(trainer).lookahead = Averaged(AVERAGING)


def several(trainer: Trainer) -> None:
    """The outer loss after several training steps, an epoch at most, differentiated through all of them."""
    _learner(trainer).lookahead = SeveralSteps(min(STEPS, len(trainer.stream)))


_LIVELY: dict[str, Any] = {"meta_learning_rate": 1e-2}
VARIANTS: dict[str, Variant] = {
    "lively": Variant(_LIVELY),  # a control of those below: the same generator, unchanged
    "sharp": Variant(_LIVELY, sharp),
    "hard": Variant(_LIVELY, hard),
    "averaged": Variant(_LIVELY, averaged),
    "several": Variant(_LIVELY, several),
    "held-out": Variant({**_LIVELY, "evaluate": "held-out"}),  # as AuxiLearn does (Navon et al., 2021)
    "rotating": Variant({**_LIVELY, "evaluate": "rotating"}),
    "information": Variant({**_LIVELY, "regulariser": "information"}),
    # dev/decide.py
    "shared": Variant({"generator_trunk": "shared"}, tuned_as="maxl"),
    "everyday": Variant({"evaluate": "next", "meta_every": 6, "cache_labels": True}, tuned_as="maxl"),
    "shared-every": Variant(
        {"evaluate": "next", "meta_every": 8, "generator_trunk": "shared"}, tuned_as="maxl"
    ),
    "shared-part": Variant(
        {"evaluate": "same", "teach_part": 1 / 8, "generator_trunk": "shared"}, tuned_as="maxl"
    ),
}


def narrow(input_shape: Sequence[int]) -> nn.Module:
    """convnet4 at a quarter of its width, for ``--trunk variants:narrow``."""
    return build("convnet4", input_shape, width=16)


def wide(input_shape: Sequence[int]) -> nn.Module:
    """convnet4 at twice its width, for ``--trunk variants:wide``."""
    return build("convnet4", input_shape, width=128)


def noisy(data: DataSet, seed: int) -> DataSet:
    """A part of the training labels replaced by another class, drawn evenly."""
    draw = torch.Generator().manual_seed(seed)
    primary = data.train.primary.clone()
    wrong = torch.rand(len(primary), generator=draw) < NOISE
    shift = torch.randint(1, data.num_primary, primary.shape, generator=draw)
    primary[wrong] = (primary + shift)[wrong] % data.num_primary
    return replace(data, train=replace(data.train, primary=primary, human=None), human_names=None)


def imbalanced(data: DataSet, seed: int) -> DataSet:
    """Training samples thinned out class by class, geometrically; which class is rare is drawn."""
    draw = torch.Generator().manual_seed(seed)
    counts = data.train.primary.bincount()
    rank = torch.randperm(len(counts), generator=draw) / (len(counts) - 1)
    keep = (counts.min() * RAREST**rank).round().long()
    kept = []
    for c, n in enumerate(keep):
        members = (data.train.primary == c).nonzero().squeeze(1)
        kept.append(members[torch.randperm(len(members), generator=draw)[:n]])
    return replace(data, train=data.train.select(torch.cat(kept).sort().values))


SPOILS: dict[str, Callable[[DataSet, int], DataSet]] = {"noisy": noisy, "imbalanced": imbalanced}


def _learner(trainer: Trainer) -> MetaAuxiliaryLearner:
    learner = trainer.setup.learner
    assert isinstance(learner, MetaAuxiliaryLearner)
    return learner


def _generator(trainer: Trainer) -> Any:
    return trainer.setup.generator
