"""Folders of images, tables, and data sets of the hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from _data_helpers import (
    pixels,
    png,
    row_set,
    write_csv,
    write_folder,
    write_image,
    write_parquet,
)
from maxl.experiments.data import load


def test_a_folder_of_classes_gives_a_fixed_stratified_test_part(tmp_path: Path) -> None:
    write_folder(tmp_path, ("cat", "dog", "train"), count=10)  # a class may well be called train
    data, other = (load(str(tmp_path), seed=seed) for seed in (0, 1))
    assert data.primary_names == ("cat", "dog", "train")
    assert data.train.primary.bincount().tolist() == [8, 8, 8]
    assert data.test.primary.bincount().tolist() == [2, 2, 2]
    assert not row_set(data.train) & row_set(data.test)
    assert torch.equal(data.test.x, other.test.x)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_folder_with_train_and_test_is_read_as_it_is(tmp_path: Path, test_name: str) -> None:
    write_folder(tmp_path / "train", ("cat", "dog"), count=3)
    write_folder(tmp_path / test_name, ("cat", "dog"), count=2)
    data = load(str(tmp_path))
    assert (len(data.train), len(data.test)) == (6, 4)


def test_nested_folders_are_primary_and_human_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, ("cat/siamese", "cat/manx", "dog/pug"))
    data = load(str(tmp_path))
    assert (data.primary_names, data.human_names) == (("cat", "dog"), ("cat/manx", "cat/siamese", "dog/pug"))
    write_folder(tmp_path, ("dog/manx",))
    assert load(str(tmp_path)).human_names == ("cat/manx", "cat/siamese", "dog/manx", "dog/pug")


def test_a_folder_half_nested_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, ("cat/siamese", "dog"))
    with pytest.raises(ValueError, match="either every class has finer subfolders or none has"):
        load(str(tmp_path))


def test_images_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    write_folder(tmp_path, ("cat",), size=(6, 6))
    write_folder(tmp_path, ("dog",), size=(8, 12))
    with pytest.raises(ValueError, match=r"one size.*8x12.*--image-size"):
        load(str(tmp_path))
    assert load(str(tmp_path), image_size=4).input_shape == (3, 4, 4)


def test_grey_and_coloured_images_mix(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ("cat", "dog"))
    grey = pixels(1, 6, 6, 1)[0]
    write_image(tmp_path / "train" / "cat" / "0.png", grey)  # the first one decoded
    write_image(tmp_path / "test" / "cat" / "0.png", grey)
    data = load(str(tmp_path))
    assert data.train.x.shape[1] == data.test.x.shape[1] == 3
    assert np.array_equal(data.train.x[0].numpy(), np.repeat(grey.transpose(2, 0, 1), 3, axis=0))
    assert torch.equal(data.train.x[0], data.test.x[0])


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ("cat", "dog"))
    (tmp_path / "dog" / "3.png").write_bytes(png(pixels(1)[0])[:50])
    with pytest.raises(ValueError, match=r"dog/3.png' cannot be decoded"):
        load(str(tmp_path))


def test_a_csv_is_standardised_by_its_training_part(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", constant=[5] * 20)
    data = load(str(file), primary="label")
    assert data.primary_names == ("no", "yes")
    assert data.train.x.shape == (16, 3)
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))
    assert (data.test.x[:, :2].mean(0).abs() > 1e-3).all()
    assert (data.mean, data.std, data.augment) == ((0.0,), (1.0,), False)


def test_label_columns_are_no_features(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", fine=[0, 1, 2, 3] * 5)
    data = load(str(file), primary="label", human="fine")
    assert data.train.x.shape[1] == 2
    assert data.num_human == 4
    assert load(str(file), primary="label").train.x.shape[1] == 3  # not named, so a feature


def test_bare_integers_are_numbered_in_order(tmp_path: Path) -> None:
    data = load(str(write_csv(tmp_path / "t.csv", label=[7, 2] * 10)))
    assert data.primary_names == ("2", "7")
    assert set(data.train.primary.tolist()) == {0, 1}


def test_tables_of_images_by_path_and_of_text(tmp_path: Path) -> None:
    images = pixels(10, 6, 6)
    for i, image in enumerate(images):
        write_image(tmp_path / "images" / f"{i}.png", image)
    lines = [f"images/{i}.png,{'ab'[i % 2]}" for i in range(10)]
    (tmp_path / "i.csv").write_text("\n".join(["file,label", *lines]))
    assert row_set(load(str(tmp_path / "i.csv")).train) < {x.tobytes() for x in images.transpose(0, 3, 1, 2)}
    lines = [f"{'red cold' if i % 2 else 'blue warm'} thing{i},{'ab'[i % 2]}" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["sentence,label", *lines]))
    assert load("t.csv", data_dir=tmp_path).train.x.dtype == torch.float32


def test_a_folder_of_tables(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv")
    write_csv(tmp_path / "test.csv", rows=6)
    data = load(str(tmp_path))
    assert (len(data.train), len(data.test)) == (20, 6)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": [1.0] * 7 + ["inf"] + [1.0] * 12}, {}, r"finite; column 'a', row 7 holds inf \(1 such rows\)"),
        ({"b": [1.0] * 3 + ["inf"] * 2 + [1.0] * 15}, {}, r"column 'b', row 3 holds inf \(2 such rows\)"),
        ({"a": [*range(19), "x"]}, {}, "'a' of '.*t.csv' holds 'x' in row 19"),
        ({"label": [1, 0, 1, -1] * 5}, {}, "row 3 is negative"),
        ({"label": [1, 0, 1, ""] * 5}, {}, "row 3 is missing"),
        ({"label": [1, 0, 1, 0.5] + [1, 0] * 8}, {}, "row 3 is not a whole number"),
        ({"label": ["x", "y", "", "y"] * 5}, {}, "row 2 is empty"),
        (
            {},
            {"primary": "lable"},
            r"no column 'lable'; did you mean 'label'\?; this data set has: a, b, label",
        ),
        ({}, {"human": "lab"}, "human labels: no column 'lab'"),
        ({"fine": [0, 1, 1, 0] * 5}, {"human": "fine"}, "got '0' under both 'no' and 'yes'"),
        ({"label": ["rare"] + ["common"] * 19}, {}, "class 'rare' has 1"),
    ],
)
def test_tables_that_cannot_be_used_say_where(
    tmp_path: Path, columns: dict[str, list[Any]], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(str(write_csv(tmp_path / "t.csv", **columns)), **options)


def test_a_parquet_label_beyond_its_names_is_refused(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "t.parquet", "image", pixels(4, 6, 6), {"label": [0, 1, 2, 1]}, {"label": ["a", "b"]}
    )
    with pytest.raises(ValueError, match="row 2 is beyond the 2 classes"):
        load(str(tmp_path / "t.parquet"))


def test_no_default_primary_column(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv")
    file.write_text(file.read_text().replace("label", "outcome"))
    with pytest.raises(ValueError, match=r"--primary\); columns: a, b, outcome"):
        load(str(file))


class Hub:
    """Stands in for `datasets.load_dataset`."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, *args: Any) -> Any:
        self.asked.append(args)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_data_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "note": datasets.Value("string"),
        }
    )
    images = pixels(12, 6, 6)
    rows = {
        "img": [{"bytes": png(image), "path": None} for image in images],
        "label": [0, 1] * 6,
        "note": ["x"] * 12,
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    hub = Hub(datasets.DatasetDict({"train": whole, "test": whole}))
    monkeypatch.setattr(datasets, "load_dataset", hub)
    data = load("hf:someone/things:small", train_size=4)
    assert hub.asked == [("someone/things", "small")]
    assert data.primary_names == ("a", "b")
    assert np.array_equal(data.test.x.numpy(), images.transpose(0, 3, 1, 2))
    load("svhn")
    load("mnist")
    assert hub.asked[1:] == [("ufldl-stanford/svhn", "cropped_digits"), ("ylecun/mnist", None)]
    hub.answer = datasets.DatasetDict({"train": whole})
    assert len(load("hf:someone/things").test) == 2
    hub.answer = datasets.DatasetDict({"test": whole})
    with pytest.raises(ValueError, match="no train split; it has: test"):
        load("hf:someone/things")


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", Hub(ConnectionError("Couldn't reach it\nat all")))
    with pytest.raises(ConnectionError, match=r"cannot fetch 'uoft-cs/cifar10'.*--data-dir") as caught:
        load("cifar10")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by Linux alone")
def test_reading_leaves_no_threads_at_work(tmp_path: Path) -> None:
    frame = pd.DataFrame({f"column{i}": np.arange(500) / 7 for i in range(20)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    program = (
        "import os, sys; from pathlib import Path; import pyarrow.csv, pyarrow.parquet\n"
        "from maxl.experiments.data._tables import read_table\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "for name in ('t.parquet', 't.csv'):\n"
        "    before = count(); read_table(Path(sys.argv[1]) / name); print(count() - before)"
    )
    found = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    left = [int(line) for line in found.stdout.split()]
    assert len(left) == 2, found.stderr
    assert max(left) <= 1, left  # several, which readers leave at work, abort a process that ends early
