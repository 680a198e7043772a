"""What a run looks at after each epoch: accuracy, what the labels look like, whether the tasks agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from maxl.experiments.runs.measures import accuracy
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import OuterLoss, RandomState, in_float, pure_call
from maxl.losses import label_information
from maxl.supervision import Supervision
from maxl.tasks import Classification, Task, is_dense, positions_that_count

Score = TypeVar("Score")

INFORMATIVE = 0.02  # of the largest entropy: labels with less mutual information say nothing of their samples


@contextmanager
def evaluating(*modules: nn.Module | None) -> Any:
    """Eval mode and no gradients within, also for a network whose trunk a generator shares; modes come back after."""
    asked = [module for module in modules if module is not None]
    asked += [n for module in asked if isinstance(n := getattr(module, "shared", None), nn.Module)]
    modes = [(m, m.training) for module in asked for m in module.modules()]
    for module in asked:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training


def evaluate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    primary_loss: OuterLoss,
    score: Callable[[Tensor, Tensor], Score] = accuracy,  # type: ignore[assignment]
    keep: Callable[[Tensor], Tensor] | None = None,
) -> tuple[float, Score]:
    """Loss of the primary head, a mean over samples whatever the batch sizes, and a score of all its outputs.

    Args:
        network: Has ``predict``.
        batches: (x, y).
        primary_loss: (outputs, y) → scalar, a mean over samples.
        score: (outputs, y) of all samples → anything; the accuracy (0–1) by default.
        keep: What of a batch's outputs the score needs; all by default.
    """
    loss, outputs, targets = 0.0, list[Tensor](), list[Tensor]()
    with evaluating(network):
        for x, y in batches:
            logits = network.predict(x)  # type: ignore[operator]
            loss += float(primary_loss(logits, y)) * len(y)
            outputs.append(logits if keep is None else keep(logits))
            targets.append(y)
        every = torch.cat(targets)
        return loss / len(every), score(torch.cat(outputs), every)


def some_of(count: int, most: int) -> Tensor:
    """Positions of at most so many of ``count`` samples, int64 and sorted; the same in every run.

    Drawn, since every k-th would see one phase alone of whatever repeats in the order of the samples.
    """
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]
    return drawn.sort().values


def labels_looked_at(task: Task) -> int:
    """How many training samples' labels are described after an epoch: fewer where each has thousands of pixels."""
    return 8 if is_dense(task) else 2000


@dataclass(frozen=True)
class LabelStatistics:
    """What generated labels look like.

    Attributes:
        entropy: Mean entropy of a label, nats.
        entropy_max: Mean of log ψ[y], the entropy of uniform labels.
        usage: Share of the K auxiliary classes that are the likeliest one of at least 1 % of their
            primary class's samples.
        information: Mutual information between sample and auxiliary class within a primary class, nats.
        entropy_per_class: Mean entropy within each primary class, length C.
        usage_per_class: Share in use within each primary class, length C.
    """

    entropy: float
    entropy_max: float
    usage: float
    information: float
    entropy_per_class: list[float]
    usage_per_class: list[float]

    def verdict(self) -> str | None:
        """What is wrong with the labels, in words, or None."""
        if self.entropy_max == 0.0:
            return "psi is 1 for every class: the labels repeat the primary task"
        if self.information >= INFORMATIVE * self.entropy_max:
            return None
        one = len(self.entropy_per_class) == 1  # as of numbers, which have no classes
        if self.entropy > 0.9 * self.entropy_max:
            over = "all auxiliary classes" if one else "each class's block"
            return (
                f"the labels carry no information: they are spread almost evenly over {over}, as "
                f"uniform labels would be (entropy {self.entropy:.3f} of at most {self.entropy_max:.3f} nats)"
            )
        return (
            f"the labels carry no information: all samples{' of a class' * (not one)} get nearly the same label "
            f"(collapsed, {self.usage:.0%} of the auxiliary classes in use)"
        )


def describe_labels(
    labels: Tensor, y: Tensor, hierarchy: Hierarchy, task: Task | None = None
) -> LabelStatistics:
    """Statistics of soft labels (N, K).

    Args:
        labels: Of N samples.
        y: Their targets. Of several labels a sample is a member of each.
        hierarchy: ψ.
        task: What targets mean; classes by default.
    """
    task = task or Classification()
    labels, y = labels.detach().double().cpu(), y.cpu()
    if is_dense(task):  # pixels are samples, those to ignore are none
        counts = positions_that_count(task, y)
        labels, y = labels[counts], y[counts]
    entropy = -(labels * labels.clamp_min(torch.finfo(torch.float64).tiny).log()).sum(1)
    entropies, usages, used_total = [], [], 0
    for c in range(hierarchy.num_primary):
        members = members_of(y, c, hierarchy)
        block = int(hierarchy.mask[c].sum())
        n = int(members.sum())
        # Of several labels the likeliest within the block, whichever block weighs most.
        likeliest = labels[members].masked_fill(~hierarchy.mask[c], -1.0).argmax(1)
        counts = torch.bincount(likeliest, minlength=hierarchy.num_auxiliary)
        used = int((counts >= max(1.0, 0.01 * n)).sum())
        used_total += used
        usages.append(used / block)
        entropies.append(float(entropy[members].mean()) if n else math.nan)
    log_psi = task.rows(y, hierarchy.mask).sum(1).double().log()
    return LabelStatistics(
        entropy=float(entropy.mean()),
        entropy_max=float(log_psi.mean()),
        usage=used_total / hierarchy.num_auxiliary,
        information=float(information(labels, y, hierarchy)),
        entropy_per_class=entropies,
        usage_per_class=usages,
    )


