"""What is classified is read as it was in training, row for row and line for line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from _data_helpers import write_folder
from _run_helpers import one_thread as one_thread
from _run_helpers import tiny
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import train

START = 1_700_000_000


@pytest.fixture(scope="module")
def clock_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seconds since 1970 of two minutes, a class each, and a run on them."""
    root = tmp_path_factory.mktemp("clock")
    seconds = [START + 60 * (i % 2) + i % 7 for i in range(80)]
    pd.DataFrame({"seconds": seconds, "label": [0, 1] * 40}).to_csv(root / "t.csv", index=False)
    shared = {"data": str(root / "t.csv"), "train_size": None, "batch_size": 8, "learning_rate": 0.01}
    config = tiny(**shared, epochs=10, generator_trunk="own")
    train(config, root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("text")
    lines = [f"{('red cold', 'blue warm')[i % 2]} thing{i},{'ab'[i % 2]}" for i in range(40)]
    (root / "t.csv").write_text("\n".join(["sentence,label", *lines]))
    config = tiny(data=str(root / "t.csv"), train_size=None, batch_size=8, learning_rate=0.01, epochs=10)
    train(config, root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("grey") / "run"
    train(tiny(epochs=1), run)
    return run


def test_columns_with_a_large_offset_are_learned_and_predicted(clock_run: Path, tmp_path: Path) -> None:
    assert RunFolder(clock_run).read_summary()["test_accuracy"] == 1
    pd.DataFrame({"seconds": [START, START + 60]}).to_csv(tmp_path / "new.csv", index=False)
    assert [p.name for p in predict(clock_run, tmp_path / "new.csv")] == ["0", "1"]


def test_predictions_are_those_of_the_data_set_as_it_was_trained_on(clock_run: Path) -> None:
    data = load_data(tiny(data=str(clock_run.parent / "t.csv"), train_size=None))
    model = load_model(clock_run)
    rows = pd.read_csv(clock_run.parent / "t.csv")["seconds"].to_numpy(dtype=np.float64)
    stored = {x.item() for x in torch.cat([data.train.x, data.test.x])}
    assert {x.item() for x in model.normalise(torch.from_numpy(rows)[:, None])} == stored


def test_an_exported_program_keeps_the_digits_of_its_features(clock_run: Path, tmp_path: Path) -> None:
    export(clock_run, "torch-export", tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    minutes = torch.tensor([[START], [START + 60.0]], dtype=torch.float64)
    assert program(minutes).argmax(1).tolist() == [0, 1]


def test_a_line_is_what_a_newline_ends(text_run: Path, tmp_path: Path) -> None:
    texts = ["red cold", "blue\x0cwarm", "red\u2028cold", "blue\x85warm", "cold\x1cred", "\x0b", "", "warm"]
    expected = [p.name for p in predict(text_run, write_texts(tmp_path / "t.csv", texts))]
    assert len(expected) == len(texts)
    for ending in ("\n", "\r\n"):
        (tmp_path / "new.txt").write_bytes((ending.join(texts) + ending).encode("utf-8-sig"))
        assert [p.name for p in predict(text_run, tmp_path / "new.txt")] == expected


def write_texts(file: Path, texts: list[str]) -> Path:
    pd.DataFrame({"id": range(len(texts)), "sentence": texts}).to_csv(file, index=False)
    return file


def test_texts_in_another_encoding_are_refused_with_their_line(text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_bytes("red\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"new.txt', line 2: no UTF-8 text"):
        predict(text_run, tmp_path / "new.txt")


@pytest.mark.parametrize("content", ["seconds\n1e39\n", "seconds\n1\n1e39\n"])
def test_numbers_beyond_float32_get_no_prediction(clock_run: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(ValueError, match=r"range of float32; column 'seconds', row \d holds 1e\+39"):
        predict(clock_run, tmp_path / "new.csv")


def test_a_row_that_the_model_gives_no_number_for_is_named(clock_run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(f"seconds\n{START}\n3e38\n")
    with pytest.raises(ValueError, match=r"row 1 of .*new.csv is so far from them"):
        predict(clock_run, tmp_path / "new.csv")


def test_a_table_without_rows_is_refused(clock_run: Path, text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("seconds\n")
    (tmp_path / "texts.csv").write_text("sentence,id\n")
    for run, file in ((clock_run, "numbers.csv"), (text_run, "texts.csv")):
        with pytest.raises(ValueError, match=rf"at least one row; .*{file} has none"):
            predict(run, tmp_path / file)


def test_pipes_are_not_waited_for(grey_run: Path, text_run: Path, clock_run: Path, tmp_path: Path) -> None:
    for run, name in ((grey_run, "x.png"), (text_run, "x.txt"), (clock_run, "x.csv")):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="only regular files are read"):
            predict(run, tmp_path / name)
    with pytest.raises(ValueError, match="only regular files are read"):
        predict(grey_run, tmp_path)


def test_hidden_images_are_not_classified(grey_run: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, ("a", ".thumbs"), count=2)
    (tmp_path / "a" / "._0.png").write_bytes(b"\0\5\x16\7")
    assert [p.file for p in predict(grey_run, tmp_path)] == [tmp_path / "a" / f"{i}.png" for i in range(2)]
