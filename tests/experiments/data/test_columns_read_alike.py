"""Columns of CSV files mean the same in every part, whatever each file alone looks like, and codes stay apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from maxl.experiments.data import DataSet, load, load_frames


def write(file: Path, codes: list[str], rows: int = 24, **more: list[str]) -> str:
    """A CSV file with a column of codes in turns, numbers, and two classes or what ``more`` says."""
    columns = {
        "code": codes,
        "x": [f"{i % 5}.5" for i in range(rows)],
        "label": ["no", "yes", "yes", "no"],
        **more,
    }
    lines = [",".join(values[i % len(values)] for values in columns.values()) for i in range(rows)]
    file.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return str(file)


def of_code(data: DataSet, part: str) -> torch.Tensor:
    """The features of the column of codes, in one part."""
    assert data.columns is not None
    names = data.columns.transformer.get_feature_names_out()
    x = getattr(data, part).x
    assert isinstance(x, torch.Tensor)
    return x[:, [i for i, name in enumerate(names) if "code" in name]]


IN_WORDS = {
    "codes": ["007", "012", "X9", "Y9"],
    "yes and no": ["true", "false", "unknown"],
    "missing as it looks": ["NA", "NA", "ZA"],
    "times": ["10:00", "11:30", "noon"],
    "dates": ["2024-01-01T10:00", "2024-01-02T10:00", "never"],
    "numbers": ["1.10", "1.1", "one", "two"],
}


@pytest.mark.parametrize("types", [{}, {"code": "category"}], ids=["as it looks", "as it is said"])
@pytest.mark.parametrize("codes", IN_WORDS.values(), ids=IN_WORDS)
def test_a_category_has_the_same_features_in_every_part(
    tmp_path: Path, codes: list[str], types: dict[str, str]
) -> None:
    write(tmp_path / "train.csv", codes)
    for part in ("test", "validation"):  # what looks like a number, or a date, or nothing, stands there alone
        write(tmp_path / f"{part}.csv", codes[:2], rows=4)
    data = load(str(tmp_path), types=types, validation_size=4)
    expected = of_code(data, "train")[:2].repeat(2, 1)
    assert bool(expected.any())
    assert torch.equal(of_code(data, "test"), expected)
    assert torch.equal(of_code(data, "validation"), expected)


def test_categories_that_are_words_in_another_part_are_read_as_words_in_training_too(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["007", "012"])
    write(tmp_path / "test.csv", ["007", "012", "X9"], rows=3)
    data = load(str(tmp_path), types={"code": "category"})
    assert of_code(data, "test").tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("codes", "merged"),
    [
        (["1.1", "1.10", "250.0", "250.00"], "'1.1' and '1.10'"),
        (["7", "007", "1E2", "100"], "'7' and '007'|'1E2' and '100'"),
        ([f"8901410321111851072{i}" for i in range(4)], "'89014103211118510720' and '89014103211118510721'"),
        (["2024-01-01", "2024-01-01 00:00:00"], "'2024-01-01' and '2024-01-01 00:00:00'"),
    ],
)
def test_codes_that_look_like_numbers_stay_apart_and_that_is_said(
    tmp_path: Path, codes: list[str], merged: str
) -> None:
    write(tmp_path / "train.csv", codes)
    write(tmp_path / "test.csv", codes, rows=len(codes))
    data = load(str(tmp_path), types={"code": "category"})
    features = of_code(data, "test")
    assert len(features.unique(dim=0)) == len(codes)
    assert torch.equal(of_code(data, "train")[: len(codes)], features)
    [line] = [line for line in data.saw.splitlines() if "as it is written" in line]
    assert line.startswith("column 'code' is read as it is written: ")
    assert line.endswith(" are two categories")
    assert any(pair in line for pair in merged.split("|"))


def test_long_numbers_of_two_parts_that_floats_would_merge_are_no_category_twice(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["89014103211118510720", "7"])
    write(tmp_path / "test.csv", ["89014103211118510721", "7"], rows=2)
    data = load(str(tmp_path), types={"code": "category"})
    assert of_code(data, "test").sum(1).tolist() == [0, 1]
    assert "floats merge such numbers as 89014103211118510720" in data.saw


def test_numbers_that_are_written_in_one_way_each_mean_what_they_meant(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["007", "012", "NA", ""])
    write(tmp_path / "test.csv", ["7.0", "12.0", "NULL", "9"], rows=4)
    data = load(str(tmp_path), types={"code": "category"})
    assert data.columns is not None
    assert list(data.columns.transformer.named_transformers_["category"].categories_[0]) == ["", "12", "7"]
    assert of_code(data, "test").tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert "as it is written" not in data.saw
    as_numbers = load(str(tmp_path))
    assert as_numbers.columns is not None
    assert as_numbers.columns.kinds["code"] == "number"


def test_texts_are_read_as_they_are_written_in_training_as_at_prediction(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["0071", "7002"])
    write(tmp_path / "test.csv", ["71", "7002"], rows=2)
    data = load(str(tmp_path), types={"code": "text"})
    features = of_code(data, "test")
    assert not torch.equal(features[0], of_code(data, "train")[0])
    assert torch.equal(features[1], of_code(data, "train")[1])


@pytest.mark.parametrize("role", ["primary", "human", "probe"])
@pytest.mark.parametrize("pair", [("1E2", "100"), ("7", "007"), ("3", "3.0")])
def test_classes_that_numbers_would_merge_are_refused(
    tmp_path: Path, role: str, pair: tuple[str, str]
) -> None:
    file = write(tmp_path / "t.csv", ["a", "b"], fine=[pair[0], "40", "41", pair[1]])
    options: dict[str, Any] = {"primary": "label", role: "fine", "task": "classification"}
    with pytest.raises(ValueError, match=r"'fine' of '.*t.csv': .* are one class in two spellings") as caught:
        load(file, **options)
    assert all(repr(name) in str(caught.value) for name in pair)


def test_numbers_to_predict_and_spaces_may_be_written_in_several_ways(tmp_path: Path) -> None:
    amounts = ["1E2", "100", "2.50", "2.5"]
    assert load(write(tmp_path / "t.csv", ["a", "b"], label=amounts), task="regression").task == "regression"
    assert load(write(tmp_path / "s.csv", ["a", "b"], label=["1", " 1", "2"])).primary_names == ("1", "2")


def test_classes_that_are_words_in_training_are_words_in_every_part(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["a", "b"], label=["007", "012", "X9"])
    write(tmp_path / "test.csv", ["a", "b"], rows=4, label=["012", "007"])
    data = load(str(tmp_path))
    assert data.primary_names == ("007", "012", "X9")
    assert data.test.primary.tolist() == [1, 0, 1, 0]


def test_labels_in_cells_are_words_in_every_part(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["a", "b"], label=["007;012", "007", "012", ""])
    write(tmp_path / "test.csv", ["a", "b"], rows=3, label=["007", "", "012"])
    data = load(str(tmp_path), task="multi-label")
    assert data.primary_names == ("007", "012")
    assert data.test.primary.tolist() == [[1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("codes", [["007", "012", "X9"], ["7", "007", "12"]])
def test_features_are_made_as_before_of_a_file_that_looks_otherwise(tmp_path: Path, codes: list[str]) -> None:
    old = load(write(tmp_path / "old.csv", codes), types={"code": "category"})
    (tmp_path / "new").mkdir()
    write(tmp_path / "new" / "train.csv", [*codes[1:2], "012"])
    write(tmp_path / "new" / "test.csv", codes[:2], rows=2)
    new = load(str(tmp_path / "new"), like=old.columns)
    assert of_code(new, "test").sum(1).tolist() == [1, 1]
    named = old.columns.transformer.named_transformers_["category"].categories_[0].tolist()  # type: ignore[union-attr]
    assert of_code(new, "test").argmax(1).tolist() == [named.index(code) for code in codes[:2]]


def test_what_is_new_to_features_made_as_before_is_said(tmp_path: Path) -> None:
    old = load(write(tmp_path / "old.csv", ["a", "b"]))
    (tmp_path / "new").mkdir()
    write(tmp_path / "new" / "train.csv", ["a", "c", "b"])
    write(tmp_path / "new" / "test.csv", ["a", "b"], rows=4)
    assert "not seen" not in old.saw
    [line] = [
        line for line in load(str(tmp_path / "new"), like=old.columns).saw.splitlines() if "not seen" in line
    ]
    assert "the training part" in line
    assert "column 'code' holds a category that training has not seen in 8 of 24 rows: 'c'" in line


def test_tables_whose_columns_have_kinds_stay_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"code": [7, 12] * 12, "x": [0.5, 1.5, 2.5] * 8, "label": [2, 3] * 12})
    parquet.write_table(table, tmp_path / "t.parquet")
    for data in (
        load(str(tmp_path / "t.parquet"), types={"code": "category"}),
        load_frames(table, types={"code": "category"}),
    ):
        assert data.columns is not None
        assert list(data.columns.transformer.get_feature_names_out())[1:] == [
            "category__code_12",
            "category__code_7",
        ]
        assert data.primary_names == ("2", "3")
