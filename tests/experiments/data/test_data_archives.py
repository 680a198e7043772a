"""Data sets by name, in the layouts in which they are published."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _data_helpers import (
    COARSE_NAMES,
    FINE_NAMES,
    pixels,
    row_set,
    rows_of_bytes,
    write_cifar100_parquet,
    write_idx,
    write_image,
    write_parquet,
    write_pickle,
)
from maxl.experiments.data import load


@pytest.fixture(scope="module")
def cifar100_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "cifar100"
    write_cifar100_parquet(folder)
    return folder


def test_digits_need_no_files() -> None:
    data = load("digits")
    assert (len(data.train), len(data.test), data.input_shape) == (1000, 797, (1, 8, 8))
    assert data.num_primary == 10
    assert data.train.x.dtype == torch.uint8
    assert data.train.x.min() == 0
    assert data.train.x.max() == 255
    assert data.train.primary.bincount().min() >= 95  # stratified
    assert not row_set(data.train) & row_set(data.test)
    assert (data.mean, data.std, data.augment) == ((0.5,), (0.2,), False)
    assert (data.human_names, data.num_human, data.validation) == (None, None, None)


def test_cifar100_from_the_hubs_parquet_files(tmp_path: Path) -> None:
    images, fine = write_cifar100_parquet(tmp_path)
    data = load("cifar100", data_dir=tmp_path)
    assert np.array_equal(data.train.x.numpy(), images.transpose(0, 3, 1, 2))
    assert data.train.human is not None
    assert data.train.human.tolist() == fine.tolist()
    assert data.train.primary.tolist() == (fine // 5).tolist()
    assert (data.primary_names, data.human_names) == (COARSE_NAMES, FINE_NAMES)
    assert (data.augment, data.flip, data.mean) == (True, True, (0.5, 0.5, 0.5))


def test_data_dir_may_hold_a_folder_of_the_data_sets_name(cifar100_folder: Path) -> None:
    inside, above = (load("cifar100", data_dir=d) for d in (cifar100_folder, cifar100_folder.parent))
    assert torch.equal(inside.train.x, above.train.x)


@pytest.mark.parametrize(
    ("primary", "human", "classes"),
    [
        ("level_3", "level_10", (3, 10)),
        ("level_3", "coarse_label", (3, 20)),
        ("level_3", None, (3, 100)),
        ("level_10", "coarse_label", (10, 20)),
        ("level_10", "fine_label", (10, 100)),
        (None, None, (20, 100)),
        ("fine_label", None, (100, None)),
    ],
)
def test_cifar100_has_four_levels(
    cifar100_folder: Path, primary: str | None, human: str | None, classes: tuple[int, int | None]
) -> None:
    data = load("cifar100", data_dir=cifar100_folder, primary=primary, human=human)
    assert (data.num_primary, data.num_human) == classes
    assert data.train.primary.unique().numel() == classes[0]


def test_cifar100_levels_follow_the_paper(cifar100_folder: Path) -> None:
    data = load("cifar100", data_dir=cifar100_folder, primary="level_3", human="level_10")
    fine = load("cifar100", data_dir=cifar100_folder, primary="fine_label").train.primary
    assert data.train.human is not None
    by_coarse = {
        int(c): (int(t), int(h))
        for c, t, h in zip(fine // 5, data.train.primary, data.train.human, strict=True)
    }
    # Trees (17) with flowers (2) and fruit (4); people (14) alone among the animals; two kinds of vehicles.
    assert by_coarse[17] == by_coarse[2] == by_coarse[4] == (1, 5)
    assert by_coarse[14] == (0, 4)
    assert by_coarse[18] == by_coarse[19] == (2, 9)
    assert [list(by_coarse.values()).count(pair) for pair in ((0, 0), (2, 6))] == [3, 3]


def test_cifar100_as_published_equals_the_hubs_copy(tmp_path: Path) -> None:
    images, fine = write_cifar100_parquet(tmp_path / "hub")
    root = tmp_path / "published" / "cifar-100-python"
    write_pickle(
        root / "meta", {"fine_label_names": list(FINE_NAMES), "coarse_label_names": list(COARSE_NAMES)}
    )
    for name, (x, y) in {"train": (images, fine), "test": (pixels(100, seed=2), np.arange(100))}.items():
        content = {"data": rows_of_bytes(x), "fine_labels": y.tolist(), "coarse_labels": (y // 5).tolist()}
        write_pickle(root / name, content)
    hub, published = (load("cifar100", data_dir=tmp_path / name) for name in ("hub", "published"))
    for one, other in ((hub.train, published.train), (hub.test, published.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.primary, other.primary)
        assert torch.equal(one.human, other.human)
    assert hub.primary_names == published.primary_names


def test_cifar10_as_published(tmp_path: Path) -> None:
    root = tmp_path / "cifar-10-batches-py"
    images = pixels(60)
    names = [f"class{i}" for i in range(10)]
    write_pickle(root / "batches.meta", {"label_names": names})
    for i in range(6):
        rows = slice(10 * i, 10 * i + 10)
        file = root / ("test_batch" if i == 5 else f"data_batch_{i + 1}")
        write_pickle(file, {"data": rows_of_bytes(images[rows]), "labels": list(range(10))})
    data = load("cifar10", data_dir=tmp_path)
    assert np.array_equal(data.train.x.numpy(), images[:50].transpose(0, 3, 1, 2))
    assert np.array_equal(data.test.x.numpy(), images[50:].transpose(0, 3, 1, 2))
    assert data.train.primary.tolist() == list(range(10)) * 5
    assert data.primary_names == tuple(names)
    (root / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3"):
        load("cifar10", data_dir=tmp_path)


class Attack:
    """Pickles to a call, as an attacker's file would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cifar-100-python"
    write_pickle(root / "meta", Attack())
    with pytest.raises(ValueError, match=r"arrays only; this one asks for \w+\.mkdir"):
        load("cifar100", data_dir=tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_broken_pickle_is_named(tmp_path: Path) -> None:
    root = tmp_path / "cifar-100-python"
    write_pickle(root / "meta", {"fine_label_names": ["a"], "coarse_label_names": ["b"]})
    whole = pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, protocol=2)
    (root / "train").write_bytes(whole[: len(whole) // 2])
    (root / "test").write_bytes(whole)
    with pytest.raises(ValueError, match=r"train' cannot be read as a pickled batch"):
        load("cifar100", data_dir=tmp_path)


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_as_published(tmp_path: Path, compress: bool) -> None:
    images, labels = pixels(30, 28, 28, 1)[..., 0], np.arange(30) % 10
    for prefix, rows in (("train", slice(20)), ("t10k", slice(20, 30))):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images[rows])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", labels[rows])
    if compress:
        for file in list(tmp_path.iterdir()):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    data = load("mnist", data_dir=tmp_path)
    assert np.array_equal(data.train.x[:, 0].numpy(), images[:20])
    assert data.test.primary.tolist() == list(range(10))
    assert (data.input_shape, data.augment) == ((1, 28, 28), False)


def test_mnist_from_parquet_and_a_broken_idx_file(tmp_path: Path) -> None:
    images = pixels(20, 28, 28, 1)
    for part in ("train", "test"):
        write_parquet(tmp_path / "mnist" / f"{part}.parquet", "image", images, {"label": [*range(10)] * 2})
    data = load("mnist", data_dir=tmp_path)
    assert np.array_equal(data.train.x[:, 0].numpy(), images[..., 0])
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03\x00\x00\x00\x05")
    with pytest.raises(ValueError, match="no complete idx file"):
        load("mnist", data_dir=tmp_path / "idx")


def test_svhn_as_published_is_cropped_but_never_mirrored(tmp_path: Path) -> None:
    from scipy.io import savemat

    images, labels = pixels(20), np.arange(20) % 10 + 1  # ten stands for the digit zero
    for part in ("train", "test"):
        content = {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None].astype(np.uint8)}
        savemat(tmp_path / f"{part}_32x32.mat", content)
    data = load("svhn", data_dir=tmp_path)
    assert np.array_equal(data.train.x.numpy(), images.transpose(0, 3, 1, 2))
    assert data.train.primary.tolist() == (labels % 10).tolist()
    assert (data.augment, data.flip) == (True, False)


