"""Every supervision over the one engine, against a double backward that shares no code with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import maxl
from _networks import batch, conv_trunk, flatten, relative_error
from maxl.hypergradients import WAYS, Outputs, Signals, untracked
from maxl.supervision import (
    AuxiliaryLabels,
    CorrectedLabels,
    Losses,
    SampleWeights,
    Supervision,
    WeightedLabels,
)
from maxl.tasks import Classification, MultiLabel, Regression, Task

PSI = maxl.Hierarchy([3, 2, 4])
RATE, META_RATE = 0.1, 0.5


class Weigher(nn.Module):
    """Weights in (0, 2), one a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = conv_trunk(), nn.Linear(16, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.head(self.trunk(x))).squeeze(1)


class Corrector(nn.Module):
    """Soft labels of the primary task, near the given ones."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = conv_trunk(), nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.head(self.trunk(x)) + 2 * F.one_hot(y, 3)).softmax(1)


class LearnedTemperature(Supervision):
    """One of a user's own: a temperature for each sample's auxiliary logits beside its labels."""

    signals = ("labels", "temperatures")
    trains_on_outer_loss = True

    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        labels, temperatures = self.check_signals(signals)
        auxiliary = -(labels * (outputs[1] * temperatures.unsqueeze(1)).log_softmax(1)).sum(1).mean()
        return Losses(task.loss(outputs[0], y), auxiliary)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Of each sample, written out."""
    p = logits.softmax(1)
    return -(target * (1 - p) ** 2 * p.log()).sum(1)


def classes(x: Tensor, y: Tensor) -> Tensor:
    return y


def focal_of_classes(z: Tensor, y: Tensor) -> Tensor:
    return focal(z, F.one_hot(y, 3)).mean()


@dataclass(frozen=True)
class Case:
    supervision: Supervision
    network: Callable[[], nn.Module]
    generator: Callable[[], nn.Module]
    loss: Callable[[Outputs, Tensor, Signals], Tensor]  # written out
    penalty: Callable[[Signals], Tensor] = lambda t: torch.zeros(())
    task: Task = Classification()  # noqa: RUF009  # frozen
    outer: Callable[[Tensor, Tensor], Tensor] = focal_of_classes  # the task's loss, written out
    targets: Callable[[Tensor, Tensor], Tensor] = classes  # from a batch of inputs and classes

    def batch(self, n: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
        x, y = batch(n, seed)
        return x, self.targets(x, y)


def entropy(t: Signals) -> Tensor:
    mean = t[0].mean(0)
    return 0.2 * (mean * mean.log()).sum()


def two_heads() -> nn.Module:
    return maxl.MultiTaskNetwork(conv_trunk(), PSI)


FLAT = maxl.Hierarchy.flat(4)
WEIGHTS = (0.5, 2.0, 1.0)


def numbers(x: Tensor, y: Tensor) -> Tensor:
    """Two targets of a regression."""
    return torch.stack([x.mean((1, 2, 3)) + y, x[:, 0].std((1, 2))], 1)


def one_number(x: Tensor, y: Tensor) -> Tensor:
    return numbers(x, y)[:, 0]


def labels(x: Tensor, y: Tensor) -> Tensor:
    """Any number of three labels, none among them."""
    return torch.stack([x.flatten(1)[:, c] > 0.3 * c for c in range(3)], 1).to(x.dtype)


def huber(error: Tensor) -> Tensor:
    """δ = 0.5."""
    return torch.where(error.abs() < 0.5, error**2 / 2, 0.5 * (error.abs() - 0.25))


def binary(z: Tensor, y: Tensor) -> Tensor:
    """Of each sample, written out."""
    p = torch.sigmoid(z)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean(1)


def smoothed(z: Tensor, y: Tensor) -> Tensor:
    """Weighted and smoothed cross-entropy of each sample, ε = 0.1."""
    target = 0.9 * F.one_hot(y, 3) + 0.1 / 3
    return torch.tensor(WEIGHTS)[y] * -(target * z.softmax(1).log()).sum(1)


def nets(
    task: Task, hierarchy: maxl.Hierarchy = FLAT, kind: type[maxl.LabelGenerator] = maxl.LabelGenerator
) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module]]:
    """Network and generator of a task."""
    return (
        lambda: maxl.MultiTaskNetwork(conv_trunk(), hierarchy, task=task),
        lambda: kind(conv_trunk(), hierarchy, task=task),
    )


def one_head() -> nn.Module:
    return nn.Sequential(conv_trunk(), nn.Linear(16, 3))


