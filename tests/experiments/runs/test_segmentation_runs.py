"""Segmentation from folders of images and masks to a summary, masks and exported models."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from maxl.experiments.data import IGNORED, load
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.masks import Mask
from maxl.experiments.runs.measures import score
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import train
from maxl.experiments.runs.trunks import build
from maxl.experiments.runs.unet import UNet

VOID = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 10 by 8 pixels whose brightness is their class: 0 dark, 1 bright, and a border to ignore."""
    root = tmp_path_factory.mktemp("pixels")
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            classes = random.integers(0, 2, (8, 10)).astype(np.uint8)
            pixels = np.where(classes == 1, 230, 20).astype(np.uint8)
            classes[0] = VOID
            Image.fromarray(np.stack([pixels] * 3, 2)).save(root / part / "images" / f"{i}.png")
            Image.fromarray(classes).save(root / part / "masks" / f"{i}.png")
    return root


def config(folder: Path, method: str = "maxl", **more: object) -> RunConfig:
    values = {"epochs": 1, "batch_size": 3, "psi": (2,), "tensorboard": False, "device": "cpu", **more}
    return RunConfig(data=str(folder), method=method, ignore_index=VOID, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(config(folder, epochs=25, learning_rate=0.02), out)
    return out


def test_masks_are_found_and_their_void_is_ignored(folder: Path) -> None:
    data = load(str(folder), ignore_index=VOID, validation_size=2)
    assert data.task == "segmentation"
    assert data.saw.splitlines()[0] == "each image has a mask: segmentation"
    assert data.primary_names == ("0", "1")
    assert data.train.primary.shape == (6, 8, 10)
    assert (data.train.primary[:, 0] == IGNORED).all()
    assert set(data.train.primary[:, 1:].unique().tolist()) == {0, 1}
    assert data.validation is not None
    assert len(data.validation) == 2
    assert not data.augment


def test_a_folder_without_parts_has_a_fifth_cut_off_and_images_keep_their_masks(folder: Path) -> None:
    data = load(str(folder / "train"), ignore_index=VOID)
    assert len(data.train) + len(data.test) == 6
    for part in (data.train, data.test):
        counts = part.primary != IGNORED
        assert torch.equal((part.x[:, 0] > 128).long()[counts], part.primary[counts])


def test_masks_by_palette_hold_classes_that_a_file_names(folder: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(5):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        mask = Image.fromarray(np.eye(4, dtype=np.uint8), mode="P")
        mask.putpalette([255, 0, 0, 0, 255, 0])
        mask.save(tmp_path / "masks" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    data = load(str(tmp_path))
    assert data.primary_names == ("road", "sky")
    assert torch.equal(data.train.primary[0], torch.eye(4).long())


def test_masks_that_do_not_fit_are_refused_before_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxl.experiments.data._memory._SMALL", 0)
    monkeypatch.setattr("maxl.experiments.data._memory.available_memory", lambda: 10)
    with pytest.raises(
        ValueError, match=r"masks of \d+x\d+ need .* are available: scale them with --image-size N"
    ):
        load(str(folder))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_mask_has_the_size_of_its_image_as_that_is_shown(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(5):
        Image.fromarray(np.zeros((2, 6), np.uint8)).save(tmp_path / "images" / f"{i}.{suffix}", exif=exif)
        Image.fromarray(np.eye(6, 2, dtype=np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    assert load(str(tmp_path)).train.primary.shape[1:] == (6, 2)


def test_a_size_stretches_images_and_masks_alike(folder: Path) -> None:
    data = load(str(folder), ignore_index=VOID, image_size=16)
    assert data.input_shape == (3, 16, 16)
    sure = (data.train.primary != IGNORED) & ((data.train.x[:, 0] < 40) | (data.train.x[:, 0] > 210))
    right = (data.train.x[:, 0] > 128).long() == data.train.primary
    assert right[sure].float().mean() > 0.95


@pytest.mark.parametrize(
    "method",
    ["single", "uniform", "frozen", "random", "kmeans-shuffled", "kmeans", "maxl", "weighted", "gated"],
)
def test_every_source_of_labels_trains_on_pixels(method: str, folder: Path, tmp_path: Path) -> None:
    summary = train(config(folder, method), tmp_path / "run")
    assert summary["task"] == "segmentation"
    assert summary["trunk"] == "unet"
    assert 0 <= summary["test_miou"] <= 1
    assert 0 <= summary["test_pixel_accuracy"] <= 1
    if method not in ("single", "uniform", "random"):
        assert summary["label_verdict"] is None or "labels" in summary["label_verdict"]


def test_a_run_with_a_cache_and_a_shared_trunk_trains_on_pixels(folder: Path, tmp_path: Path) -> None:
    cached = config(
        folder, cache_labels=True, meta_every=2, generator_trunk="shared", regulariser="information"
    )
    assert train(cached, tmp_path / "run")["task"] == "segmentation"


def test_what_can_be_learned_is_learned_and_masks_have_the_size_of_their_image(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    assert json.loads((run / "summary.json").read_text())["test_miou"] > 0.9
    masks = predict(run, folder / "test" / "images")
    for mask in masks:
        assert isinstance(mask, Mask)
        with Image.open(folder / "test" / "masks" / mask.file.name) as stored:
            truth = np.asarray(stored)
        assert mask.classes.shape == truth.shape
        assert (mask.classes.numpy() == truth)[truth != VOID].mean() > 0.9
    Image.new("RGB", (13, 21)).save(tmp_path / "large.png")
    (other,) = predict(run, tmp_path / "large.png")
    assert isinstance(other, Mask)
    assert other.classes.shape == (21, 13)


@pytest.mark.parametrize("format", ["safetensors", "torch-export"])
def test_a_model_is_exported_with_a_map_of_logits(format: str, run: Path, tmp_path: Path) -> None:
    suffix = {"safetensors": ".safetensors", "torch-export": ".pt2"}[format]
    described = json.loads(export(run, format, tmp_path / f"model{suffix}").read_text())
    assert described["task"] == "segmentation"
    assert load_model(run)(torch.rand(2, 3, 8, 10)).shape == (2, 2, 8, 10)


def test_measures_are_counted_by_hand(folder: Path) -> None:
    data = load(str(folder), ignore_index=VOID)
    targets = torch.tensor([[[0, 0, 1], [1, 1, IGNORED]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    measured = score(data, predicted, targets)
    assert measured["pixel_accuracy"] == pytest.approx(3 / 5)
    assert measured["miou"] == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.parametrize("size", [(8, 10), (5, 7), (4, 4)])
def test_a_u_net_gives_features_for_each_pixel_of_images_of_any_size(size: tuple[int, int]) -> None:
    net = UNet((2, *size))
    assert net(torch.randn(2, 2, *size)).shape == (2, net.feature_dim, *size)


def test_a_trunk_of_another_task_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="needs them for each pixel: use unet"):
        build("mlp", (3, 8, 8), dense=True)
    with pytest.raises(ValueError, match="needs them for a whole sample: use convnet4 or mlp"):
        build("unet", (3, 8, 8))
    with pytest.raises(ValueError, match="needs 4 pixels a side; got 3x8"):
        build("unet", (3, 3, 8), dense=True)


def refused(data: Path, *more: str) -> str:
    out = data / "never"
    command = [sys.executable, "-m", "maxl", "train", "--data", str(data), "--out", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert not out.exists()
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Five good pairs to break one of."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for i in range(5):
            Image.fromarray(np.eye(6, dtype=np.uint8)).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def load_refused(data: Path, **more: object) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        load(str(data), **more)  # type: ignore[arg-type]
    return str(caught.value)


def test_bad_masks_are_refused_by_name_and_nothing_is_written(broken: Path) -> None:
    (broken / "masks" / "3.png").unlink()
    assert "each image needs a mask of its name" in (told := refused(broken))
    assert "images/3.png" in told


def test_a_mask_without_image_is_refused(broken: Path) -> None:
    (broken / "images" / "2.png").unlink()
    assert "each mask needs an image of its name" in (told := load_refused(broken))
    assert "masks/2.png" in told


def test_a_mask_of_another_size_is_refused(broken: Path) -> None:
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(broken / "masks" / "1.png")
    assert "masks/1.png' is 6x7" in load_refused(broken)


def test_a_mask_with_colours_is_refused(broken: Path) -> None:
    Image.new("RGB", (6, 6)).save(broken / "masks" / "1.png")
    assert "masks/1.png' has mode RGB" in load_refused(broken)


def test_a_truncated_mask_and_a_truncated_image_are_refused(broken: Path) -> None:
    for kind in ("masks", "images"):
        file = broken / kind / "4.png"
        content = file.read_bytes()
        file.write_bytes(content[:50])
        assert f"{kind}/4.png' cannot be decoded" in load_refused(broken)
        file.write_bytes(content)


def test_a_value_out_of_range_is_refused(broken: Path) -> None:
    (broken / "classes.txt").write_text("a\nb\n")
    Image.fromarray(np.full((6, 6), 7, np.uint8)).save(broken / "masks" / "0.png")
    assert "masks/0.png' has 7: correct it, or say --ignore-index" in load_refused(broken)
    assert load(str(broken), ignore_index=7).primary_names == ("a", "b")


def test_empty_folders_and_mixed_sizes_are_refused(broken: Path) -> None:
    for kind in ("images", "masks"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(broken / kind / "9.png")
    assert "images must all have one size" in load_refused(broken)
    assert load(str(broken), image_size=6).input_shape == (1, 6, 6)
    for kind in ("images", "masks"):
        for file in (broken / kind).iterdir():
            file.unlink()
    assert "segmentation needs images" in load_refused(broken)


def test_what_does_not_go_with_pixels_is_refused(folder: Path, broken: Path, tmp_path: Path) -> None:
    for method, told in (
        ("contrastive", "needs one class a sample"),
        ("human", "needs primary classes with finer"),
    ):
        with pytest.raises(ValueError, match=told):
            train(config(folder, method), tmp_path / "never")
    with pytest.raises(ValueError, match="would move images and not their masks"):
        train(config(folder, augment="crop"), tmp_path / "never")
    assert not (tmp_path / "never").exists()
    assert "the data has masks, so it is segmentation" in load_refused(broken, task="classification")
    assert "the data has none" in load_refused(Path("digits"), task="segmentation")


def test_predict_writes_masks_into_a_new_folder_alone(run: Path, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maxl", "predict", str(run), str(folder / "test" / "images")]
    out = tmp_path / "masks"
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in out.iterdir()) == ["0.png", "1.png", "2.png"]
    with Image.open(out / "0.png") as mask:
        assert mask.size == (10, 8)
    for more, told in (([], "name it with --out"), (["--out", str(out)], "needs a new or empty folder")):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert told in " ".join(done.stderr.split())


def test_a_model_of_timm_gets_a_decoder(folder: Path, tmp_path: Path) -> None:
    chosen = config(
        folder,
        "maxl",
        trunk="test_efficientnet",
        image_size=32,
        epochs=12,
        learning_rate=0.01,
        augment="none",
    )
    before = build("test_efficientnet", (3, 32, 32), dense=True)
    assert before.feature_dim == before(torch.zeros(2, 3, 32, 32)).shape[1] == 64
    summary = train(chosen, tmp_path / "run")
    assert summary["test_pixel_accuracy"] > 0.8
    trunk = load_model(tmp_path / "run").trunk
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(trunk(images.flip(0)).flip(0), trunk(images))  # in eval mode, each by itself


def test_weights_of_a_file_are_those_of_the_encoder(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = timm.create_model("test_vit", num_classes=0, img_size=(32, 32))
    save_file(encoder.state_dict(), tmp_path / "vit.safetensors")
    chosen = config(
        folder, "single", trunk="test_vit", image_size=32, weights=str(tmp_path / "vit.safetensors")
    )
    rates = {"layer_decay": 0.5, "trunk_learning_rate": 1e-3}
    train(dataclasses.replace(chosen, learning_rate=1e-9, **rates, epochs=1), tmp_path / "run")
    trained = load_model(tmp_path / "run").trunk.state_dict()
    name = "blocks.0.attn.qkv.weight"
    torch.testing.assert_close(trained[f"model.{name}"], encoder.state_dict()[name], atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="gives no features for each pixel"):
        build("test_vit", (3, 30, 30), dense=True)
    with pytest.raises(ValueError, match="each pixel: use unet, a model of timm, or module:function"):
        build("torchvision:resnet18", (3, 32, 32), dense=True)