@pytest.mark.parametrize("layout", ["npz", "pickle"])
def test_imagenet32_as_published(tmp_path: Path, layout: str) -> None:
    images = pixels(30)
    for i, file in enumerate(("train_data_batch_1", "train_data_batch_2", "val_data")):
        labels = list(range(1, 11))  # counted from one
        content = {"data": rows_of_bytes(images[10 * i : 10 * i + 10]), "labels": labels}
        if layout == "npz":
            np.savez(tmp_path / f"{file}.npz", **content)
        else:
            write_pickle(tmp_path / file, content)
    data = load("imagenet32", data_dir=tmp_path)
    assert np.array_equal(data.train.x.numpy(), images[:20].transpose(0, 3, 1, 2))
    assert data.test.primary.tolist() == list(range(10))
    assert data.primary_names == tuple(map(str, range(1, 11)))


def test_cinic10_gives_validation_from_its_published_part(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "valid", "test")):
        for i, image in enumerate(pixels(6, seed=seed)):
            write_image(tmp_path / part / ("cat", "dog")[i % 2] / f"{i}.png", image)
    data = load("cinic10", data_dir=tmp_path, validation_size=4)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 4, 6)
    assert data.validation.primary.bincount().tolist() == [2, 2]
    assert data.primary_names == ("cat", "dog")
    assert load("cinic10", data_dir=tmp_path).validation is None


