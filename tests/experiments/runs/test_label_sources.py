"""Labels that no generator learns: what k-means clusters, and controls that say nothing."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from _run_helpers import digits, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import normalise
from maxl.experiments.runs.baselines import shuffled_within_classes
from maxl.experiments.runs.build import build
from maxl.experiments.runs.sources import single_task_features
from maxl.experiments.runs.trainer import train
from maxl.supervision import FixedLabels

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


def test_soft_labels_move_whole_among_samples_with_the_same_set_of_labels() -> None:
    sets = torch.tensor([[1, 0], [1, 1], [1, 0], [0, 0], [1, 0], [1, 1]])
    labels = torch.rand(6, 4)
    moved = shuffled_within_classes(labels, sets, seed=3)
    for members in ([0, 2, 4], [1, 5], [3]):
        rows = {tuple(row.tolist()) for row in labels[members]}
        assert {tuple(row.tolist()) for row in moved[members]} == rows


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
    with pytest.raises(ValueError, match=r"--cluster-features trunk needs .* not finite"):
        table(method="kmeans", cluster_features="trunk", optimizer="sgd", learning_rate=1e30)
