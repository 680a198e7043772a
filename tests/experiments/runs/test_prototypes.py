"""Prototypes of human classes: the loss, the episodes and the labels that come of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from _run_helpers import digits, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import DataSet, Split
from maxl.experiments.runs.build import build, check
from maxl.experiments.runs.methods import METHODS
from maxl.experiments.runs.prototypes import (
    draw_episode,
    episode_loss,
    prototypes,
    prototypical_labels,
    squared_distances,
)
from maxl.experiments.studies.study import Study
from maxl.hierarchy import Hierarchy
from maxl.supervision import FixedLabels

PRIMARY = torch.tensor([0] * 30 + [1] * 20)
HUMAN = torch.cat([torch.arange(30) % 3, 3 + torch.arange(20) % 2])
PSI = Hierarchy([3, 2])


def points(noise: float = 0.1) -> Tensor:
    """Human class k lies around 5 e_k."""
    generator = torch.Generator().manual_seed(1)
    return 5 * nn.functional.one_hot(HUMAN, 8).float() + noise * torch.randn(50, 8, generator=generator)


def embedding(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))


def label(x: Tensor, human: Tensor = HUMAN, seed: int = 0, epochs: int = 10) -> Tensor:
    return prototypical_labels(x, PRIMARY, human, PSI, embedding(), epochs=epochs, shots=3, seed=seed)


def test_separable_classes_are_found_again() -> None:
    labels = label(points())
    assert labels.dtype == torch.int64
    assert torch.equal(labels, HUMAN)


def test_a_sample_goes_to_the_prototype_that_it_resembles_within_its_own_primary_class() -> None:
    x = points()
    x[0], x[1] = x[2], x[33]  # 0 looks like human class 2, of its own block; 1 like class 4, of the other
    labels = label(x)
    assert labels[0] == 2 != HUMAN[0]
    assert labels[1] in (0, 1, 2)
    assert PSI.mask[PRIMARY, labels].all()


def test_labels_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    x = torch.randn(50, 8)
    trunk = embedding()
    state = torch.get_rng_state()
    first = prototypical_labels(x, PRIMARY, HUMAN, PSI, trunk, epochs=2, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert trunk.training
    torch.manual_seed(99)
    assert torch.equal(first, prototypical_labels(x, PRIMARY, HUMAN, PSI, embedding(), epochs=2, seed=0))
    other = embedding()
    prototypical_labels(x, PRIMARY, HUMAN, PSI, other, epochs=2, seed=1)
    assert not torch.equal(trunk[0].weight, other[0].weight)


def test_training_the_embedding_is_what_separates_the_classes() -> None:
    x = points()
    x[:, 5:] = 20 * torch.randn(50, 3)  # loud directions that say nothing
    agreement = []
    for epochs in (0, 40):
        labels = prototypical_labels(x, PRIMARY, HUMAN, PSI, embedding(), epochs=epochs, learning_rate=0.02)
        agreement.append(float(labels.eq(HUMAN).float().mean()))
    assert agreement[1] > agreement[0] + 0.2


def test_a_class_without_samples_is_never_given() -> None:
    human = HUMAN.where(HUMAN != 1, 0)
    labels = label(points(), human)
    assert 1 not in labels
    assert PSI.mask[PRIMARY, labels].all()


def test_prototypes_are_means() -> None:
    centres, present = prototypes(
        torch.tensor([[0.0, 2.0], [2.0, 4.0], [5.0, 5.0]]), torch.tensor([0, 0, 2]), 3
    )
    assert centres.tolist() == [[1, 3], [0, 0], [5, 5]]
    assert present.tolist() == [True, False, True]


def test_the_episode_loss_is_that_of_snell_et_al() -> None:
    embedded = torch.randn(12, 4, dtype=torch.float64)
    classes, is_query = torch.arange(12) % 3, torch.arange(12) >= 6
    total = 0.0
    for i in range(6, 12):
        means = [embedded[:6][classes[:6] == c].mean(0) for c in range(3)]
        scores = torch.stack([-((embedded[i] - mean) ** 2).sum() for mean in means])
        total -= float(scores.log_softmax(0)[classes[i]])
    torch.testing.assert_close(float(episode_loss(embedded, classes, is_query)), total / 6)


def test_distances_and_their_gradient_where_points_coincide() -> None:
    a, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b) ** 2)
    same = torch.ones(2, 3, requires_grad=True)
    squared_distances(same, same).sum().backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_an_episode_shares_no_sample_between_support_and_queries() -> None:
    members = [torch.arange(10), torch.arange(10, 12), torch.arange(12, 30), torch.arange(30, 33)]
    for _ in range(20):
        positions, classes, is_query = draw_episode(members, ways=3, shots=2, queries=4)
        assert len(positions.unique()) == len(positions)
        assert classes.unique().tolist() == [0, 1, 2]
        for way in range(3):
            own = classes == way
            of_class = positions[own]
            source = next(m for m in members if int(of_class[0]) in m)
            assert set(of_class.tolist()) <= set(source.tolist())
            assert len(of_class) == min(6, len(source))
            assert int((own & ~is_query).sum()) == {2: 1, 3: 1}.get(len(source), 2)


@pytest.mark.parametrize(
    ("primary", "human", "message"),
    [
        (PRIMARY, torch.arange(50) % 5, "got human class 3 under primary class 0"),
        (torch.tensor([0, 0, 1]), torch.tensor([0, 0, 3]), "at least two human classes with two .* got 1"),
    ],
)
def test_labels_that_cannot_be(primary: Tensor, human: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prototypical_labels(torch.randn(len(primary), 8), primary, human, PSI, embedding())


def with_human(data: DataSet) -> DataSet:
    """Digits with two finer classes each, at random; digit 9 keeps one."""

    def finer(split: Split) -> Split:
        return Split(split.x, split.primary, (split.primary * 2 + torch.arange(len(split)) % 2).clamp(max=18))

    parts = {"train": finer(data.train), "test": finer(data.test), "human_names": tuple(map(str, range(19)))}
    return DataSet(**{**vars(data), **parts})


def test_a_run_takes_the_human_classes_whatever_psi_says() -> None:
    data = with_human(digits())
    setup = build(tiny(method="prototypical", psi=[4]), data, torch.device("cpu"))
    assert setup.hierarchy.psi == (2,) * 9 + (1,)
    assert isinstance(setup.learner.source, FixedLabels)
    labels = setup.learner.source.table
    assert setup.hierarchy.mask[data.train.primary, labels].all()
    other = build(tiny(method="prototypical", seed=0, psi=[3]), data, torch.device("cpu"))
    assert isinstance(other.learner.source, FixedLabels)
    assert torch.equal(labels, other.learner.source.table)


def test_a_study_without_human_labels_is_refused_before_it_writes(tmp_path: Path) -> None:
    assert METHODS.index("kmeans") < METHODS.index("prototypical") < METHODS.index("human")
    with pytest.raises(ValueError, match="--method prototypical needs a column of finer labels"):
        check(tiny(method="prototypical"), digits())
    planned = Study(tiny(), ["prototypical", "human"], [0], {"psi": [2, 5]}).plan()
    assert [str(p.path) for p in planned] == ["runs/prototypical/seed0", "runs/human/seed0"]