@pytest.mark.parametrize("by_class", [False, True])
def test_ucf101_takes_the_middle_frame_and_keeps_videos_apart(tmp_path: Path, by_class: bool) -> None:
    for label in ("Archery", "YoYo"):
        for group in (1, 7, 8, 25):
            folder = (
                tmp_path / label / f"v_{label}_g{group:02d}_c01"
                if by_class
                else tmp_path / f"v_{label}_g{group:02d}_c01"
            )
            for frame in range(5):
                write_image(folder / f"frame{frame:06d}.png", np.full((24, 32, 3), 10 * frame, np.uint8))
    data = load("ucf101", data_dir=tmp_path)
    assert data.primary_names == ("Archery", "YoYo")
    assert (len(data.train), len(data.test), data.input_shape) == (4, 4, (3, 112, 112))
    assert data.train.x.unique().tolist() == [20]


def test_clinc150_fits_its_features_on_the_training_samples_kept(tmp_path: Path) -> None:
    domains = {"bank": ["balance", "transfer"], "travel": ["visa", "flight"]}
    intents = [intent for members in domains.values() for intent in members]
    sentences = [[f"{intent} question number{i}", intent] for i in range(6) for intent in intents]
    parts = {
        "train": sentences,
        "val": sentences[:8],
        "test": [["visa unheard words", "visa"], ["balance", "balance"]],
    }
    (tmp_path / "data_full.json").write_text(json.dumps(parts | {"oos_train": [["what", "oos"]]}))
    (tmp_path / "domains.json").write_text(json.dumps(domains))
    data = load("clinc150", data_dir=tmp_path, train_size=8, validation_size=4)
    assert (data.primary_names, data.human_names) == (
        ("bank", "travel"),
        ("balance", "flight", "transfer", "visa"),
    )
    assert data.train.human is not None
    assert data.train.human.bincount().tolist() == [2, 2, 2, 2]
    assert data.train.x.ndim == 2
    assert data.train.x.mean(0).abs().max() < 1e-5
    assert not data.augment
    parts["test"] = [["visa", "visa"], ["other", "balance"]]
    (tmp_path / "data_full.json").write_text(json.dumps(parts))
    again = load("clinc150", data_dir=tmp_path, train_size=8, validation_size=4)
    assert torch.equal(again.train.x, data.train.x)  # the test part changed, the training features did not
