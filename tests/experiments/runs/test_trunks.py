"""Trunks by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from maxl.experiments.runs.trunks import build


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("vgg16", (3, 32, 32), 512),
        ("vgg11", (1, 48, 40), 512),
        ("convnet4", (1, 8, 8), 64),
        ("convnet4", (3, 1, 5), 64),
        ("convnet4", (3, 84, 84), 64),
        ("mlp", (7,), 256),
        ("mlp", (1, 8, 8), 256),
        ("resnet18", (1, 28, 28), 512),  # convolutional: takes no image size
        ("vit_tiny_patch16_224", (3, 32, 32), 192),  # made for one image size
        ("mobilenetv3_small_050", (3, 32, 32), 1024),  # a hidden layer in the head widens the features
    ],
)
def test_features_have_the_width_that_the_trunk_declares(
    name: str, shape: tuple[int, ...], width: int
) -> None:
    trunk = build(name, shape)
    assert trunk.feature_dim == width
    assert trunk.training
    assert trunk(torch.rand(2, *shape)).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "convolutions"), [("vgg11", 8), ("vgg13", 10), ("vgg16", 13), ("vgg19", 16)]
)
def test_vgg_has_the_layers_of_its_name(name: str, convolutions: int) -> None:
    modules = list(build(name, (3, 32, 32)).modules())
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == convolutions
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == convolutions
    assert sum(isinstance(module, nn.MaxPool2d) for module in modules) == 5


def test_convnet4_leaves_out_pools_only_where_a_pixel_is_left() -> None:
    def pools(size: int) -> int:
        return sum(
            isinstance(module, nn.MaxPool2d) for module in build("convnet4", (1, size, size)).modules()
        )

    assert [pools(size) for size in (1, 2, 8, 15, 16, 84)] == [0, 1, 3, 3, 4, 4]


def test_convnet4_takes_a_width() -> None:
    assert build("convnet4", (3, 32, 32), width=16).feature_dim == 16


@pytest.mark.parametrize("name", ["vgg11", "convnet4", "mlp"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    trunk = build(name, (3, 32, 32))
    trunk(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())


def test_finding_the_width_leaves_batch_statistics_alone() -> None:
    model = build("resnet18", (3, 32, 32))
    means = [buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")]
    assert means
    assert not any(mean.any() for mean in means)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg17", (3, 32, 32), "unknown trunk 'vgg17'; did you mean 'vgg19'"),
        ("resnt18", (3, 32, 32), "did you mean 'resnet18'"),
        ("Convnet4", (3, 32, 32), "did you mean 'convnet4'"),
        ("vgg16", (1, 28, 28), "needs 32 pixels a side; got 28x28"),
        ("convnet4", (5,), r"got samples of shape \(5,\): use 'resmlp' or 'mlp'"),
        ("resnet18", (5,), r"got samples of shape \(5,\): use 'resmlp' or 'mlp'"),
        ("crossvit_tiny_240", (3, 32, 32), "cannot take samples of shape"),
    ],
)
def test_what_cannot_be_built_says_why(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, shape)


OWN = """
import torch

def small(input_shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[0] * 64, 12), torch.nn.Tanh())

def maps(input_shape):
    return torch.nn.Conv2d(input_shape[0], 4, 3)

def number(input_shape):
    return 3

def broken(input_shape):
    raise KeyError("no weights")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_trunks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_trunks", raising=False)


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_makes_the_trunk() -> None:
    before = list(sys.path)
    trunk = build("own_trunks:small", (1, 8, 8))
    assert trunk.feature_dim == 12
    assert trunk(torch.zeros(2, 1, 8, 8)).shape == (2, 12)
    assert trunk.training
    assert sys.path == before


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none_such:small", "ModuleNotFoundError: No module named 'none_such'"),
        ("own_trunks:big", "has no attribute 'big'"),
        ("own_trunks:number", r"needs to make a torch.nn.Module; got int"),
        ("own_trunks:broken", "KeyError: 'no weights'"),
        ("own_trunks:maps", r"features of shape \(N, D\); Conv2d gives \(1, 4, 6, 6\)"),
        ("own_trunks:", "fails with"),
    ],
)
def test_a_function_that_makes_no_trunk_says_why(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, (1, 8, 8))
