"""Samples that are labelled later are read as training read its own, and what was trained on wrong labels is judged by right ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from _data_helpers import pixels, write_folder, write_image
from _run_helpers import one_thread as one_thread
from _run_helpers import tiny
from maxl.experiments.cli import main
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.trainer import train

RANDOM = np.random.default_rng(0)
ROWS = 60
X = RANDOM.normal(size=ROWS).round(4)


def trained(place: Path, table: pd.DataFrame, **changes: Any) -> Path:
    """A run on a table, in ``place``/run; t.csv is a copy of what it was trained on."""
    for name in ("own", "t"):
        table.to_csv(place / f"{name}.csv", index=False)
    settings = {"train_size": None, "method": "single", "batch_size": 8, "learning_rate": 0.01}
    train(tiny(data=str(place / "own.csv"), **{**settings, **changes}), place / "run")
    return place / "run"


def noisy(wrong: bool) -> pd.DataFrame:
    """Two classes by the sign of x; where it is not trusted the class may be the other one."""
    right, trusted = X > 0, np.arange(ROWS) % 3 == 0
    label = np.where(right ^ (~trusted & wrong), "p", "q")
    return pd.DataFrame({"x": X, "ok": np.where(trusted, "yes", "no"), "label": label})


def test_samples_that_are_not_trusted_do_not_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, noisy(wrong=True), trusted="ok")
    given, right = (tmp_path / f"{name}.csv" for name in ("given", "right"))
    noisy(wrong=True).to_csv(given, index=False)
    table = noisy(wrong=False)
    table[table["ok"] == "yes"].to_csv(right, index=False)
    judged, alone = judge(run, given, device="cpu"), judge(run, right, device="cpu")
    assert judged.metrics == alone.metrics
    assert (judged.samples, judged.confusion) == (20, alone.confusion)
    assert judged.left_out == ("40 samples whose labels are not trusted",)
    assert alone.left_out == ()
    assert main(["evaluate", str(run), str(given), "--device", "cpu"]) == 0
    assert "Left out: 40 samples whose labels are not trusted." in capsys.readouterr().out
    table[table["ok"] == "no"].to_csv(given, index=False)
    with pytest.raises(ValueError, match="no sample is trusted"):
        judge(run, given, device="cpu")
    table.assign(ok="maybe").to_csv(given, index=False)
    with pytest.raises(ValueError, match="needs a column of yes and no"):
        judge(run, given, device="cpu")


def test_where_nothing_says_what_is_trusted_all_samples_count(tmp_path: Path) -> None:
    run = trained(tmp_path, noisy(wrong=True), trusted="ok")
    noisy(wrong=False).drop(columns="ok").to_csv(tmp_path / "new.csv", index=False)
    with pytest.warns(
        RunWarning, match="no column 'ok' that says whose labels can be trusted: all 60 samples"
    ):
        assert judge(run, tmp_path / "new.csv", device="cpu").samples == ROWS


@pytest.mark.parametrize("kind", ["images", "both", "columns"])
def test_trusted_samples_of_every_kind_keep_their_inputs(kind: str, tmp_path: Path) -> None:
    """A row that is judged among others that do not count is judged as it is alone."""
    table = noisy(wrong=True).assign(town=["Ulm", "Bonn"] * (ROWS // 2))
    more: dict[str, Any] = {}
    if kind == "columns":
        table["note"] = ""
        table.loc[::7, "x"] = np.nan
        table = table.drop(columns="note")
    else:
        for i, x in enumerate(X):
            write_image(
                tmp_path / "im" / f"{i}.png", pixels(1, 6, 6, seed=i)[0] // 2 + np.uint8(100 * (x > 0))
            )
        table["image"] = [f"im/{i}.png" for i in range(ROWS)]
        more["types"] = ["town=category"] if kind == "both" else None
        more["trunk"] = "convnet4"
    run = trained(tmp_path, table, trusted="ok", **more)
    table[table["ok"] == "yes"].to_csv(tmp_path / "right.csv", index=False)
    table.to_csv(tmp_path / "all.csv", index=False)
    judged, alone = (judge(run, tmp_path / f"{name}.csv", device="cpu") for name in ("all", "right"))
    assert judged.metrics == alone.metrics
    assert judged.confusion == alone.confusion


def tags(separator: str = ";") -> pd.DataFrame:
    """Labels by x in cells, and inputs that are called like them and say the opposite."""
    red, blue = X > 0, X < 0.5
    cells = [
        separator.join(n for n, has in (("red", r), ("blue", b)) if has)
        for r, b in zip(red, blue, strict=True)
    ]
    return pd.DataFrame({"x": X, "red": (~red).astype(int), "blue": (~blue).astype(int), "tags": cells})


def test_labels_in_cells_are_not_read_from_inputs_of_the_same_names(tmp_path: Path) -> None:
    run = trained(tmp_path, tags(), primary="tags", epochs=20)
    judged = judge(run, tmp_path / "t.csv", device="cpu")
    support = {n: row["support"] for n, row in zip(judged.names, judged.per_class, strict=True)}
    assert support == {"red": (X > 0).sum(), "blue": (X < 0.5).sum()}
    tags().drop(columns="tags").to_csv(tmp_path / "without.csv", index=False)
    with pytest.raises(
        ValueError, match=r"stand in column 'tags', which .* lacks; its column '\w+' is an input"
    ):
        judge(run, tmp_path / "without.csv", device="cpu")


@pytest.mark.parametrize("mark", [";", "|"])
def test_the_separator_of_cells_is_that_of_training(mark: str, tmp_path: Path) -> None:
    names = ("Ann, Smith", "Bob, Smith")
    cells = [mark.join(n for n, has in zip(names, (x > 0, x < 0.5), strict=True) if has) for x in X]
    table = pd.DataFrame({"x": X, "tags": cells})
    run = trained(tmp_path, table, primary="tags", task="multi-label")
    summary = RunFolder(run).read_summary()
    assert (summary["primary_names"], summary["label_separator"]) == ([*names], mark)
    single = table[~table["tags"].str.contains(mark, regex=False)]  # nothing there tells the separator
    single.to_csv(tmp_path / "single.csv", index=False)
    judged = judge(run, tmp_path / "single.csv", device="cpu")
    assert [row["support"] for row in judged.per_class] == [(single["tags"] == n).sum() for n in names]
    other = {";": "|", "|": ";"}[mark]
    table.assign(tags=other.join(names)).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ValueError, match=r"in training '.' parted the labels of a cell"):
        judge(run, tmp_path / "other.csv", device="cpu")
    older = {k: v for k, v in json.loads((run / "summary.json").read_text()).items() if "checksum" not in k}
    (run / "summary.json").write_text(json.dumps({**older, "label_separator": None}))
    assert judge(run, tmp_path / "single.csv", device="cpu").per_class == judged.per_class


def test_the_column_of_images_is_that_of_training(tmp_path: Path) -> None:
    for i in range(40):
        image = pixels(1, 8, 8, seed=i)[0] // 2 + np.uint8(100 * (i % 2))
        write_image(tmp_path / "im" / f"{i}.png", image)
        write_image(tmp_path / "im" / f"thumb{i}.png", image[:4, :4])
    table = pd.DataFrame(
        {"photo": [f"im/{i}.png" for i in range(40)], "thumb": [f"im/thumb{i}.png" for i in range(40)]}
    )
    table["label"] = ["dark", "light"] * 20
    run = trained(tmp_path, table, trunk="convnet4")
    summary = RunFolder(run).read_summary()
    table.drop(columns="thumb").to_csv(tmp_path / "one.csv", index=False)
    two, one = (predict(run, tmp_path / name) for name in ("t.csv", "one.csv"))
    assert two == one
    assert (
        judge(run, tmp_path / "t.csv", device="cpu").metrics
        == judge(run, tmp_path / "one.csv", device="cpu").metrics
    )
    assert summary["image_column"] == "photo"
    renamed = table.rename(columns={"photo": "picture"})
    renamed.drop(columns="thumb").to_csv(tmp_path / "one.csv", index=False)  # the only one
    assert predict(run, tmp_path / "one.csv") == one
    renamed.to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(ValueError, match=r"needs one column of images in .*; it has picture, thumb"):
        predict(run, tmp_path / "two.csv")


@pytest.mark.parametrize(
    "words", [("0x1F", "0x2A"), ("1e2", "2e2"), ("01", "02"), ("1.0", "2.0"), ("True", "False"), ("1", "02")]
)
def test_classes_that_are_read_as_numbers_are_so_again(words: tuple[str, str], tmp_path: Path) -> None:
    run = trained(tmp_path, pd.DataFrame({"x": X, "lab": np.where(X > 0, *words)}), primary="lab")
    judged = judge(run, tmp_path / "t.csv", device="cpu")
    counts = sorted(int(row["support"] or 0) for row in judged.per_class)
    assert counts == sorted([int((X > 0).sum()), int((X <= 0).sum())])


def test_a_number_that_is_no_class_stays_as_it_is_written(tmp_path: Path) -> None:
    run = trained(tmp_path, pd.DataFrame({"x": X, "lab": np.where(X > 0, 1, 2)}), primary="lab")
    for odd in ("0x1F", "1e2", "1e999999", "1_0", "-1", "1.5"):
        pd.DataFrame({"x": X, "lab": [odd] * ROWS}).to_csv(tmp_path / "odd.csv", index=False)
        with pytest.raises(ValueError, match=rf"row 0 .* has '{odd}'"):
            judge(run, tmp_path / "odd.csv", device="cpu")


def test_figures_of_the_training_part_of_a_named_data_set_are_told(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write_folder(tmp_path / "dd" / "cinic10" / part, ("cat", "dog"), count=8, size=(8, 8))
    settings = {"data": "cinic10", "data_dir": str(tmp_path / "dd"), "train_size": None, "batch_size": 4}
    train(tiny(**settings, method="single", epochs=1), tmp_path / "run")
    with pytest.warns(RunWarning, match="holds samples that the run was trained on"):
        assert judge(tmp_path / "run", tmp_path / "dd/cinic10/train", device="cpu").trained_on
    for part in ("valid", "test"):
        assert not judge(tmp_path / "run", tmp_path / "dd/cinic10" / part, device="cpu").trained_on


def test_suffixes_may_be_capitals(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": X, "label": np.where(X > 0, "p", "q")})
    run = trained(tmp_path, table)
    (tmp_path / "NEW.CSV").write_bytes((tmp_path / "t.csv").read_bytes())
    table.to_parquet(tmp_path / "NEW.Parquet")
    expected, judged = predict(run, tmp_path / "t.csv"), judge(run, tmp_path / "t.csv", device="cpu")
    for name in ("NEW.CSV", "NEW.Parquet"):
        assert predict(run, tmp_path / name) == expected
        assert judge(run, tmp_path / name, device="cpu").metrics == judged.metrics
    train(
        tiny(data=str(tmp_path / "NEW.CSV"), train_size=None, batch_size=8, method="single"),
        tmp_path / "again",
    )
    again, first = (RunFolder(tmp_path / name).read_summary() for name in ("again", "run"))
    assert again["test_size"] == first["test_size"]
    images = pd.DataFrame({"image": [f"im/{i}.png" for i in range(40)], "label": ["dark", "light"] * 20})
    for i in range(40):
        write_image(tmp_path / "im" / f"{i}.png", pixels(1, 8, 8, seed=i)[0])
    (tmp_path / "images").mkdir()
    images["image"] = [str(tmp_path / f"im/{i}.png") for i in range(40)]
    of_images = trained(tmp_path / "images", images, trunk="convnet4", epochs=1)
    images.to_csv(tmp_path / "IMAGES.CSV", index=False)
    assert predict(of_images, tmp_path / "IMAGES.CSV") == predict(of_images, tmp_path / "images" / "t.csv")


@pytest.mark.parametrize("date", [False, True])
def test_numbers_that_are_missing_and_never_were_in_training_are_told_of(
    date: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame(
        {"x": X, "town": ["Ulm", "Bonn"] * (ROWS // 2), "gaps": X, "label": np.where(X > 0, "p", "q")}
    )
    table.loc[::5, "gaps"] = np.nan
    if date:
        table["x"] = pd.date_range("2024-01-01", periods=ROWS).astype(str)
    run = trained(tmp_path, table)
    new = table.copy()
    new.loc[[1, 3], ["x", "gaps"]] = None
    new.to_csv(tmp_path / "new.csv", index=False)
    with pytest.warns(RunWarning) as told:
        predict(run, tmp_path / "new.csv")
    lines = [str(w.message) for w in told if "misses" in str(w.message)]
    assert len(lines) == 1
    assert "column 'x' misses 2 of 60 values, and missed none in training: the median" in lines[0]
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "new.csv"), "--device", "cpu"]) == 0
    assert "note: " in capsys.readouterr().err.replace("maxl: ", "")
