"""Snapshots: what they hold, and that taking one changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from maxl import Hierarchy, LabelGenerator, MultiTaskNetwork
from maxl.experiments.runs.snapshot import read_snapshot, write_snapshot

NAMES = ("nought", "one", "two")
HIERARCHY = Hierarchy([2, 2, 1])


class _Noisy(nn.Module):
    """Draws random numbers and counts its calls, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + 1e-4 * torch.randn_like(x)


def _trunk(*first: nn.Module) -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*first, *layers)


def _inputs(n: int = 40, size: int = 10) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2 * n, 3, size, size), generator=generator, dtype=torch.uint8)
    y = torch.arange(2 * n) % 3
    return {
        "test_x": x[:n],
        "test_primary": y[:n],
        "train_x": x[n:],
        "train_primary": y[n:],
        "prepare": lambda images: images.float() / 255,
        "primary_names": NAMES,
    }


@pytest.fixture
def networks():
    torch.manual_seed(0)
    network = MultiTaskNetwork(_trunk(), HIERARCHY, feature_dim=4)
    return network, LabelGenerator(_trunk(), HIERARCHY, feature_dim=4)


def test_features_are_the_trunks_in_eval_mode(tmp_path, networks):
    network, generator = networks
    inputs = _inputs()
    write_snapshot(tmp_path / "snapshot.npz", network=network, generator=generator, **inputs)
    snapshot = read_snapshot(tmp_path / "snapshot.npz")
    with torch.no_grad():
        expected = network.eval().trunk(inputs["test_x"].float() / 255)
    assert snapshot.features.dtype == np.float16
    np.testing.assert_allclose(snapshot.features, expected, atol=1e-3)
    np.testing.assert_array_equal(snapshot.feature_primary, inputs["test_primary"])
    assert tuple(snapshot.primary_names) == NAMES


def test_few_features_are_spread_over_the_test_set(tmp_path, networks):
    inputs = _inputs()
    inputs["test_primary"] = torch.arange(40) // 14  # sorted by class, as folders are
    write_snapshot(tmp_path / "s", network=networks[0], generator=None, max_features=9, **inputs)
    assert np.bincount(read_snapshot(tmp_path / "s").feature_primary).tolist() == [3, 3, 3]


def test_gallery_holds_the_images_that_score_highest(tmp_path, networks, monkeypatch):
    monkeypatch.setattr("maxl.experiments.runs.snapshot._BATCH", 7)  # several batches, the last one smaller
    network, generator = networks
    inputs = _inputs()
    write_snapshot(tmp_path / "s", network=network, generator=generator, per_class=4, **inputs)
    snapshot = read_snapshot(tmp_path / "s")
    with torch.no_grad():
        labels = generator.eval()(inputs["train_x"].float() / 255, inputs["train_primary"])
    assert snapshot.gallery_auxiliary.tolist() == [0, 1, 2, 3, 4]
    assert snapshot.gallery_primary.tolist() == [0, 0, 1, 1, 2]
    assert snapshot.gallery_images.shape == (5, 4, 10, 10, 3)
    np.testing.assert_allclose(snapshot.gallery_scores, labels.topk(4, dim=0).values.T, atol=1e-6)
    best = inputs["train_x"][labels[:, 1].argmax()].permute(1, 2, 0)
    np.testing.assert_array_equal(snapshot.gallery_images[1, 0], best)


def test_gallery_shows_whole_blocks_of_a_few_primary_classes(tmp_path):
    torch.manual_seed(0)
    hierarchy = Hierarchy([5] * 20)
    network = MultiTaskNetwork(_trunk(), hierarchy, feature_dim=4)
    generator = LabelGenerator(_trunk(), hierarchy, feature_dim=4)
    write_snapshot(tmp_path / "s", network=network, generator=generator, max_classes=12, **_inputs())
    snapshot = read_snapshot(tmp_path / "s")
    assert snapshot.gallery_primary.tolist() == [0] * 5 + [19] * 5
    write_snapshot(tmp_path / "s", network=network, generator=generator, max_classes=3, **_inputs())
    assert read_snapshot(tmp_path / "s").gallery_auxiliary.tolist() == [0, 1, 2]


def test_large_images_become_thumbnails(tmp_path, networks):
    network, generator = networks
    inputs = _inputs(n=3, size=100)
    inputs["train_x"] = inputs["train_x"][..., :50]
    write_snapshot(tmp_path / "s", network=network, generator=generator, **inputs)
    assert read_snapshot(tmp_path / "s").gallery_images.shape == (5, 3, 64, 32, 3)


def test_without_images_or_generator_the_gallery_is_empty(tmp_path, networks):
    network, generator = networks
    write_snapshot(tmp_path / "a", network=network, generator=None, **_inputs())
    assert len(read_snapshot(tmp_path / "a").gallery_auxiliary) == 0
    network.trunk = nn.Linear(6, 4)
    features = _inputs() | {
        "test_x": torch.randn(40, 6),
        "train_x": torch.randn(40, 6),
        "prepare": lambda x: x,
    }
    generator.trunk = nn.Linear(6, 4)
    write_snapshot(tmp_path / "b", network=network, generator=generator, **features)
    assert len(read_snapshot(tmp_path / "b").gallery_images) == 0
    assert read_snapshot(tmp_path / "b").features.shape == (40, 4)


def test_a_snapshot_leaves_no_trace(tmp_path):
    torch.manual_seed(0)
    network = MultiTaskNetwork(_trunk(_Noisy()), HIERARCHY, feature_dim=4).train()
    network.trunk[1].eval()  # a user's frozen layer must stay frozen
    generator = LabelGenerator(_trunk(_Noisy()), HIERARCHY, feature_dim=4)
    state = [{k: v.clone() for k, v in module.state_dict().items()} for module in (network, generator)]
    modes = [part.training for module in (network, generator) for part in module.modules()]
    random = torch.get_rng_state()
    write_snapshot(tmp_path / "s", network=network, generator=generator, **_inputs())
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for module in (network, generator) for part in module.modules()] == modes
    for module, before in zip((network, generator), state, strict=True):
        torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_features_beyond_half_precision_stay_finite(tmp_path, networks):
    network, _ = networks
    network.trunk = nn.Sequential(nn.Flatten(), nn.Linear(300, 2))
    nn.init.constant_(network.trunk[1].weight, 1e6)
    write_snapshot(tmp_path / "s", network=network, generator=None, **_inputs())
    assert np.isfinite(read_snapshot(tmp_path / "s").features).all()


def test_snapshot_refuses_an_empty_test_set(tmp_path, networks):
    inputs = _inputs() | {"test_x": torch.zeros(0, 3, 10, 10, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="needs test samples"):
        write_snapshot(tmp_path / "s", network=networks[0], generator=None, **inputs)


def test_reading_something_else_says_so(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text.npz needs to be a snapshot"):
        read_snapshot(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match=r"other.npz needs to be a snapshot"):
        read_snapshot(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", features=np.asarray([{}], dtype=object))
    with pytest.raises(ValueError, match=r"pickled.npz needs to be a snapshot"):
        read_snapshot(tmp_path / "pickled.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.npz needs to be a snapshot"):
        read_snapshot(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError):
        read_snapshot(tmp_path / "missing.npz")
