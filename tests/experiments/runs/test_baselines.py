"""Labels that no generator learns: inside their blocks, fixed by the seed."""

from __future__ import annotations

import pytest
import torch

from maxl.experiments.runs.baselines import (
    AutoEncoder,
    auto_encode,
    cluster_labels,
    random_labels,
)
from maxl.hierarchy import Hierarchy
from maxl.supervision import UniformLabels

PSI = Hierarchy([3, 1, 2])
Y = torch.arange(3).repeat_interleave(20)


def inside(labels: torch.Tensor, hierarchy: Hierarchy = PSI) -> bool:
    return bool(hierarchy.mask[Y, labels].all())


def test_random_labels_lie_in_their_block_and_use_all_of_it() -> None:
    labels = random_labels(Y, PSI, seed=0)
    assert labels.dtype == torch.int64
    assert inside(labels)
    assert labels.unique().tolist() == list(range(6))


def test_random_labels_follow_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = random_labels(Y, PSI, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(first, random_labels(Y, PSI, seed=3))
    assert not torch.equal(first, random_labels(Y, PSI, seed=4))


def test_uniform_labels_spread_over_their_block() -> None:
    labels = UniformLabels(PSI).constant(Y, torch.tensor([0, 1, 2]), None)[0]
    third = 1 / 3
    expected = [[third, third, third, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]
    torch.testing.assert_close(labels, torch.tensor(expected))
    torch.testing.assert_close(UniformLabels(PSI).constant(Y, Y, None)[0].sum(1), torch.ones(len(Y)))


def test_k_means_finds_the_groups_of_each_class() -> None:
    groups = torch.arange(60) % PSI.mask.sum(1)[Y]  # as many groups in a class as it has clusters
    points = torch.nn.functional.one_hot(groups, 3).float() * 10 + 0.1 * torch.randn(60, 3)
    labels = cluster_labels(points, Y, PSI, seed=0)
    assert inside(labels)
    for c in range(3):
        members = Y.eq(c)
        pairs = set(zip(groups[members].tolist(), labels[members].tolist(), strict=True))
        assert len(pairs) == PSI.psi[c]  # a cluster a group, up to its name
    assert torch.equal(labels, cluster_labels(points, Y, PSI, seed=0))


def test_k_means_of_a_hierarchy_whose_blocks_are_not_in_a_row() -> None:
    hierarchy = Hierarchy.from_labels(torch.tensor([0, 1, 0, 1, 2]), torch.arange(5))
    labels = cluster_labels(torch.randn(60, 4), Y, hierarchy, seed=0)
    assert inside(labels, hierarchy)
    assert labels.unique().tolist() == [0, 1, 2, 3, 4]


def test_k_means_of_identical_points_is_a_labelling_still() -> None:
    assert inside(cluster_labels(torch.zeros(60, 4), Y, PSI, seed=0))


def test_k_means_needs_a_sample_a_cluster() -> None:
    with pytest.raises(ValueError, match="got 2 samples for 3 clusters in class 0: lower psi"):
        cluster_labels(torch.randn(5, 4), torch.tensor([0, 0, 1, 2, 2]), PSI, seed=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (12,)])
def test_the_auto_encoder_gives_back_the_shape_it_takes(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape)
    assert AutoEncoder(shape, latent_dim=7)(x).shape == x.shape


def test_codes_follow_the_seed_and_training_lowers_the_error() -> None:
    x = torch.randn(64, 6)
    state = torch.get_rng_state()
    codes = auto_encode(x, epochs=2, latent_dim=3, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert codes.shape == (64, 3)
    assert not codes.requires_grad
    assert torch.equal(codes, auto_encode(x, epochs=2, latent_dim=3, seed=5))
    assert not torch.equal(codes, auto_encode(x, epochs=2, latent_dim=3, seed=6))
    assert not torch.equal(codes, auto_encode(x, epochs=0, latent_dim=3, seed=5))  # it has learned