def members_of(y: Tensor, c: int, hierarchy: Hierarchy) -> Tensor:
    """Which samples belong to class or label c, bool of shape (N,); all where there is one block.

    A block beyond those of labels is that of samples without one.
    """
    if hierarchy.num_primary == 1:
        return torch.ones(len(y), dtype=torch.bool)
    if y.dim() == 1:
        return y == c
    return y[:, c] == 1 if c < y.shape[1] else ~y.any(1)


def block_names(names: Sequence[str], blocks: int) -> tuple[str, ...]:
    """Names of as many blocks as there are classes or labels, or of one more, which is that of samples without a label."""
    return (*names, "none")[:blocks]


def information(labels: Tensor, y: Tensor, hierarchy: Hierarchy) -> Tensor:
    """``label_information``; of several labels what a label says of its sample beyond what the set of labels says, in nats.

    With b the block of an auxiliary class k it is I(sample; k | b) + I(sample; b | set): within each block among all samples
    that have its label, by how much of their labels lies there, since samples with the very same set are few, or one; and
    between the blocks among those with the same set. Samples that may use all classes, having no label and no block for
    it, have one more block, of all K.
    """
    if y.dim() == 1 or hierarchy.num_primary == 1:
        return label_information(labels, y, hierarchy)
    anywhere = ~y.any(1, keepdim=True) & (hierarchy.num_primary == y.shape[1])
    within, free = labels * ~anywhere, labels * anywhere
    blocks = torch.cat(
        [within @ hierarchy.mask.T.to(labels.device, labels.dtype), free.sum(1, keepdim=True)], 1
    )
    classes = torch.cat([within, free], 1)
    sets, of_sample = torch.unique(y, dim=0, return_inverse=True)
    in_blocks = label_information(classes, y, Hierarchy.flat(classes.shape[1])) - label_information(
        blocks, y, Hierarchy.flat(blocks.shape[1])
    )
    return in_blocks + label_information(blocks, of_sample, Hierarchy.uniform(len(sets), 1))


def gradient_cosine(
    network: nn.Module,
    trunk: nn.Module,
    x: Tensor,
    y: Tensor,
    signals: tuple[Tensor, ...],
    task: Task,
    supervision: Supervision,
) -> tuple[float, dict[str, float]]:
    """Cosine of ∇L_pri and ∇L_aux on the shared trunk: over all its weights, and layer by layer.

    A layer is a module's weight of two or more dimensions, taken as one vector. Changes nothing: neither
    weights, gradients and buffers nor torch's random state, which dropout draws from.
    """
    names = [name for name, p in trunk.named_parameters() if p.requires_grad]
    weights = [p for p in trunk.parameters() if p.requires_grad]
    with torch.enable_grad(), RandomState.capture(x.device).replay():
        losses = supervision.losses(task, in_float(pure_call(network, {}, x)), y, signals)
        assert losses.auxiliary is not None
        first: Sequence[Tensor | None] = torch.autograd.grad(
            losses.primary, weights, retain_graph=True, allow_unused=True
        )
        second: Sequence[Tensor | None] = torch.autograd.grad(losses.auxiliary, weights, allow_unused=True)
    layers: dict[str, float] = {}
    dot = norm_a = norm_b = 0.0
    for name, a, b in zip(names, first, second, strict=True):
        if a is None or b is None:
            continue
        products = [float((s * t).sum()) for s, t in ((a, b), (a, a), (b, b))]
        dot, norm_a, norm_b = dot + products[0], norm_a + products[1], norm_b + products[2]
        if a.dim() > 1:
            layers[name.removesuffix(".weight")] = _ratio(*products)
    return _ratio(dot, norm_a, norm_b), layers


def _ratio(dot: float, norm_a: float, norm_b: float) -> float:
    return dot / math.sqrt(norm_a * norm_b) if norm_a > 0 and norm_b > 0 else 0.0


def calibrate(generator: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Sets BatchNorm's running statistics of the generator to the mean over ``batches``, then eval mode.

    With running statistics a label depends on its sample alone, not on the batch it comes in.
    """
    layers = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [m for m in layers if m.track_running_stats]
    generator.eval()
    if not tracked:
        return
    momenta = [m.momentum for m in tracked]
    for m in tracked:
        m.reset_running_stats()
        m.momentum = None  # a plain average
        m.train()
    with torch.no_grad():
        for x, y in batches:
            generator(x, y)
    for m, momentum in zip(tracked, momenta, strict=True):
        m.momentum = momentum
        m.eval()