CASES = {
    "auxiliary labels": Case(
        AuxiliaryLabels(weight=0.7),
        two_heads,
        lambda: maxl.LabelGenerator(conv_trunk(), PSI),
        lambda z, y, t: focal(z[0], F.one_hot(y, 3)).mean() + 0.7 * focal(z[1], t[0]).mean(),
        entropy,
    ),
    "weighted labels": Case(
        WeightedLabels(),
        two_heads,
        lambda: maxl.WeightedLabelGenerator(conv_trunk(), PSI),
        lambda z, y, t: focal(z[0], F.one_hot(y, 3)).mean() + (t[1] * focal(z[1], t[0])).mean(),
        entropy,
    ),
    "weighted labels, normalised": Case(
        WeightedLabels(normalise=True),
        two_heads,
        lambda: maxl.WeightedLabelGenerator(conv_trunk(), PSI),
        lambda z, y, t: focal(z[0], F.one_hot(y, 3)).mean() + (t[1] * focal(z[1], t[0])).sum() / t[1].sum(),
        entropy,
    ),
    "WAMAL": Case(
        WeightedLabels(),
        two_heads,
        lambda: maxl.WeightedLabelGenerator(conv_trunk(), PSI, weighting=maxl.PowerOfTwo(5)),
        lambda z, y, t: focal(z[0], F.one_hot(y, 3)).mean() + (t[1] * focal(z[1], t[0])).mean(),
        entropy,
    ),
    "WAMAL, normalised": Case(
        WeightedLabels(normalise=True, weight=0.7),
        two_heads,
        lambda: maxl.WeightedLabelGenerator(conv_trunk(), PSI, weighting=maxl.PowerOfTwo(5)),
        lambda z, y, t: (
            focal(z[0], F.one_hot(y, 3)).mean() + 0.7 * (t[1] * focal(z[1], t[0])).sum() / t[1].sum()
        ),
        entropy,
    ),
    "sample weights": Case(
        SampleWeights(), one_head, Weigher, lambda z, y, t: (t[0] * focal(z[0], F.one_hot(y, 3))).mean()
    ),
    "sample weights, normalised": Case(
        SampleWeights(normalise=True),
        one_head,
        Weigher,
        lambda z, y, t: (t[0] * focal(z[0], F.one_hot(y, 3))).sum() / t[0].sum(),
    ),
    "corrected labels": Case(
        CorrectedLabels(), one_head, Corrector, lambda z, y, t: focal(z[0], t[0]).mean()
    ),
    "one's own": Case(
        LearnedTemperature(),
        two_heads,
        lambda: maxl.WeightedLabelGenerator(conv_trunk(), PSI),
        lambda z, y, t: (
            focal(z[0], F.one_hot(y, 3)).mean()
            - (t[0] * F.log_softmax(z[1] * t[1].unsqueeze(1), 1)).sum(1).mean()
        ),
    ),
    "class weights and label smoothing": Case(
        AuxiliaryLabels(weight=0.7),
        *nets(task := Classification(0.0, WEIGHTS, 0.1), PSI),
        lambda z, y, t: smoothed(z[0], y).mean() + 0.7 * focal(z[1], t[0]).mean(),
        entropy,
        task,
        lambda z, y: smoothed(z, y).mean(),
    ),
    "regression": Case(
        AuxiliaryLabels(),
        *nets(task := Regression()),
        lambda z, y, t: ((z[0].squeeze(1) - y) ** 2).mean() + focal(z[1], t[0]).mean(),
        entropy,
        task,
        lambda z, y: ((z.squeeze(1) - y) ** 2).mean(),
        one_number,
    ),
    "regression of two numbers, Huber, weighted labels": Case(
        WeightedLabels(),
        *nets(task := Regression(2, huber=0.5), kind=maxl.WeightedLabelGenerator),
        lambda z, y, t: huber(z[0] - y).mean() + (t[1] * focal(z[1], t[0])).mean(),
        entropy,
        task,
        lambda z, y: huber(z - y).mean(),
        numbers,
    ),
    "regression, sample weights": Case(
        SampleWeights(),
        lambda: nn.Sequential(conv_trunk(), nn.Linear(16, 2)),
        Weigher,
        lambda z, y, t: (t[0] * ((z[0] - y) ** 2).mean(1)).mean(),
        task=Regression(2),
        outer=lambda z, y: ((z - y) ** 2).mean(),
        targets=numbers,
    ),
    "multi-label": Case(
        AuxiliaryLabels(weight=0.7),
        *nets(task := MultiLabel(), PSI),
        lambda z, y, t: binary(z[0], y).mean() + 0.7 * focal(z[1], t[0]).mean(),
        entropy,
        task,
        lambda z, y: binary(z, y).mean(),
        labels,
    ),
    "multi-label, flat": Case(
        AuxiliaryLabels(),
        *nets(task := MultiLabel(3)),
        lambda z, y, t: binary(z[0], y).mean() + focal(z[1], t[0]).mean(),
        entropy,
        task,
        lambda z, y: binary(z, y).mean(),
        labels,
    ),
}
LOOKAHEADS = {"taken": maxl.Taken, "next": maxl.Next, "virtual": maxl.Virtual}


