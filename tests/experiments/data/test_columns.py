"""Tables as they are: what columns are taken for, what features become of them, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from _column_helpers import rows, write
from maxl.experiments.data import Columns, DataSet, load, read_columns, read_table


def columns_of(data: DataSet) -> Columns:
    assert data.columns is not None
    return data.columns


def features_of(data: DataSet) -> list[str]:
    return list(columns_of(data).transformer.get_feature_names_out())


def test_columns_are_taken_for_what_they_hold_and_that_is_said(tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.csv", rows()))
    assert columns_of(data).kinds == {
        "age": "number",
        "height": "number",
        "town": "category",
        "joined": "date",
        "note": "text",
        "member": "number",
    }
    assert "number: age (9 missing), height, member" in data.saw
    assert "category: town (12 missing)" in data.saw
    assert data.train.x.dtype == torch.float32
    assert len(data.train.x) == 48
    assert bool(data.train.x.isfinite().all())


def test_numbers_are_filled_by_the_median_of_the_training_samples_and_standardised(tmp_path: Path) -> None:
    table = rows()
    write(tmp_path / "train.csv", table[:40])
    write(tmp_path / "test.csv", table[40:])
    data = load(str(tmp_path))
    ages = np.array([math.nan if row["age"] == "" else float(row["age"]) for row in table])
    middle = np.nanmedian(ages[:40])
    filled = np.where(np.isnan(ages), middle, ages)
    expected = (filled - filled[:40].mean()) / filled[:40].std()
    missing = np.isnan(ages).astype(float)
    gaps = (missing - missing[:40].mean()) / missing[:40].std()
    names = features_of(data)
    for name, values in (("number__age", expected), ("number__missingindicator_age", gaps)):
        for part, true in ((data.train, values[:40]), (data.test, values[40:])):
            np.testing.assert_allclose(part.x[:, names.index(name)], true, rtol=1e-5, atol=1e-6)


def test_categories_have_a_feature_each_and_missing_is_one_of_them(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows())
    write(tmp_path / "test.csv", rows(5), town=["Ulm", "", "Atlantis", "Bonn", "Jena"])
    data = load(str(tmp_path))
    names = features_of(data)
    towns = [names.index(f"category__town_{town}") for town in ("Bonn", "Jena", "Ulm", "")]
    found = data.test.x[:, towns].tolist()
    assert found == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_rare_categories_share_a_feature_and_new_ones_join_them(tmp_path: Path) -> None:
    towns = ["Ulm"] * 50 + [f"Village {i}" for i in range(10)]
    write(tmp_path / "train.csv", rows(), town=towns)
    write(tmp_path / "test.csv", rows(2), town=["Atlantis", "Ulm"])
    data = load(str(tmp_path))
    column = features_of(data).index("category__town_infrequent_sklearn")
    assert data.test.x[:, column].tolist() == [1, 0]
    assert data.train.x[:, column].sum() == 10


def test_a_date_is_its_day_and_its_place_in_year_week_and_day(tmp_path: Path) -> None:
    stamps = [(datetime(2024, 3, 1) + timedelta(hours=7 * i)).isoformat(sep=" ") for i in range(60)]
    data = load(write(tmp_path / "t.csv", rows(), joined=stamps))
    table = read_table(tmp_path / "t.csv")
    frame = read_columns(table, {"joined": "date"}, np.arange(60))
    days = np.array([(datetime.fromisoformat(s) - datetime(1970, 1, 1)) / timedelta(days=1) for s in stamps])
    np.testing.assert_allclose(frame["joined (day)"], days, rtol=1e-12)
    for place, period in (("year", 365.2425), ("week", 7.0), ("time", 1.0)):
        angle = 2 * np.pi * days / period
        np.testing.assert_allclose(frame[f"joined ({place}, sine)"], np.sin(angle), atol=1e-9)
        np.testing.assert_allclose(frame[f"joined ({place}, cosine)"], np.cos(angle), atol=1e-9)
    assert columns_of(data).kinds["joined"] == "date"


def test_a_text_beside_other_columns_is_read_as_words(tmp_path: Path) -> None:
    table = rows()
    for part in ("train", "test"):
        write(tmp_path / f"{part}.csv", table)
    data = load(str(tmp_path))
    texts = [i for i, name in enumerate(features_of(data)) if name.startswith("text note")]
    assert 1 < len(texts) <= 32
    of_rain = torch.tensor([row["label"] == "yes" for row in table])
    x = data.test.x[:, texts]
    gap = (x[of_rain].mean(0) - x[~of_rain].mean(0)).norm()
    assert gap > 1  # in standard deviations: the words tell the two kinds apart


def test_what_the_user_says_of_columns_goes_before_what_they_look_like(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", rows())
    data = load(file, types={"age": "category", "town": "text"}, drop=["joined", "member"])
    assert columns_of(data).kinds == {"age": "category", "height": "number", "town": "text", "note": "text"}
    assert "category__age_25" in features_of(data)
    numbers = write(tmp_path / "n.csv", [{"a": i % 3, "b": i / 7, "label": "xy"[i % 2]} for i in range(30)])
    assert load(numbers).columns is None  # numbers alone, as before
    assert features_of(load(numbers, types={"a": "category"}))[-3:] == [f"category__a_{i}" for i in range(3)]


def test_whole_numbers_are_the_same_categories_where_others_are_missing(tmp_path: Path) -> None:
    codes = [[3, 4][i % 2] for i in range(60)]
    write(tmp_path / "train.csv", rows(), code=codes)
    write(tmp_path / "test.csv", rows(4), code=[3, "", 4.0, 3])
    data = load(str(tmp_path), types={"code": "category"})
    names = features_of(data)
    assert data.test.x[:, names.index("category__code_3")].tolist() == [1, 0, 0, 1]


def test_only_the_training_samples_that_are_kept_tell_how_features_are_made(tmp_path: Path) -> None:
    table = rows()
    write(tmp_path / "train.csv", table)
    write(tmp_path / "test.csv", table[:10])
    first = load(str(tmp_path), train_size=20, seed=1)
    write(tmp_path / "test.csv", table[:10], height=[1000.0] * 10, town=["Oz"] * 10)
    other = load(str(tmp_path), train_size=20, seed=1)
    assert torch.equal(first.train.x, other.train.x)
    assert features_of(first) == features_of(other)


def test_a_column_that_is_missing_throughout_is_zero(tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.csv", rows(), empty=[""] * 60))
    assert columns_of(data).kinds["empty"] == "number"
    assert bool((data.train.x[:, features_of(data).index("number__empty")] == 0).all())


# Bad input: each is one sentence that names file, row and column


def changed(**columns: Any) -> list[dict[str, Any]]:
    table = rows()
    for name, (row, value) in columns.items():
        table[row][name] = value
    return table


BAD_TABLES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "text in a column of numbers": (changed(age=(17, "old")), r"'age' of '.*t.csv' holds 'old' in row 17"),
    "a comma for a point": (changed(height=(4, "1,55")), r"'height' of '.*t.csv' holds '1,55' in row 4"),
    "infinite": (changed(height=(9, "inf")), r"column 'height', row 9 of '.*t.csv' holds inf"),
    "beyond float32": (changed(height=(9, "1e39")), r"column 'height', row 9 of '.*t.csv' holds 1e\+39"),
    "a label missing": (changed(label=(3, "")), r"column 'label'.*row 3|row 3.*'label'"),
}


@pytest.mark.parametrize(("table", "said"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_values_are_refused_with_file_row_and_column(
    tmp_path: Path, table: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        load(write(tmp_path / "t.csv", table))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": ["ages"]}, "--drop needs columns of the table; got 'ages'; did you mean 'age'"),
        ({"drop": ["label"]}, "--drop leaves out inputs; 'label' holds labels"),
        ({"types": {"ages": "number"}}, "got 'ages'; did you mean 'age'"),
        (
            {"types": {"age": "integer"}},
            "one of number, category, date, text for each column; got age=integer",
        ),
        ({"types": {"label": "text"}}, "columns of the table that are no targets; got 'label'"),
        ({"types": {"town": "number"}}, "column 'town' of '.*' needs to hold numbers; row \\d+ holds '\\w+'"),
        ({"types": {"town": "date"}}, "column 'town' of '.*' needs to hold dates"),
        ({"types": {"age": "date"}}, "column 'age' of '.*' needs to hold dates; it is int64"),
        (
            {"drop": ["age", "height", "town", "joined", "note", "member"]},
            "needs an image, text or numeric column besides its labels",
        ),
    ],
)
def test_what_is_said_of_columns_has_to_fit_them(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(write(tmp_path / "t.csv", rows()), **options)


def test_a_test_table_of_other_kinds_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows())
    write(tmp_path / "test.csv", rows(4), age=["young", "old", "", "old"])
    with pytest.raises(
        ValueError, match=r"column 'age' of '.*test.csv' needs to hold numbers; row 0 holds 'young'"
    ):
        load(str(tmp_path))
    write(tmp_path / "test.csv", rows(4), joined=["yesterday"] * 4)
    with pytest.raises(ValueError, match=r"column 'joined' of '.*test.csv' needs to hold dates"):
        load(str(tmp_path))


def test_columns_of_no_kind_are_refused(tmp_path: Path) -> None:
    table = pa.table({"label": [0, 1] * 10, "a": [f"t{i % 3}" for i in range(20)], "lists": [[1, 2]] * 20})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'lists' of '.*' is list<.*>: --drop lists"):
        load(str(tmp_path / "t.parquet"))
    assert columns_of(load(str(tmp_path / "t.parquet"), drop=["lists"], types={"a": "category"})).kinds == {
        "a": "category"
    }


@pytest.mark.parametrize(
    "kind", [pa.decimal128(6, 2), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_type_of_arrow_that_holds_such_values_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([str(i % 4) for i in range(20)]).cast(pa.string())
    column = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    table = pa.table({"label": [0, 1] * 10, "a": column, "b": ["x", None] * 10})
    parquet.write_table(table, tmp_path / "t.parquet")
    expected = "number" if pa.types.is_decimal(kind) else "category"
    assert columns_of(load(str(tmp_path / "t.parquet"))).kinds == {"a": expected, "b": "category"}


def test_images_have_no_columns_to_drop() -> None:
    with pytest.raises(ValueError, match="--drop and --types are for columns of a table"):
        load("digits", drop=["a"])


def test_what_other_libraries_warn_of_is_not_the_users_to_read(tmp_path: Path) -> None:
    """Asked for in a fresh process, as a module says it once."""
    script = tmp_path / "script.py"
    script.write_text(
        "import warnings\n"
        "import torch.utils.mkldnn\n"  # of which older versions of torch warn themselves
        "warnings.simplefilter('error')\n"
        "from maxl.experiments.data import Columns\n"
        "Columns({'size': 'number'}, None).to_bytes()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
