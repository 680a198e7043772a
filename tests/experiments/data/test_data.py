"""Choosing samples: subsets, validation parts, and what goes wrong; the real data where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from _data_helpers import (
    row_set,
    write_cifar100_parquet,
    write_csv,
    write_folder,
)
from maxl.experiments.data import DataSet, load


@pytest.fixture(scope="module")
def cifar100_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "cifar100"
    write_cifar100_parquet(folder)
    return folder


def test_train_size_is_balanced_over_both_levels(cifar100_folder: Path) -> None:
    data = load("cifar100", data_dir=cifar100_folder, train_size=130)
    assert data.train.human is not None
    assert len(data.train) == 130
    assert sorted(set(data.train.primary.bincount(minlength=20).tolist())) == [6, 7]
    assert sorted(set(data.train.human.bincount(minlength=100).tolist())) == [1, 2]


def test_train_size_takes_all_of_a_small_class(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", rows=20, label=["small"] * 3 + ["large"] * 17)
    write_csv(tmp_path / "test.csv", rows=2, label=["small", "large"])
    data = load(str(tmp_path), train_size=10)
    assert data.train.primary.bincount().tolist() == [7, 3]


def test_a_larger_subset_contains_the_smaller_of_the_same_seed(cifar100_folder: Path) -> None:
    def subset(size: int | float, seed: int) -> set[bytes]:
        return row_set(load("cifar100", data_dir=cifar100_folder, train_size=size, seed=seed).train)

    assert len(subset(50, 0)) == 50
    assert subset(50, 0) < subset(0.5, 0)
    assert subset(50, 0) != subset(50, 1)
    assert subset(50, 1) == subset(50, 1)


def test_validation_is_balanced_set_aside_first_and_never_trained_on(cifar100_folder: Path) -> None:
    def parts(train_size: float | None) -> DataSet:
        return load("cifar100", data_dir=cifar100_folder, validation_size=100, train_size=train_size, seed=5)

    whole, small = parts(None), parts(0.25)
    assert whole.validation is not None
    assert small.validation is not None
    assert torch.equal(whole.validation.x, small.validation.x)
    assert whole.validation.primary.bincount().tolist() == [5] * 20
    assert (len(whole.train), len(small.train)) == (200, 50)
    assert not row_set(whole.train) & row_set(whole.validation)
    assert row_set(small.train) < row_set(whole.train)


def test_the_test_part_is_the_same_for_every_seed_and_size(cifar100_folder: Path) -> None:
    one = load("cifar100", data_dir=cifar100_folder, seed=1, train_size=20)
    other = load("cifar100", data_dir=cifar100_folder, seed=2, validation_size=0.2)
    assert torch.equal(one.test.x, other.test.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 301}, "between 0 and the 300 samples there are; got 301"),
        ({"train_size": 19}, "at least one sample of each of the 20 primary classes; got 19"),
        ({"train_size": 0.01}, "got 0.01, which is 3 samples"),
        ({"train_size": 1.5}, r"fraction must lie in \[0, 1\]; got 1.5"),
        ({"train_size": float("nan")}, "got nan"),
        ({"validation_size": -1}, "validation_size must lie between 0"),
        ({"validation_size": 300}, "class 'coarse00' has none"),
        ({"validation_size": 200, "train_size": 101}, "the 100 samples there are; got 101"),
        ({"image_size": 0}, "at least 1 pixel; got 0"),
        ({"primary": "fine"}, r"no column 'fine'; did you mean 'fine_label'\?"),
        ({"primary": "coarse_label", "human": "level_10"}, "human labels must refine the primary ones"),
    ],
)
def test_impossible_requests_say_why(cifar100_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("cifar100", data_dir=cifar100_folder, **options)


def test_a_class_without_training_samples_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ("cat", "dog"))
    write_folder(tmp_path / "test", ("cat", "dog", "emu"))
    with pytest.raises(ValueError, match="class 'emu' has none"):
        load(str(tmp_path))


def test_only_rows_that_are_kept_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar100_parquet(tmp_path)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *args: opened.append(1) or original(*args))
    load("cifar100", data_dir=tmp_path, train_size=20)
    assert len(opened) == 20 + 100


def test_digits_are_the_finer_classes_of_their_halves() -> None:
    data = load("digits", primary="half", human="label", train_size=40)
    assert data.primary_names == ("0 to 4", "5 to 9")
    assert data.train.human is not None
    assert torch.equal(data.train.primary, data.train.human // 5)
    assert (
        load("digits", train_size=40).num_primary == 10
    )  # what is learned unless one asks for another column


def test_image_size_scales_decoded_arrays_too() -> None:
    data = load("digits", train_size=10, image_size=32)
    assert data.input_shape == (1, 32, 32)
    assert data.train.x.dtype == torch.uint8


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("cifar-100", {}, ValueError, r"unknown data set 'cifar-100'; did you mean 'cifar100'\?"),
        ("MNIST", {}, ValueError, "did you mean 'mnist'"),
        ("no/such/folder", {}, FileNotFoundError, "no file or folder 'no/such/folder'"),
        ("missing.csv", {}, FileNotFoundError, "missing.csv"),
        ("cifar100", {"data_dir": "nowhere"}, FileNotFoundError, "data_dir 'nowhere' is no folder"),
        ("clinc150", {}, FileNotFoundError, "--data-dir.*data_full.json"),
        ("ucf101", {}, FileNotFoundError, "--data-dir"),
    ],
)
def test_what_is_not_there_is_named(name: str, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_is_nearly_right_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-images").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'my-image'; did you mean 'my-images'"):
        load("my-image")


@pytest.mark.parametrize(
    "name", ["mnist", "cifar10", "cifar100", "svhn", "cinic10", "imagenet32", "ucf101", "clinc150"]
)
def test_an_empty_data_dir_says_what_was_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"holds no {name}: expected "):
        load(name, data_dir=tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"must be .csv or .parquet"):
        load(str(tmp_path / "notes.txt"))
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a parquet file"):
        load(str(tmp_path / "t.parquet"))


REAL = os.environ.get("MAXL_TEST_DATA")


@pytest.mark.skipif(not REAL, reason="set MAXL_TEST_DATA to a folder with cifar100/, mnist/ and clinc150/")
@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [
        ("cifar100", (1000, 10000), (20, 100)),
        ("mnist", (1000, 10000), (10, None)),
        ("clinc150", (1000, 4500), (10, 150)),
    ],
)
def test_real_data(name: str, sizes: tuple[int, int], classes: tuple[int, int | None]) -> None:
    data = load(name, data_dir=REAL, train_size=1000)
    assert (len(data.train), len(data.test)) == sizes
    assert (data.num_primary, data.num_human) == classes
    assert data.train.primary.bincount().tolist() == [1000 // classes[0]] * classes[0]
