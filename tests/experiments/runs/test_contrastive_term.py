"""A contrastive term on the features: as a judge of labels, and in the training loss, its control."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import maxl
from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.runs.build import build, check
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.processes import Processes
from maxl.experiments.runs.supervisions import Contrastive, ContrastiveTask
from maxl.experiments.runs.trainer import train
from maxl.experiments.studies.variants import irrelevant_fields
from maxl.losses import contrastive_loss
from maxl.supervision import AuxiliaryLabels, FixedLabels

CPU = torch.device("cpu")
HIERARCHY = maxl.Hierarchy([3, 2])
RATE, WEIGHT = 0.1, 0.7


class Told(nn.Module):
    """A multi-task network with its features beside the primary outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.primary, self.auxiliary = nn.Linear(6, 2), nn.Linear(6, 5)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return torch.cat([self.primary(h), h], 1), self.auxiliary(h)


def generator() -> maxl.PrototypeGenerator:
    random = torch.Generator().manual_seed(1)
    prototypes = torch.randn(5, 4, generator=random, dtype=torch.float64)
    return maxl.PrototypeGenerator(nn.Identity(), HIERARCHY, prototypes, temperature=2.0)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return maxl.focal_loss(logits, targets, 0.0)


def points(seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(10, 4, generator=random, dtype=torch.float64), torch.arange(10) % 2


def judged(labels: maxl.PrototypeGenerator, agreed: Tensor, *, term: bool = True) -> float:
    """L_out after a step of SGD on the labels, by hand; those of the samples that judge are given."""
    network, (x, y), (outer_x, outer_y) = Told(), points(2), points(3)
    outputs, auxiliary = network(x)
    loss = cross_entropy(outputs[:, :2], y) + cross_entropy(auxiliary, labels(x, y).detach())
    weights = list(network.parameters())
    with torch.no_grad():
        for p, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p -= RATE * g
        out, _ = network(outer_x)
        primary = cross_entropy(out[:, :2], outer_y)
        return float(primary + term * WEIGHT * contrastive_loss(out[:, 2:], agreed, outer_y))


@pytest.mark.parametrize("way", [maxl.Forward(), maxl.Reverse()], ids=["forward", "reverse"])
def test_the_hypergradient_of_both_losses_is_that_of_finite_differences(way: maxl.Forward) -> None:
    labels, network = generator(), Told()
    task = ContrastiveTask(maxl.Classification(gamma=0.0), 2, WEIGHT)
    learner = maxl.MetaAuxiliaryLearner(
        *(network, labels, torch.optim.SGD(network.parameters(), lr=RATE)),
        torch.optim.SGD(labels.parameters(), lr=1.0),
        task=task,
        supervision=AuxiliaryLabels(cross_entropy, entropy_weight=0.0),
        way=way,
    )
    x, y = points(3)
    agreed = labels(x, y).detach()
    before = labels.prototypes.detach().clone()
    learner.step(*points(2), outer_batch=(x, task.with_labels(y, labels(x, y))))
    found = before - labels.prototypes.detach()
    expected, without = torch.zeros_like(found), torch.zeros_like(found)
    for i in range(found.numel()):
        for sign in (1, -1):
            moved = generator()
            moved.prototypes.data.view(-1)[i] += sign * 1e-5
            expected.view(-1)[i] += sign * judged(moved, agreed) / 2e-5
            without.view(-1)[i] += sign * judged(moved, agreed, term=False) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    assert (expected - without).norm() > 0.1 * expected.norm()  # the term has a say


def test_training_is_by_the_classification_alone() -> None:
    task = ContrastiveTask(maxl.Classification(gamma=0.0), 2, WEIGHT)
    out, y = torch.randn(10, 8), points(2)[1]
    torch.testing.assert_close(task.loss(out, y), cross_entropy(out[:, :2], y))
    torch.testing.assert_close(task.losses(out, y).mean(), task.loss(out, y))
    assert task.num_outputs(HIERARCHY) == 2
    assert torch.equal(task.rows(y, HIERARCHY.mask), HIERARCHY.rows(y))


# In runs.


def config(**changes: object) -> RunConfig:
    return tiny(**{"method": "prototypes", "cluster_features": "input", "held_out": 0.34, **changes})


def test_it_judges_the_labels_of_prototypes_by_its_weight() -> None:
    def labels(**changes: object) -> Tensor:
        source = build(config(**changes), digits(), CPU).learner.source
        assert isinstance(source, FixedLabels)
        return source.table

    plain, judging = labels(), labels(outer_term="contrastive")
    assert not torch.equal(plain, judging)
    assert torch.equal(plain, labels(outer_weight=3.0))
    assert not torch.equal(judging, labels(outer_term="contrastive", outer_weight=3.0))
    assert torch.equal(judging, labels(outer_term="contrastive"))


def test_in_the_training_loss_it_falls_and_without_weight_it_is_single(tmp_path: Path) -> None:
    shared = {"epochs": 8, "optimizer": "adam", "decay": "constant"}
    train(config(**{**shared, "method": "single"}), tmp_path / "single", data=digits())
    for name, weight in (("nothing", 1e-30), ("full", 1.0)):
        train(
            config(**{**shared, "method": "contrastive", "outer_weight": weight}),
            tmp_path / name,
            data=digits(),
        )
    single, nothing, full = (metrics(tmp_path / name) for name in ("single", "nothing", "full"))
    for one, other in zip(single, nothing, strict=True):
        assert one["train_primary_loss"] == other["train_primary_loss"]
        assert one["test_accuracy"] == other["test_accuracy"]
    term = [row["train_auxiliary_loss"] for row in full]
    assert term[-1] < term[0]
    assert single[-1]["train_primary_loss"] != full[-1]["train_primary_loss"]


def test_it_trains_on_the_clusters_of_kmeans_and_the_features_of_the_trunk() -> None:
    setup = build(config(method="contrastive"), digits(), CPU)
    kmeans = build(config(method="kmeans"), digits(), CPU)
    assert isinstance(setup.learner.source, FixedLabels)
    assert isinstance(kmeans.learner.source, FixedLabels)
    assert torch.equal(setup.learner.source.table, kmeans.learner.source.table)
    x = digits().train.x[:5].float()
    assert torch.equal(setup.network(x).auxiliary, setup.network.trunk(x))
    assert isinstance(setup.learner.supervision, Contrastive)


def test_what_matters_to_whom() -> None:
    assert {"outer_term", "outer_weight"} <= set(irrelevant_fields("single"))
    assert {"outer_term", "outer_weight"} <= set(irrelevant_fields("kmeans"))
    assert "outer_term" in irrelevant_fields("contrastive")
    assert "auxiliary_weight" in irrelevant_fields("contrastive")
    assert not {"outer_weight", "psi", "cluster_features"} & set(irrelevant_fields("contrastive"))
    assert not {"outer_term", "outer_weight"} & set(irrelevant_fields("prototypes"))


def test_numbers_have_no_classes_to_look_within_and_a_weight_is_above_nothing() -> None:
    data = dataclasses.replace(digits(), task="regression")
    for chosen in (config(method="contrastive"), config(outer_term="contrastive")):
        with pytest.raises(
            ValueError, match=r"one class a sample; the task is regression: use --outer-term none"
        ):
            check(chosen, data)
    with pytest.raises(ValueError, match="--outer-weight needs to be above 0; got 0"):
        config(outer_weight=0.0)


def test_a_batch_in_parts_has_no_pairs_across_them() -> None:
    with pytest.raises(ValueError, match=r"compares the samples of a batch.*without torchrun"):
        Processes(0, 2).check(config(method="contrastive"))
    Processes(0, 1).check(config(method="contrastive"))
    Processes(0, 2).check(config(outer_term="contrastive"))  # its networks are each process's own
