"""Several labels in a cell: each row gets its own, however they are stored, and what can be read in two ways is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.data import DataSet, load, load_frames, read_table, table_targets

NAMES = ("ant", "big cat", "dog")
HAS = np.random.default_rng(0).random((60, 3)) < 0.4
FEATURE = np.arange(60.0)


def cells(mark: str) -> list[str]:
    return [mark.join(name for name, has in zip(NAMES, row, strict=True) if has) for row in HAS]


def lists() -> list[list[str]]:
    return [[name for name, has in zip(NAMES, row, strict=True) if has] for row in HAS]


def frame(labels: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"a": FEATURE, "tags": labels})


def check_rows(data: DataSet) -> None:
    assert data.task == "multi-label"
    assert data.primary_names == NAMES
    for part in (data.train, data.test):
        assert part.rows is not None
        assert part.primary.tolist() == HAS[part.rows.numpy()].astype(int).tolist()


@pytest.mark.parametrize("mark", ["; ", "|", " ; "])
def test_labels_between_separators_are_seen(mark: str) -> None:
    data = load_frames(frame(cells(mark)), primary="tags")
    assert f"several labels a row, parted by '{mark.strip()}': multi-label" in data.saw
    whole = torch.cat([data.train.primary, data.test.primary])
    assert data.primary_names == NAMES
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, HAS.astype(int).tolist()))


def test_lists_and_commas_give_the_labels_of_separators(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    frame(lists()).to_parquet(file)
    of_lists = load(str(file), primary="tags")
    assert "column 'tags' holds lists: multi-label" in of_lists.saw
    of_marks = load_frames(frame(cells(";")), primary="tags")
    of_commas = load_frames(frame(cells(", ")), primary="tags", task="multi-label")
    for other in (of_marks, of_commas):
        assert torch.equal(other.train.primary, of_lists.train.primary)
        assert torch.equal(other.test.primary, of_lists.test.primary)
    streamed = load(str(file), primary="tags", stream=True)
    assert torch.equal(streamed.train.primary, of_lists.train.primary)


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_entries_of_lists_that_are_empty_or_missing_are_no_labels(
    nothing: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "table.parquet"
    odd = frame([[*row, nothing] if i % 3 else [nothing, *row] for i, row in enumerate(lists())])
    odd.to_parquet(file)
    for data in (load_frames(odd, primary="tags"), load(str(file), primary="tags", stream=True)):
        check_rows(data)
    found = table_targets(read_table(file, text=["tags"]), "multi-label", "tags", NAMES)
    assert found.tolist() == HAS.astype(int).tolist()


def test_rows_keep_their_labels_through_every_cut() -> None:
    data = load_frames(frame(cells(";")), primary="tags", train_size=20, validation_size=8)
    assert data.features is not None
    assert data.validation is not None
    for part in (data.train, data.validation, data.test):
        rows = (part.x.squeeze(1) * data.features.std[0] + data.features.mean[0]).round().long()  # type: ignore[union-attr]
        assert part.primary.tolist() == HAS[rows.numpy()].astype(int).tolist()


def test_separators_in_names_of_classes_stay_there() -> None:
    names = ["red;matt", "red;gloss", "blue;matt", "blue;gloss"] * 15
    assert load_frames(frame(names), primary="tags").primary_names == tuple(sorted({*names}))
    sets = ["ant;dog", "dog", "ant"] * 20
    assert load_frames(frame(sets), primary="tags").task == "multi-label"
    assert load_frames(frame(sets), primary="tags", task="classification").num_primary == 3
    with_commas = ["Smith, Ann", "Smith, Bob"] * 30
    assert load_frames(frame(with_commas), primary="tags").task == "classification"


REFUSED = {
    "two separators": ([*cells(";")[:-2], "ant;dog", "ant|dog"], {}, "need one separator; column 'tags' has ';' in row"),
    "lists as text": ([str(row) for row in lists()], {}, r"need to be written as cat;dog; row 0 .* holds .*save lists"),
    "no label": ([" ; "] * 60, {}, "labels need to occur; no row has one in column 'tags'"),
    "alike": ([*cells(";")[:-1], "dog\u200b;ant"], {}, "are one class in two spellings"),
    "broken numbers": ([0.5, *[1.0] * 59], {}, "row 0 is neither 0 nor 1"),
    "lists as classes": (lists(), {"task": "classification"}, r"holds a list, so it has no single class .*--task multi-label"),
    "lists as finer classes": (["x", "y"] * 30, {"primary": "tags", "human": "more"}, "human labels are one a row; column 'more'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_cells_that_could_be_read_in_two_ways_are_refused(name: str) -> None:
    labels, options, message = REFUSED[name]
    table = frame(labels).assign(more=lists())[["a", "tags", *["more"] * ("human" in options)]]
    with pytest.raises(ValueError, match=message):
        load_frames(table, **{"primary": "tags", "task": "multi-label", **options})


def test_labels_of_a_run_are_found_in_cells_or_in_columns(tmp_path: Path) -> None:
    in_cells, in_columns, numbers = (tmp_path / f"{name}.csv" for name in ("cells", "columns", "numbers"))
    frame(cells(";")).to_csv(in_cells, index=False)
    pd.DataFrame({name: HAS[:, i].astype(int) for i, name in enumerate(NAMES)}).to_csv(
        in_columns, index=False
    )
    found = table_targets(read_table(in_cells, text=["tags"]), "multi-label", "tags", NAMES)
    assert found.tolist() == HAS.astype(int).tolist()
    assert torch.equal(table_targets(read_table(in_columns), "multi-label", "tags", NAMES), found)
    with pytest.raises(
        ValueError, match=r"one of the run's \(ant, dog\); row .* has 'big cat' in column 'tags'"
    ):
        table_targets(read_table(in_cells, text=["tags"]), "multi-label", "tags", ("ant", "dog"))
    with pytest.raises(ValueError, match="no column 'taggs'; did you mean 'tags'"):
        table_targets(read_table(in_cells), "multi-label", "taggs", NAMES)
    pd.DataFrame({"tags": range(3)}).to_csv(numbers, index=False)
    with pytest.raises(ValueError, match=r"column 'tags' of .* holds numbers, and 'ant' is no column"):
        table_targets(read_table(numbers), "multi-label", "tags", NAMES)


def test_images_with_labels_in_cells_from_the_table_to_an_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for i, row in enumerate(HAS):
        Image.fromarray((row * 200).astype(np.uint8).reshape(1, 1, 3).repeat(8, 0).repeat(8, 1)).save(
            tmp_path / f"photos/{i}.png"
        )
    table, run = tmp_path / "photos.csv", tmp_path / "run"
    paths = [f"photos/{i}.png" for i in range(60)]
    pd.DataFrame({"photo": paths, "tags": cells(";")}).to_csv(table, index=False)
    train = [
        "train",
        "--data",
        str(table),
        "--primary",
        "tags",
        "--method",
        "single",
        "--trunk",
        "mlp",
        "--epochs",
        "10",
        "--quiet",
    ]
    assert (
        main([*train, "--no-tensorboard", "--learning-rate", "0.01", "--device", "cpu", "--out", str(run)])
        == 0
    )
    assert main(["evaluate", str(run), str(table), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("mAP", *NAMES))
    assert main(["predict", str(run), str(table), "--device", "cpu", "--out", str(tmp_path / "p.csv")]) == 0
    told = pd.read_csv(tmp_path / "p.csv")
    assert (told[list(NAMES)].to_numpy() == HAS).mean() > 0.9