def tupled(z: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (z,) if isinstance(z, Tensor) else tuple(z)


def double_backward(
    case: Case,
    network: nn.Module,
    generator: nn.Module,
    first: tuple[Tensor, Tensor],
    judge: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """d[L_pri(θ₁ − α∇L_in) + penalty]/dθ₂ by torch.autograd alone."""
    x, y = first
    with untracked(network), untracked(generator):
        theta = dict(network.named_parameters())
        signals = tupled(generator(x, y))
        loss = case.loss(tupled(functional_call(network, theta, (x,))), y, signals)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True, allow_unused=True)
        ahead = {n: p if g is None else p - RATE * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        outputs = tupled(functional_call(network, ahead, (judge[0],)))
        outer = case.outer(outputs[0], judge[1]) + case.penalty(signals)
        return torch.autograd.grad(outer, list(generator.parameters()))


def made(case: Case, **options: object) -> maxl.MetaAuxiliaryLearner:
    torch.manual_seed(0)
    network, generator = case.network(), case.generator()
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=RATE),
        torch.optim.SGD(generator.parameters(), lr=META_RATE),
        task=case.task,
        supervision=case.supervision,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("float64")
def test_the_pure_function_is_an_independent_double_backward(case: Case, way: str) -> None:
    learner = made(case)
    network, generator = learner.network, learner.generator
    x, y = case.batch()
    judge = case.batch(7, seed=5)
    ours = maxl.hypergradient(
        network,
        generator,
        x,
        y,
        RATE,
        way,
        outer_batch=judge,
        primary_loss=case.task.loss,
        training_loss=case.supervision.bind(case.task),
    )
    without = replace(case, penalty=lambda t: torch.zeros(()))
    expected = double_backward(without, network, generator, (x, y), judge)
    assert relative_error(flatten(ours), flatten(expected)) < (1e-3 if way == "finite-difference" else 1e-10)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.usefixtures("float64")
def test_a_meta_step_moves_the_generator_along_an_independent_double_backward(
    case: Case, lookahead: str, way: str
) -> None:
    learner = made(case, lookahead=LOOKAHEADS[lookahead](), way=WAYS[way])
    network, generator = copy.deepcopy(learner.network), copy.deepcopy(learner.generator)
    first, second = case.batch(seed=1), case.batch(seed=2)
    if lookahead == "virtual":  # a further step, from the network after the training step
        learner.train_step(*first)
        network = copy.deepcopy(learner.network)
        learner.meta_step()
        expected = double_backward(case, network, generator, first, first)
    elif lookahead == "next":
        learner.step(*first)
        learner.step(*second)
        expected = double_backward(case, network, generator, first, second)
    else:
        learner.step(*first, outer_batch=second)
        expected = double_backward(case, network, generator, first, second)
    moved = [p - q for p, q in zip(generator.parameters(), learner.generator.parameters(), strict=True)]
    assert relative_error(flatten(moved) / META_RATE, flatten(expected)) < 1e-10


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_number_of_signals_is_refused(case: Case) -> None:
    class Both(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            t = tupled(self.inner(x, y))
            return (*t, t[0]) if len(t) == 1 else t[:1]

    learner = made(case)
    network = learner.network
    generator = Both(learner.generator)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    wrong = maxl.MetaAuxiliaryLearner(
        network, generator, *optimizers, supervision=case.supervision, task=case.task
    )
    with pytest.raises(ValueError, match=r"needs a generator that gives|needs a loss that takes them"):
        wrong.step(*case.batch())


def test_a_weighted_generator_gets_a_supervision_that_knows_weights() -> None:
    network, generator = two_heads(), maxl.WeightedLabelGenerator(conv_trunk(), PSI)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    assert isinstance(learner.supervision, WeightedLabels)
    result = learner.step(*batch())
    assert result.weights is not None
    assert result.weights.shape == (12,)


def test_auxiliary_labels_need_auxiliary_outputs() -> None:
    network, generator = one_head(), maxl.LabelGenerator(conv_trunk(), PSI)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(ValueError, match=r"need a network that gives \(primary, auxiliary\) outputs"):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers).step(*batch())


def test_sample_weights_need_losses_of_samples() -> None:
    network, generator = one_head(), Weigher()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(
        network, generator, *optimizers, supervision=SampleWeights(), primary_loss=F.cross_entropy
    )
    with pytest.raises(ValueError, match="need the loss of each sample"):
        learner.step(*batch())
