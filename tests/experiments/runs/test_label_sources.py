"""Labels that no generator learns: what k-means clusters, and controls that say nothing."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from _run_helpers import digits, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import normalise
from maxl.experiments.runs.baselines import cluster_labels, shuffled_within_labels
from maxl.experiments.runs.build import build
from maxl.experiments.runs.sources import single_task_features
from maxl.experiments.runs.trainer import train
from maxl.hierarchy import Hierarchy
from maxl.supervision import FixedLabels
from maxl.tasks import MultiLabel

CPU = torch.device("cpu")


def table(**changes: Any) -> Tensor:
    source = build(tiny(**changes), digits(), CPU).learner.source
    assert isinstance(source, FixedLabels)
    return source.table


def counts(labels: Tensor, classes: Tensor) -> list[list[int]]:
    return [torch.bincount(labels[classes == c], minlength=int(labels.max()) + 1).tolist() for c in range(10)]


@pytest.mark.parametrize("features", ["auto-encoder", "input", "trunk"])
def test_shuffled_clusters_have_the_sizes_of_the_clusters_and_other_members(features: str) -> None:
    clusters = table(method="kmeans", cluster_features=features)
    shuffled = table(method="kmeans-shuffled", cluster_features=features)
    classes = digits().train.primary
    assert counts(clusters, classes) == counts(shuffled, classes)
    assert (clusters != shuffled).float().mean() > 0.3
    assert torch.equal(shuffled, table(method="kmeans-shuffled", cluster_features=features))
    assert not torch.equal(shuffled, table(method="kmeans-shuffled", cluster_features=features, seed=1))


def test_shuffled_human_classes_stay_within_their_primary_class() -> None:
    data = digits()
    primary = data.train.primary
    human = 2 * primary + torch.arange(len(primary)) % 2
    split = dataclasses.replace(data.train, human=human)
    names = tuple(map(str, range(20)))
    data = dataclasses.replace(data, train=split, human_names=names)
    source = build(tiny(method="human-shuffled"), data, CPU).learner.source
    assert isinstance(source, FixedLabels)
    assert torch.equal(source.table // 2, primary)
    assert counts(source.table, primary) == counts(human, primary)
    assert 0.2 < (source.table != human).float().mean() < 0.8


def test_each_kind_of_features_gives_other_clusters() -> None:
    kinds = [table(method="kmeans", cluster_features=f) for f in ("auto-encoder", "input", "trunk")]
    assert not any(torch.equal(kinds[i], kinds[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def several(count: int, labels: int, seed: int = 0) -> Tensor:
    """Targets of so many labels, of which hardly any two samples have the same set."""
    return torch.randint(2, (count, labels), generator=torch.Generator().manual_seed(seed))


def given(y: Tensor, hierarchy: Hierarchy, kind: str) -> Tensor:
    """Labels as k-means gives them, one cluster in each block of a sample; or as prototypes do, soft over all of them."""
    if kind == "clusters":
        return cluster_labels(torch.randn(len(y), 3), y, hierarchy, seed=0)
    rows = MultiLabel(y.shape[1]).rows(y, hierarchy.mask)
    return torch.randn(rows.shape).masked_fill(~rows, float("-inf")).softmax(1)


def own(labels: Tensor, members: Tensor, columns: Tensor) -> Tensor:
    """What labels of some samples say within a block, whatever they weigh, its rows in order."""
    rows = labels[members][:, columns].double()
    rows = rows / rows.sum(1, keepdim=True)
    return rows[(rows * torch.tensor([1.0, math.e, 7.3])[: rows.shape[1]]).sum(1).argsort()]


@pytest.mark.parametrize("none", [False, True])
@pytest.mark.parametrize("kind", ["clusters", "soft"])
def test_labels_of_several_classes_are_dealt_out_within_each_labels_block(kind: str, none: bool) -> None:
    torch.manual_seed(0)
    y, hierarchy = several(200, 8), Hierarchy([2, 3] * 4 + [2] * none)
    y[:9] = 0
    labels = given(y, hierarchy, kind)
    state = torch.get_rng_state()
    moved = shuffled_within_labels(labels, y, hierarchy, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(moved, shuffled_within_labels(labels, y, hierarchy, seed=3))
    assert moved.dtype == labels.dtype
    torch.testing.assert_close(moved.sum(1), torch.ones(200))
    rows = MultiLabel(8).rows(y, hierarchy.mask)
    assert not moved[~rows].any()
    kept = 0
    for c in range(8):
        members, columns = y[:, c] == 1, hierarchy.mask[c]
        torch.testing.assert_close(
            own(moved, members, columns), own(labels, members, columns), rtol=1e-5, atol=1e-6
        )
        kept += int((moved[members][:, columns].argmax(1) == labels[members][:, columns].argmax(1)).sum())
    assert kept < 0.6 * int(y.sum())  # by chance half of two clusters, and a third of three
    if not none:  # samples without a label have all classes, and exchange whole rows
        torch.testing.assert_close(moved[:9].sort(0).values, labels[:9].sort(0).values)


def test_clusters_dealt_out_weigh_what_the_method_gives_them() -> None:
    y, hierarchy = several(100, 5), Hierarchy.uniform(5, 2)
    moved = shuffled_within_labels(given(y, hierarchy, "clusters"), y, hierarchy, seed=0)
    has = y.any(1)
    weights = moved[has] @ hierarchy.mask.float().T
    torch.testing.assert_close(weights, y[has] / y[has].sum(1, keepdim=True))
    assert ((moved[has] > 0).sum(1) == y[has].sum(1)).all()


@pytest.mark.parametrize("kind", ["clusters", "soft"])
def test_what_tells_blocks_apart_goes_too(kind: str) -> None:
    """A sample that is in the first cluster of one block was in that of all of them."""
    y, hierarchy = torch.ones(400, 2, dtype=torch.int64), Hierarchy([2, 2])
    side = torch.arange(400) % 2
    labels = torch.zeros(400, 4)
    for block in (0, 2):
        labels[torch.arange(400), block + side] = 0.5
    if kind == "soft":  # and its weight lies on one of the blocks
        labels[side == 0] *= torch.tensor([1.8, 1.8, 0.2, 0.2])
        labels[side == 1] *= torch.tensor([0.2, 0.2, 1.8, 1.8])
    moved = shuffled_within_labels(labels, y, hierarchy, seed=0)
    first, second = moved[:, :2].argmax(1), moved[:, 2:].argmax(1)
    assert 0.4 < (first == second).float().mean() < 0.6
    assert 0.4 < (first == side).float().mean() < 0.6


@pytest.mark.parametrize("limit", [None, 0.5])
def test_trunk_features_are_those_that_the_single_task_run_ends_with(
    limit: float | None, tmp_path: Path
) -> None:
    config = tiny(max_grad_norm=limit)
    train(tiny(max_grad_norm=limit, method="single"), tmp_path / "run", data=digits())
    state = torch.get_rng_state()
    make = partial(build, data=digits(), device=CPU)
    features = single_task_features(config, digits(), CPU, make)
    assert torch.equal(torch.get_rng_state(), state)
    network = make(tiny(method="single")).network
    weights = model(tmp_path / "run")
    network.load_state_dict(weights, strict=False)
    network.eval()
    with torch.no_grad():
        expected = network.trunk(normalise(digits().train.x, digits().mean, digits().std))
    torch.testing.assert_close(features, expected, rtol=0, atol=0)


def test_a_single_task_network_that_diverges_is_no_source_of_clusters() -> None:
    with pytest.raises(FloatingPointError, match=r"--cluster-features trunk needs .* not finite"):
        table(method="kmeans", cluster_features="trunk", optimizer="sgd", learning_rate=1e30)
