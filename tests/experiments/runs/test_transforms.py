"""Training images changed at random by functions of torchvision or of one's own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from _run_helpers import Interrupted, interrupt_after, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import BatchStream, ImageTransform, Split
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.runs.transforms import build_transform

IMAGES = torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SPLIT = Split(IMAGES, torch.arange(12))
OWN = """import random
import numpy as np
import torch

def noisy(image):
    draws = torch.rand(1).item() + random.random() + np.random.rand()
    return (image.float() * draws / 3).byte()

def halved(image):
    return image[:, ::2]

def failing(image):
    raise KeyError("no such thing")

number = 3
"""


def batches(
    transform: ImageTransform | None, epoch: int = 0, view: int = 0, batch_size: int = 4
) -> dict[int, Tensor]:
    """The images of an epoch, bytes again, by their positions in the split."""
    stream = BatchStream(
        SPLIT, batch_size, mean=(0,) * 3, std=(1,) * 3, augment=False, seed=1, transform=transform
    )
    made = [(b.index, (b.x * 255).round().byte()) for b in stream.epoch(epoch, view)]
    return {int(i): x for index, images in made for i, x in zip(index, images, strict=True)}


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[i]) for i, x in one.items())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_transform.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "names", [("RandAugment",), ("RandomVerticalFlip", "RandAugment"), ("own_transform:noisy",)]
)
def test_a_sample_is_changed_by_seed_and_epoch_alone(own: Path, names: tuple[str, ...]) -> None:
    transform = build_transform(names)
    first = batches(transform)
    torch.rand(3)
    random.random()
    np.random.rand()  # noqa: NPY002
    assert same(batches(transform), first)  # whatever was drawn before
    assert same(batches(transform, batch_size=3), first)  # and in batches of any size
    assert not same(batches(transform), batches(None))
    assert not same(batches(transform, epoch=1), first)
    assert not same(batches(transform, view=1), first)


def test_random_generators_are_left_as_they_were(own: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    batches(build_transform(["own_transform:noisy"]))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # type: ignore[index]  # noqa: NPY002


def test_functions_act_in_their_order() -> None:
    twice = ImageTransform(("a", "b"), (lambda x: x // 2, lambda x: x + 1))
    assert torch.equal(twice(IMAGES, [(0,)] * 12), IMAGES // 2 + 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["RandAugmnt"], "RandAugmnt is not one of torchvision.transforms.v2.*did you mean 'RandAugment'"),
        (["MixUp"], "MixUp cannot be used: a mixture of two samples has no label of its own to learn"),
        (["CutMix"], "CutMix cannot be used"),
        (["RandomAffine"], "RandomAffine needs arguments"),
        (["os:nothing"], "importing it fails with AttributeError"),
        (["nowhere_at_all:f"], "importing it fails with ModuleNotFoundError"),
        (["own_transform:number"], "needs to be a function of one image; it is a int"),
    ],
)
def test_what_cannot_be_used_is_refused(own: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_transform(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "own_transform:halved",
            r"needs to give an image as it takes one, uint8 \(3, 8, 8\); it gives uint8 \(3, 4, 8\)",
        ),
        ("ToPILImage", "it gives Image"),
        ("own_transform:failing", "fails on an image of shape .* with KeyError: 'no such thing'"),
    ],
)
def test_what_makes_no_image_is_refused(own: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(build_transform([name]))


def test_features_have_no_transform(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b,kind\n" + "".join(f"{i},{i % 3},{'xy'[i % 2]}\n" for i in range(40)))
    config = RunConfig(data=str(path), primary="kind", transform=("RandAugment",))
    assert config == RunConfig.from_dict(config.to_dict())
    with pytest.raises(ValueError, match=r"--transform needs images; .* has features of shape"):
        load_data(config)


def test_code_in_a_config_is_not_taken_on_trust() -> None:
    content = RunConfig(transform=("RandAugment", "own_transform:noisy")).to_yaml().encode()
    with pytest.raises(ValueError, match="wants to run code, transform"):
        RunConfig.parse(content, "config.yaml")
    assert RunConfig.parse(content, "config.yaml", trust=True).transform == (
        "RandAugment",
        "own_transform:noisy",
    )


def test_a_run_with_transforms_goes_on_to_the_same_end(tmp_path: Path) -> None:
    config = tiny(epochs=2, transform=("RandAugment",), evaluate="augmented")
    train(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, tmp_path / "part", report=interrupt_after(2))
    resume(tmp_path / "part")
    assert metrics(tmp_path / "part") == metrics(tmp_path / "whole")
