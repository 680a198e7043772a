"""A user's program under the strictest settings of type checkers; tests/project/test_typing.py checks and runs it.

Lines with an ignored error are mistakes that a checker has to see: an ignored error that is none is an error itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

import maxl
import maxl.worlds
from maxl.integrations.sklearn import MAXLClassifier
from maxl.learning import Update
from maxl.supervision import (
    AuxiliaryLabels,
    CorrectedLabels,
    Losses,
    SampleWeights,
    Source,
    Supervision,
    UniformLabels,
    WeightedLabels,
)
from maxl.tasks import Task
from maxl.worlds import Alone, World


def trunk() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())


class First:
    """A source of labels."""

    def __init__(self, hierarchy: maxl.Hierarchy) -> None:
        self.hierarchy = hierarchy

    def constant(self, x: Tensor, y: Tensor, index: Tensor | None) -> tuple[Tensor, ...]:
        return (self.hierarchy.rows(y).int().argmax(1),)


class Trust(Supervision):
    """A supervision."""

    signals = ("weights",)

    def losses(
        self, task: Task, outputs: tuple[Tensor, ...], y: Tensor, signals: tuple[Tensor, ...]
    ) -> Losses:
        (weights,) = self.check_signals(signals)
        return Losses((weights * task.losses(outputs[0], y)).mean(), None)


class Absolute:
    """A task."""

    def num_outputs(self, hierarchy: maxl.Hierarchy) -> int:
        return 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.squeeze(1) - targets).abs()

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        return mask.expand(len(targets), -1)


class Noted(maxl.Taken):
    """A lookahead."""

    def teach(self, learner: maxl.MetaAuxiliaryLearner, update: Update) -> maxl.StepResult:
        return super().teach(learner, update)


def train(batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    task: Task = maxl.Classification(gamma=0.0)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=32, task=task)
    generator = maxl.LabelGenerator.sharing(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    meta_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        optimizer,
        meta_optimizer,
        supervision=AuxiliaryLabels(nn.functional.cross_entropy, weight=0.3),
        lookahead=Noted(),
        way=maxl.Forward(),
        schedule=maxl.Every(2),
    )
    for x, y in batches:
        result: maxl.StepResult = learner.backward(x, y)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType] (PyTorch's own)
        result = result.with_meta(learner.meta_step())
        loss: float = float(result.loss)
        assert loss == loss
    prediction: Tensor = network.predict(torch.zeros(1, 64))
    gradients: tuple[Tensor, ...] = maxl.hypergradient(
        network, generator, torch.zeros(2, 64), torch.tensor([0, 1])
    )
    return {"prediction": prediction, "first": gradients[0]}


def plain(hierarchy: maxl.Hierarchy, sources: list[Source]) -> list[maxl.MultiTaskLearner]:
    learners: list[maxl.MultiTaskLearner] = []
    for source in [*sources, UniformLabels(hierarchy), First(hierarchy)]:
        network = maxl.MultiTaskNetwork(trunk(), hierarchy, feature_dim=32)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        learners.append(maxl.MultiTaskLearner(network, optimizer, source=source))
    return learners


def own(network: nn.Module, weigher: nn.Module) -> maxl.MetaAuxiliaryLearner:
    return maxl.MetaAuxiliaryLearner(
        network,
        weigher,
        torch.optim.SGD(network.parameters(), lr=0.1),
        torch.optim.SGD(weigher.parameters(), lr=0.1),
        task=Absolute(),
        supervision=Trust(),
        **maxl.PRESETS["next"],
    )


def choices(hierarchy: maxl.Hierarchy) -> tuple[list[Supervision], list[Task], World]:
    supervisions: list[Supervision] = [
        SampleWeights(),
        CorrectedLabels(),
        WeightedLabels(),
        AuxiliaryLabels(),
    ]
    tasks: list[Task] = [
        maxl.MultiLabel(),
        maxl.Regression(2),
        maxl.Segmentation(ignore_index=255),
        Absolute(),
    ]
    return supervisions, tasks, Alone()


def report(network: nn.Module, generator: nn.Module, x: Tensor, y: Tensor) -> str:
    found: maxl.HypergradientReport = maxl.check_hypergradient(network, generator, x, y)
    converted = maxl.worlds.SyncBatchNorm.convert(network)
    return f"{found} {converted} {maxl.__version__}"


def estimator() -> MAXLClassifier:
    return MAXLClassifier("uniform", width=8, random_state=0)


def mistakes() -> None:
    maxl.Hierarchy("five")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    maxl.Every(k="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    maxl.Classification(gama=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    print(maxl.hierarchies)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


if __name__ == "__main__":
    found = train([(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,))) for _ in range(3)])
    assert found["prediction"].shape == (1, 10)
    hierarchy = maxl.Hierarchy([2, 2])
    for learner in plain(hierarchy, []):
        learner.step(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    print(choices(hierarchy), estimator(), "all ran")
