"""k-means for segmentation: clusters of the pixels of a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor

from maxl.experiments.data import IGNORED, Batch, DataSet, Split
from maxl.experiments.runs import pixels
from maxl.experiments.runs.build import build, choose_hierarchy
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.pixels import (
    PixelAutoEncoder,
    pixel_cluster_labels,
    surroundings,
    trained_auto_encoder,
)
from maxl.experiments.runs.sources import fixed_source
from maxl.hierarchy import Hierarchy
from maxl.supervision import FixedLabels
from maxl.tasks import Segmentation

CPU = torch.device("cpu")
TASK = Segmentation(ignore_index=IGNORED)
PSI = Hierarchy([3, 2])


def scene(seed: int = 0, images: int = 7, height: int = 6, width: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 1, H, W), masks of two classes, and groups: three grey values in class 0, two in class 1."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.randint(2, (images, height, width), generator=random)
    groups = torch.randint(6, masks.shape, generator=random) % torch.tensor([3, 2])[masks]
    grey = torch.tensor([[0.0, 0.4, 0.8], [0.2, 0.6, 0.0]])[masks, groups]
    noise = 0.01 * torch.rand(masks.shape, generator=random)
    masks[:, 0] = IGNORED
    return (grey + noise).unsqueeze(1), masks, groups


def batches(x: Tensor, masks: Tensor, size: int) -> Callable[[], Iterable[Batch]]:
    parts = [torch.split(whole, size) for whole in (x, masks, torch.arange(len(x)))]
    return lambda: [Batch(a, b, None, c) for a, b, c in zip(*parts, strict=True)]


def test_the_groups_of_each_class_are_found_and_labels_lie_in_their_block() -> None:
    x, masks, groups = scene()
    labels = pixel_cluster_labels(batches(x, masks, 3), lambda v: v, masks, PSI, TASK, seed=0)
    assert labels.dtype == torch.int64
    assert labels.shape == masks.shape
    counts = masks != IGNORED
    assert PSI.mask[masks[counts], labels[counts]].all()
    for c, clusters in enumerate(PSI.psi):
        pairs = set(zip(groups[masks == c].tolist(), labels[masks == c].tolist(), strict=True))
        assert len(pairs) == clusters  # a cluster a group, up to its name


def test_images_may_come_in_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_PIXELS", 20)  # some of each class, from several images
    x, masks, _ = scene()
    state = torch.get_rng_state()
    found = [
        pixel_cluster_labels(batches(x, masks, size), lambda v: v, masks, PSI, TASK, seed=0)
        for size in (1, 3, 7)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.equal(state, torch.get_rng_state())


def test_the_features_of_a_pixel_are_its_own() -> None:
    """Drawn by row and column of the right image: of features that name their place, clusters do."""
    masks = torch.zeros(4, 3, 5, dtype=torch.int64)
    place = torch.arange(masks.numel()).view(4, 1, 3, 5).float()
    hierarchy = Hierarchy([masks.numel()])
    labels = pixel_cluster_labels(batches(place, masks, 3), lambda v: v, masks, hierarchy, TASK, seed=0)
    assert labels.unique().numel() == masks.numel()  # each pixel its own cluster


def test_pixels_to_ignore_have_no_part_in_the_clusters() -> None:
    x, masks, _ = scene()
    other = x.clone()
    other[masks.unsqueeze(1) == IGNORED] = 1000.0
    first, second = (
        pixel_cluster_labels(batches(v, masks, 3), lambda v: v, masks, PSI, TASK, seed=0) for v in (x, other)
    )
    counts = masks != IGNORED
    assert torch.equal(first[counts], second[counts])


def test_a_class_without_pixels_needs_none_and_one_with_a_few_is_refused() -> None:
    x, masks, _ = scene()
    wider = Hierarchy([3, 2, 4])
    labels = pixel_cluster_labels(batches(x, masks, 3), lambda v: v, masks, wider, TASK, seed=0)
    assert (labels[masks != IGNORED] < 5).all()
    masks[0, 2, :3] = 2
    with pytest.raises(ValueError, match="got 3 samples for 4 clusters in class 2"):
        pixel_cluster_labels(batches(x, masks, 3), lambda v: v, masks, wider, TASK, seed=0)


def test_features_that_are_not_finite_are_an_error() -> None:
    x, masks, _ = scene()
    with pytest.raises(FloatingPointError, match="not finite"):
        pixel_cluster_labels(batches(x, masks, 3), lambda v: v / 0, masks, PSI, TASK, seed=0)


def test_surroundings_are_means_over_squares_that_end_at_the_edge() -> None:
    x = torch.rand(2, 3, 20, 9, dtype=torch.float64)
    found = surroundings(x)
    assert found.shape == (2, 9, 20, 9)
    assert torch.equal(found[:, :3], x)
    torch.testing.assert_close(found[:, 3:6, 0, 4], x[:, :, :3, 2:7].mean((2, 3)))
    torch.testing.assert_close(found[:, 6:, 10, 4], x[:, :, 2:19, :].mean((2, 3)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (3, 1, 2)])
def test_the_auto_encoder_takes_images_of_any_size(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape)
    model = PixelAutoEncoder(shape[0], latent_dim=7)
    assert model(x).shape == x.shape
    assert model.codes(x).shape == (5, 7, *shape[1:])


def test_the_auto_encoder_learns_its_images_and_leaves_the_random_state() -> None:
    x, masks, _ = scene(height=8, width=8)
    epoch = list(batches(x, masks, 3)())
    state = torch.get_rng_state()
    fresh, trained = (trained_auto_encoder([epoch] * n, 1, CPU, seed=0) for n in (0, 30))
    assert torch.equal(state, torch.get_rng_state())
    errors = [float((model(x) - x).pow(2).mean().detach()) for model in (fresh, trained)]
    assert errors[1] < 0.5 * errors[0]
    assert not trained.training


def data() -> DataSet:
    x, masks, _ = scene(images=9, height=8, width=8)
    part = Split((255 * x).byte(), masks, None)
    names = ("dark", "bright")
    return DataSet("scene", part, None, part, names, None, (0.4,), (0.3,), False, task="segmentation")


@pytest.mark.parametrize("features", ["auto-encoder", "input", "trunk"])
def test_a_run_clusters_what_it_is_told_to(features: str) -> None:
    def labels(**changes: object) -> Tensor:
        chosen = RunConfig(
            **{  # type: ignore[arg-type]
                **{"method": "kmeans", "cluster_features": features, "psi": (2,), "device": "cpu"},
                **{"epochs": 1, "batch_size": 4, "learning_rate": 0.01, **changes},
            }
        )
        given = chosen, data(), choose_hierarchy(chosen, data()), TASK, CPU
        source = fixed_source(*given, partial(build, data=data(), device=CPU))
        assert isinstance(source, FixedLabels)
        return source.table

    masks = data().train.primary
    counts = masks != IGNORED
    found = labels()
    assert found.shape == masks.shape
    assert torch.equal(found[counts] // 2, masks[counts])
    assert torch.equal(found, labels())
    shuffled = labels(method="kmeans-shuffled")
    assert torch.equal(shuffled[counts] // 2, masks[counts])
    assert not torch.equal(shuffled, found)
    assert torch.equal(shuffled[counts].bincount(minlength=4), found[counts].bincount(minlength=4))
    x = (data().train.x / 255 - 0.4) / 0.3
    raw = pixel_cluster_labels(batches(x, masks, 4), surroundings, masks, Hierarchy([2, 2]), TASK, seed=0)
    assert torch.equal(raw[counts], found[counts]) == (features == "input")
    if features == "trunk":
        with pytest.raises(FloatingPointError, match="--cluster-features trunk needs a single-task network"):
            labels(learning_rate=1e30)


def test_what_clusters_and_contrasts_needs_whole_images() -> None:
    for method in ("contrastive", "prototypes"):
        chosen = RunConfig(method=method, psi=(2,), device="cpu")
        with pytest.raises(ValueError, match=r"segmentation"):
            build(chosen, dataclasses.replace(data()), CPU)
