"""Tables are read as they were meant, or refused with file, row and column."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from _data_helpers import pixels, write_csv, write_image, write_parquet
from maxl.experiments.data import load


def write_labels(file: Path, labels: list[str], column: str = "label") -> Path:
    """A CSV file with one feature and these labels."""
    file.write_text(f"a,{column}\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    return file


def write_hub(file: Path, labels: list[int], names: list[str]) -> None:
    """A parquet file of a feature and labels whose names the metadata give."""
    described = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    table = pa.table({"a": np.arange(float(len(labels))), "label": labels})
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), file)


def test_columns_with_a_large_offset_keep_their_digits(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + 60 * (i % 2)},{i % 2}\n" for i in range(40)]
    (tmp_path / "t.csv").write_text("t,label\n" + "".join(rows))
    data = load(str(tmp_path / "t.csv"))
    assert torch.equal(data.train.x[:, 0] > 0, data.train.primary == 1)
    assert data.train.x.unique().tolist() == pytest.approx([-1, 1], abs=1e-6)


def test_a_constant_feature_becomes_zero_even_where_its_mean_is_rounded(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", rows=20, a=[1_700_000_000.1] * 20)
    data = load(str(tmp_path / "t.csv"))
    assert data.train.x[:, 0].abs().max() == 0
    assert data.features is not None
    assert data.features.std[0] == 1


@pytest.mark.parametrize("value", ["1e39", "-1e39"])
def test_numbers_beyond_float32_are_not_finite(tmp_path: Path, value: str) -> None:
    file = write_csv(tmp_path / "t.csv", a=[1.0] * 3 + [value] + [2.0] * 16)
    with pytest.raises(
        ValueError, match=r"range of float32; column 'a', row 3 holds -?1e\+39 .* in '.*t.csv'"
    ):
        load(str(file))


def test_a_test_row_far_from_all_training_rows_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", a=[0.0, 1e-6] * 10)
    write_csv(tmp_path / "test.csv", rows=4, a=[0.0, 0.0, 3e38, 0.0])
    with pytest.raises(ValueError, match=r"sample 2 lies too far .* its feature 0 is 3e\+38"):
        load(str(tmp_path))


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_part_without_rows_is_refused(tmp_path: Path, part: str) -> None:
    for name in ("train", "test", "validation"):
        write_csv(tmp_path / f"{name}.csv")
    (tmp_path / f"{part}.csv").write_text("a,b,label\n")
    with pytest.raises(ValueError, match=rf"a part needs samples; '.*{part}.csv' is empty"):
        load(str(tmp_path))


def test_labels_that_a_float_would_merge_are_refused(tmp_path: Path) -> None:
    large = [str(2**63 + i % 3) for i in range(30)]
    with pytest.raises(
        ValueError, match=r"column 'label': row 0 is so large that floats merge whole numbers"
    ):
        load(str(write_labels(tmp_path / "t.csv", large)))


def test_large_labels_in_whole_numbers_stay_apart(tmp_path: Path) -> None:
    small, large = pa.array([2**53, 2**53 + 1] * 10), pa.array([2**53, 2**63 + 5] * 10, pa.uint64())
    for name, labels in (
        ("train", pa.concat_arrays([small[:10].cast(pa.uint64()), large[:10]])),
        ("test", small),
    ):
        parquet.write_table(pa.table({"a": np.arange(20.0), "label": labels}), tmp_path / f"{name}.parquet")
    data = load(str(tmp_path))
    assert data.primary_names == (str(2**53), str(2**53 + 1), str(2**63 + 5))
    assert data.train.primary.bincount().tolist() == [10, 5, 5]
    assert data.test.primary.bincount().tolist() == [10, 10]


def test_named_labels_of_any_integer_kind_are_checked(tmp_path: Path) -> None:
    write_hub(tmp_path / "t.parquet", [0, 1, 5, 1], ["x", "y"])
    table = parquet.read_table(tmp_path / "t.parquet")
    unsigned = table.set_column(1, "label", table["label"].cast(pa.uint8()))
    parquet.write_table(unsigned, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"row 2 is beyond the 2 classes \(got 5"):
        load(str(tmp_path / "t.parquet"))


def test_labels_that_are_text_in_one_part_and_numbers_in_another_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "train.csv", ["0", "1"] * 10)
    write_labels(tmp_path / "test.csv", ["0", "x"] * 2)
    with pytest.raises(ValueError, match=r"text in '.*test.csv', numbers in '.*train.csv'"):
        load(str(tmp_path))


def test_whole_floats_and_integers_are_the_same_labels(tmp_path: Path) -> None:
    write_labels(tmp_path / "train.csv", ["0", "10", "9"] * 10)
    write_labels(tmp_path / "test.csv", ["9.0", "0.0"])
    data = load(str(tmp_path))
    assert data.primary_names == ("0", "9", "10")
    assert data.test.primary.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [("x", " x"), ("x", "x\u200b"), ("x", "x\u00a0"), ("1", "1.0"), ("01", "1"), ("caf\u00e9", "cafe\u0301")],
)
def test_one_class_in_two_spellings_is_refused(tmp_path: Path, one: str, other: str) -> None:
    file = write_labels(tmp_path / "t.csv", [one, other, "b"] * 10)
    with pytest.raises(ValueError, match="are one class in two spellings"):
        load(str(file))


def test_a_class_of_the_test_part_alone_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "train.csv", ["a", "c"] * 10)
    write_labels(tmp_path / "test.csv", ["a", "b"] * 2)
    with pytest.raises(ValueError, match="class 'b' has none"):
        load(str(tmp_path))


def test_labels_of_one_class_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need at least 2 classes; all of them are 'a'"):
        load(str(write_labels(tmp_path / "t.csv", ["a"] * 20)))


@pytest.mark.parametrize("part", ["test", "train-00001-of-00002"])
def test_class_names_in_another_order_are_refused(tmp_path: Path, part: str) -> None:
    write_hub(tmp_path / "train-00000-of-00002.parquet", [0, 1] * 10, ["cat", "dog"])
    write_hub(tmp_path / "train-00001-of-00002.parquet", [0, 1] * 10, ["cat", "dog"])
    write_hub(tmp_path / "test.parquet", [0, 1], ["cat", "dog"])
    write_hub(tmp_path / f"{part}.parquet", [0, 1] * 10, ["dog", "cat"])
    with pytest.raises(ValueError, match=rf"same classes in the same order .*{part}"):
        load(str(tmp_path))


@pytest.mark.parametrize("named", ["train", "test"])
def test_class_names_in_one_part_alone_leave_the_other_parts_numbers_open(tmp_path: Path, named: str) -> None:
    for part in ("train", "test"):
        write_hub(tmp_path / f"{part}.parquet", [0, 1] * 10, ["cat", "dog"] if part == named else [])
    with pytest.raises(ValueError, match=r"column 'label' needs the same classes in the same order"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    "metadata",
    ["{", "[]", "{}", '{"info": {"features": [1]}}']
    + [
        json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
        for names in (5, [1, 2, 3], ["x", "x", "y"])
    ],
)
def test_damaged_metadata_of_the_hub_are_refused(tmp_path: Path, metadata: str) -> None:
    table = pa.table({"a": np.arange(30.0), "label": [0, 1, 2] * 10})
    parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'.*t.parquet'(:| has damaged metadata)"):
        load(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train", "train_old", "test"), "train_old.csv' lies beside '.*train.csv'"),
        (("train", "train-1", "test"), "lies beside"),
        (("train-00000-of-00002", "test"), "needs each of the 2 pieces of train once; piece 1 is missing"),
        (("train-00000-of-00002", "train-00001-of-00002", "train", "test"), "lies beside"),
        (("train_0", "train_1", "test"), None),
        (("train_small", "test"), None),
    ],
)
def test_only_pieces_of_one_table_are_joined(
    tmp_path: Path, files: tuple[str, ...], message: str | None
) -> None:
    for file in files:
        write_csv(tmp_path / f"{file}.csv")
    if message is None:
        assert len(load(str(tmp_path)).train) == 20 * (len(files) - 1)
    else:
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path))


def test_a_part_in_two_formats_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_csv(tmp_path / f"{part}.csv")
    write_hub(tmp_path / "train.parquet", [0, 1] * 10, [])
    with pytest.raises(ValueError, match=r"has train as .parquet and as .csv"):
        load(str(tmp_path))


def test_whole_numbers_that_floats_merge_are_no_features(tmp_path: Path) -> None:
    table = pa.table({"a": [2**60 + i for i in range(20)], "label": [0, 1] * 10})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(
        ValueError, match=r"column 'a' of '.*' holds whole numbers beyond 2\^53 that it merges"
    ):
        load(str(tmp_path / "t.parquet"))


def test_pieces_with_other_columns_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train_0.csv")
    write_csv(tmp_path / "train_1.csv", more=[1] * 20)
    write_csv(tmp_path / "test.csv")
    with pytest.raises(ValueError, match=r"same columns; '.*train_1.csv' differs from"):
        load(str(tmp_path))


LABELLED = "".join(f"{i},{i % 2}\n" for i in range(20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"a,a\n{LABELLED}", "columns need different names; '.*t.csv' has 2 called 'a'"),
        ("label,label\n0,1\n", "has 2 called 'label'"),
        (f",label\n{LABELLED}", r"column 1 has no name \(an index written along\?\)"),
        ("a;label\n1;0\n2,5;1\n", "separated by commas; got ';'"),
        ("a\tlabel\n1\t0\n", r"separated by commas; got '\\t'"),
        (f"a,label\n{LABELLED}".encode("utf-16"), "no UTF-8 text"),
        (f"a,label\n{LABELLED}".encode("utf-16-le"), "line 1: a zero byte"),
        (f"a,label\n{LABELLED}3,caf\xe9\n".encode("latin-1"), "t.csv', line 22: no UTF-8 text"),
        (b"caf\xe9,label\n1,0\n", "line 1: no UTF-8 text"),
        ('t,label\n"x,0\ny,1\n"z",0\n', "line 2: the quotes of a value are not even"),
        ('t,label\n"a \\"b\\"",0\n', "line 2: the quotes of a value are not even"),
        ("a,label\n1,0\n2\n", "cannot be read as a csv file"),
        ("a,label\n2020-01-01,2020-01-02\n", "column 'label' of '.*' is date32"),
        ("a,label\n" + '"1,234",0\n"2,345",1\n' * 5, "'a' of '.*' holds numbers, but row 0 holds '1,234'"),
        ("a,label\n" + "1,0\n2,1\n" * 5 + "?,0\n", "holds numbers, but row 10 holds '\\?'"),
        ("", "cannot be read as a csv file"),
        ("0.5,1\n1.5,0\n2.5,1\n", "needs a header line .* the numbers 0.5, 1"),
    ],
)
def test_csv_files_that_would_be_misread_are_refused(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load(str(tmp_path / "t.csv"), primary="label")
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        f"a,label\n{LABELLED}".encode("utf-8-sig"),
        ("label,a\n" + "0,1\n1,2\n" * 10).encode("utf-8-sig"),
        f"a,label\n{LABELLED}".replace("\n", "\r\n").encode(),
        f"a,label\n{LABELLED}\n\n\n".encode(),
        f'"a",label\n{LABELLED}'.encode(),
    ],
)
def test_byte_order_marks_line_ends_and_empty_lines_change_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    data = load(str(tmp_path / "t.csv"), primary="label")
    assert len(data.train) + len(data.test) == 20


def test_newlines_inside_quotes_belong_to_a_value_in_files_of_any_length(tmp_path: Path) -> None:
    rows = 80_000  # longer than what is parsed at a time
    lines = [f'"{"red" if i % 2 else "blue"} line\n{i}, more",{i % 2}\n' for i in range(rows)]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(lines))
    assert load(str(tmp_path / "t.csv"), train_size=20).test.primary.bincount().tolist() == [8000, 8000]


def test_the_index_that_pandas_stores_is_no_feature(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": np.arange(20.0), "label": [0, 1] * 10}).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "t.parquet")
    data = load(str(tmp_path / "t.parquet"))
    assert data.features is not None
    assert data.features.names == ("a",)


def test_long_texts_of_digits_and_spaces_are_read_at_once(tmp_path: Path) -> None:
    rows = [f"{'1' * 100_000} {' ' * 100_000}word{i % 2},{i % 2}\n" for i in range(10)]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(rows))
    assert load(str(tmp_path / "t.csv")).text is not None


def test_a_text_that_ends_like_an_image_is_text(tmp_path: Path) -> None:
    rows = [f"{'see foo.png' if i == 0 else f'word{i} thing'},{i % 2}\n" for i in range(20)]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(rows))
    assert load(str(tmp_path / "t.csv")).text is not None


def test_a_column_of_image_paths_with_one_that_is_none_is_refused(tmp_path: Path) -> None:
    for i, image in enumerate(pixels(10, 6, 6)):
        write_image(tmp_path / f"{i}.png", image)
    rows = [f"{'unknown' if i == 7 else f'{i}.png'},{i % 2}\n" for i in range(10)]
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(rows))
    with pytest.raises(ValueError, match=r"column 'file' of '.*t.csv' .* row 7 holds 'unknown'"):
        load(str(tmp_path / "t.csv"))


def test_images_and_texts_of_another_kind_in_the_test_part_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "i" / "train.parquet", "image", pixels(8, 6, 6), {"label": [0, 1] * 4})
    numbers = pa.table({"image": [1, 2], "label": [0, 1]})
    parquet.write_table(numbers, tmp_path / "i" / "test.parquet")
    with pytest.raises(ValueError, match=r"the image in column 'image', row 0 of '.*test.parquet'"):
        load(str(tmp_path / "i"))
    (tmp_path / "t").mkdir()
    words = "".join(f"word{i} thing,{i % 2}\n" for i in range(20))
    (tmp_path / "t" / "train.csv").write_text(f"text,label\n{words}")
    (tmp_path / "t" / "test.csv").write_text("text,label\n12,0\n13,1\n")
    with pytest.raises(ValueError, match=r"column 'text' of '.*test.csv' is int64"):
        load(str(tmp_path / "t"))


def test_a_column_that_numbers_the_rows_is_told_of(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(60) + 1
    columns = {"id": numbers, "income": 1000 * numbers, "age": numbers // 2, "share": numbers / 2}
    table = pa.table({**columns, "label": [0, 1] * 30})
    parquet.write_table(table, tmp_path / "t.parquet")
    [line] = [
        line for line in load(str(tmp_path / "t.parquet")).saw.splitlines() if "numbers the rows" in line
    ]
    assert line.startswith("column 'id' numbers the rows, 1 to ")
    assert line.endswith(", and is an input: --drop id leaves it out")
    assert "numbers the rows" not in load(str(tmp_path / "t.parquet"), drop=("id",)).saw
    mixed = table.append_column("colour", pa.array(["red", "blue"] * 30))
    parquet.write_table(mixed, tmp_path / "m.parquet")
    said = load(str(tmp_path / "m.parquet")).saw.splitlines()
    assert said[0].startswith("5 columns are inputs; number: id, income, age, share; category: colour")
    assert said[1] == line
    parquet.write_table(table.slice(0, 19), tmp_path / "few.parquet")
    assert "numbers the rows" not in load(str(tmp_path / "few.parquet")).saw
