"""Variants of MAXL and of the data that were hypotheses about when learned labels help; see docs/guide.md.

None of them earned a place in the package. ``dev/evidence.py run NAME --methods sharp hard ...`` repeats them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from maxl.experiments.data import DataSet
from maxl.experiments.runs.trainer import Trainer
from maxl.experiments.runs.trunks import build
from maxl.hypergradients import (
    RandomState,
    as_signals,
    leaves_of,
    pull_back,
    regulariser_slope,
    scale,
)
from maxl.learning import MetaAuxiliaryLearner, StepResult

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
    trainer.setup.learner = AveragedOuter(_learner(trainer))


def several(trainer: Trainer) -> None:
    """The outer loss after several training steps, an epoch at most, differentiated through all of them."""
    trainer.setup.learner = SeveralSteps(_learner(trainer), steps=min(STEPS, len(trainer.stream)))


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
}


class AveragedOuter(MetaAuxiliaryLearner):
    """Judges each update by ∇L_pri at an exponential average of the weights that includes it.

    A step enters this average and all later ones with factors that sum to one, hence no factor here.
    """

    def __init__(self, learner: MetaAuxiliaryLearner) -> None:
        vars(self).update(vars(learner))
        self.average = {name: p.detach().clone() for name, p in self._weights().items()}

    def meta_step(self, x: Tensor, y: Tensor, outer_batch: tuple[Tensor, Tensor] | None = None) -> StepResult:
        assert self.update is not None
        for name, p in self._weights().items():
            self.average[name].lerp_(p.detach(), AVERAGING)
        outer, v = self.update.problem.outer_gradient(self.average, *(outer_batch or (x, y)))
        return self._meta_through(outer, scale(v, self.update.factor, in_place=True))


class SeveralSteps(MetaAuxiliaryLearner):
    """After every step, differentiates through the last ``steps`` of them, to the mean loss of their batches.

    The network's optimizer needs to be SGD without momentum and weight decay.
    """

    def __init__(self, learner: MetaAuxiliaryLearner, steps: int) -> None:
        vars(self).update(vars(learner))
        self.taken: deque[tuple[dict[str, Tensor], Tensor, Tensor]] = deque(maxlen=steps)

    def step(
        self,
        x: Tensor,
        y: Tensor,
        index: Tensor | None = None,
        outer_batch: tuple[Tensor, Tensor] | None = None,
    ) -> StepResult:
        self.taken.append((self._weights_before(), x, y))
        trained = self.train_step(x, y, index)
        outer, norm = self._through_all()
        return replace(trained, outer_loss=outer, hypergradient_norm=norm)

    def _through_all(self) -> tuple[Tensor, Tensor]:
        (group,) = self.optimizer.param_groups
        assert not group["momentum"]
        assert not group["weight_decay"]
        weights, made = leaves_of(self.taken[0][0]), []
        for _, x, y in self.taken:
            labels = as_signals(self.labels.with_graph(x, y))
            leaves = tuple(s.detach().requires_grad_() for s in labels)
            made.append((labels, leaves, y))
            problem = self._problem(weights, x, y, RandomState.capture(x.device), None)
            with torch.enable_grad():
                loss = problem.training_loss(weights, leaves)
                gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                weights = {
                    n: w - group["lr"] * g for (n, w), g in zip(weights.items(), gradients, strict=True)
                }
        with torch.enable_grad():
            outer = torch.stack([problem.outer_loss(weights, x, y) for _, x, y in self.taken]).mean()
        flat = [s for _, leaves, _ in made for s in leaves]
        slopes = iter(torch.autograd.grad(outer, flat))
        theta = [p for p in self.generator.parameters() if p.requires_grad]
        norms = []
        for labels, leaves, y in made:
            seeds = [next(slopes) for _ in leaves]
            norms.append(seeds[0].norm())
            seeds[0] = seeds[0] + regulariser_slope(labels[0], y, self.entropy_weight, self.regulariser)[0]
            for p, g in zip(theta, pull_back(labels, tuple(seeds), theta), strict=True):
                if g is not None:
                    p.grad = g if p.grad is None else p.grad + g
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad(set_to_none=True)
        return outer.detach(), torch.stack(norms).norm()


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
