"""Samples that are an image beside columns of a table: what belongs to one row stays one sample."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from _data_helpers import png
from _mixed_helpers import TYPES, table, write
from maxl.experiments.data import (
    BatchStream,
    DataSet,
    ImageTransform,
    MixedShape,
    Split,
    evaluation_batches,
    load,
    load_frames,
)


def parts(data: DataSet) -> list[Split]:
    return [part for part in (data.train, data.validation, data.test) if part is not None]


def rows_of(x: Any) -> torch.Tensor:
    """The rows that images were made of."""
    return x[:, 0, 0, 0].double() / 2


def columns_of(split: Split) -> torch.Tensor:
    assert split.columns is not None
    return split.columns


def test_images_and_columns_of_a_row_stay_together_and_statistics_are_those_of_training(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, table())
    data = load(file, primary="kind", types=TYPES, validation_size=12, train_size=20, seed=3)
    assert [len(part) for part in parts(data)] == [20, 12, 12]
    assert len(torch.cat([rows_of(part.x) for part in parts(data)]).unique()) == 44
    trained = rows_of(data.train.x)
    for part in parts(data):
        rows = rows_of(part.x)
        age = (rows - trained.mean()) / trained.std(unbiased=False)
        torch.testing.assert_close(columns_of(part)[:, 0].double(), age, rtol=0, atol=1e-6)
        # of blue, green and red, in the order of the alphabet
        assert torch.equal(
            columns_of(part)[:, 1:], torch.nn.functional.one_hot(2 - rows.long() % 3, 3).float()
        )
        assert torch.equal(part.primary, rows.long() // 2 % 2)
        assert part.rows is not None
        assert torch.equal(part.rows, rows.long())
    some = data.train.select(torch.tensor([7, 2]))
    assert torch.equal(columns_of(some), columns_of(data.train)[[7, 2]])
    assert torch.equal(rows_of(some.x), trained[[7, 2]])


def test_only_columns_that_are_named_are_learned_from_and_a_line_says_which(tmp_path: Path) -> None:
    frame = table(age=[None if i in (4, 9) else i for i in range(60)])
    file = write(tmp_path, frame)
    alone = load(file, primary="kind")
    assert alone.train.columns is None
    assert alone.input_shape == (1, 4, 4)
    assert (
        "the images of column 'image' are the inputs; not used: age, colour, leak (--types COLUMN=KIND takes them in)"
        in alone.saw.splitlines()
    )
    data = load(file, primary="kind", types=TYPES)
    assert data.input_shape == (5 + 16,)
    assert data.image_shape == (1, 4, 4)
    assert data.columns is not None
    assert data.columns.kinds == TYPES
    assert (
        "the images of column 'image' and 2 columns are inputs; number: age (2 missing); category: colour; not used: leak "
        "(--types COLUMN=KIND takes them in)"
    ) in data.saw.splitlines()
    changed = write(tmp_path, frame.assign(leak=["x"] * 60), name="other.csv")
    assert torch.equal(columns_of(load(changed, primary="kind", types=TYPES).train), columns_of(data.train))
    every = load(file, primary="kind", types={**TYPES, "leak": "category"})
    assert "not used" not in every.saw
    assert torch.equal(alone.train.x, data.train.x)


def test_all_kinds_of_columns_stand_beside_images_in_bytes_and_in_frames(tmp_path: Path) -> None:
    frame = table(
        joined=[f"2024-0{1 + i % 9}-1{i % 10}" for i in range(60)],
        note=[f"a short note on {'rain' if i % 2 else 'snow'} {i}" for i in range(60)],
    )
    types = {**TYPES, "joined": "date", "note": "text"}
    data = load(write(tmp_path, frame), primary="kind", types=types)
    names = [
        n.split("__")[0] for n in data.columns.transformer.get_feature_names_out() if data.columns is not None
    ]
    assert {*names} == {"number", "category", "text note"}
    assert columns_of(data.train).isfinite().all()
    images = [png(np.full((4, 4, 1), 2 * i, np.uint8)) for i in range(60)]
    encoded = load_frames(
        frame.assign(image=images, joined=pd.to_datetime(frame["joined"])), primary="kind", types=types
    )
    assert torch.equal(encoded.train.x, data.train.x)
    assert torch.equal(columns_of(encoded.test), columns_of(data.test))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": {"image": "text"}}, "columns beside the images hold; 'image' of '.*t.csv' holds images: leave"),
        ({"types": {"second": "text"}}, "'second' of '.*' holds images: leave it out"),
        ({"types": {"kind": "category"}}, "takes columns in as inputs; 'kind' of '.*' holds labels, or is left out"),
        ({"types": {"leak": "category"}, "human": "leak"}, "'leak' of '.*' holds labels"),
        ({"types": {"age": "number"}, "drop": ["age"]}, "'age' of '.*' holds labels, or is left out"),
        ({"types": {"ages": "number"}}, "got 'ages'; did you mean 'age'"),
        ({"types": {"age": "integer"}}, "needs one of number, category, date, text for each column; got age=integer"),
        ({"types": {"colour": "number"}}, "column 'colour' of '.*' needs to hold numbers; row \\d+ holds '\\w+'"),
        ({"types": TYPES, "stream": True}, "--stream takes images alone, and --types takes columns"),
        ({"drop": ["age"]}, "--drop and --types are for columns of a table"),
    ],
)  # fmt: skip
def test_what_cannot_stand_beside_images_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    frame = table()
    file = write(tmp_path, frame.assign(second=frame["image"]))
    with pytest.raises(ValueError, match=message):
        load(file, primary="kind", **options)


def test_images_that_are_left_out_leave_a_table_of_columns(tmp_path: Path) -> None:
    data = load(write(tmp_path, table()), primary="kind", types=TYPES, drop=["image", "leak"])
    assert data.image_shape is None
    assert data.input_shape == (4,)


def test_images_in_parquet_files_are_not_streamed_beside_columns(tmp_path: Path) -> None:
    images = [png(np.full((4, 4, 1), i, np.uint8)) for i in range(60)]
    table(image=images).to_parquet(tmp_path / "t.parquet")
    file = str(tmp_path / "t.parquet")
    assert load(file, primary="kind", types=TYPES).image_shape == (1, 4, 4)
    with pytest.raises(ValueError, match="--stream takes images alone"):
        load(file, primary="kind", types=TYPES, stream=True)


def test_batches_are_columns_then_pixels_and_only_pixels_are_changed_at_random(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = write(tmp_path, table(), lambda i: rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    alone, data = load(file, primary="kind"), load(file, primary="kind", types=TYPES)
    assert data.augment  # as of colour photographs without columns
    invert = ImageTransform(("invert",), (lambda image: 255 - image,))

    def batches(one: DataSet) -> list[Any]:
        stream = BatchStream(
            one.train, 16, mean=one.mean, std=one.std, augment=True, seed=5, transform=invert
        )
        return [*stream.epoch(1)]

    for without, both in zip(batches(alone), batches(data), strict=True):
        assert torch.equal(without.index, both.index)
        assert torch.equal(both.x[:, :4], columns_of(data.train)[both.index])
        assert torch.equal(both.x[:, 4:].view(-1, 3, 4, 4), without.x)
    (plain,) = evaluation_batches(data.test, 60, data.mean, data.std)
    assert torch.equal(plain.x[:, :4], columns_of(data.test))
    pixels = (data.test.x.double() / 255 - 0.5) / 0.2
    torch.testing.assert_close(plain.x[:, 4:].double(), pixels.flatten(1), rtol=0, atol=1e-5)


def test_features_are_made_as_before_of_the_same_columns_alone(tmp_path: Path) -> None:
    file = write(tmp_path, table())
    first = load(file, primary="kind", types=TYPES)
    other = write(tmp_path, table(age=[3.0 * i + 5 for i in range(60)]), name="other.csv")
    again = load(other, primary="kind", like=first.columns)  # which names the columns
    assert first.columns is not None
    assert again.columns is first.columns
    mean, std = rows_of(first.train.x).mean(), rows_of(first.train.x).std(unbiased=False)
    expected = (3 * rows_of(again.test.x) + 5 - mean) / std
    torch.testing.assert_close(columns_of(again.test)[:, 0].double(), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"same columns in the same order; '.*' differs in 'leak'"):
        load(file, primary="kind", types={"leak": "category"}, like=first.columns)


def test_a_split_refuses_columns_of_other_samples(tmp_path: Path) -> None:
    x, primary = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    for columns in (torch.zeros(2, 5), torch.zeros(3), torch.zeros(3, 5, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"Split.columns must be float32 of shape \(3, D\)"):
            Split(x, primary, columns=columns)
    with pytest.raises(ValueError, match="beside images"):
        Split(torch.zeros(3, 2), primary, columns=torch.zeros(3, 5))


def test_a_shape_of_both_keeps_what_it_knows() -> None:
    shape = MixedShape(5, (3, 4, 2))
    assert shape == (29,)
    for same in (copy.deepcopy(shape), pickle.loads(pickle.dumps(shape))):
        assert isinstance(same, MixedShape)
        assert (same, same.columns, same.image) == ((29,), 5, (3, 4, 2))
