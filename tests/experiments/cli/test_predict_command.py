"""What ``maxl predict`` and ``maxl export`` write: every digit, columns of different names, and nothing where it cannot be."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from _data_helpers import pixels, write_folder, write_image
from _judged_helpers import scenes
from _run_helpers import digits, files, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.inference import Numbers, predict
from maxl.experiments.runs.inputs import read_image
from maxl.experiments.runs.trainer import train

ROWS = 60
X = np.random.default_rng(0).normal(size=ROWS).round(4)


def trained(place: Path, table: pd.DataFrame, **changes: Any) -> Path:
    table.to_csv(place / "t.csv", index=False)
    settings = {"train_size": None, "method": "single", "batch_size": 8, "learning_rate": 0.01}
    train(tiny(data=str(place / "t.csv"), **{**settings, **changes}), place / "run")
    return place / "run"


def predicted(run: Path, source: Path, *more: str) -> list[list[str]]:
    out = run.parent / "out.csv"
    assert main(["predict", str(run), str(source), "--device", "cpu", "--out", str(out), *more]) == 0
    with out.open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("offset", [0.0, 1.7645e9, -3e12])
def test_a_predicted_number_is_written_with_every_digit(offset: float, tmp_path: Path) -> None:
    run = trained(
        tmp_path, pd.DataFrame({"x": X, "when": offset + X.round(2)}), primary="when", task="regression"
    )
    _, *rows = predicted(run, tmp_path / "t.csv")
    expected = [p.values["when"] for p in predict(run, tmp_path / "t.csv") if isinstance(p, Numbers)]
    assert [float(row[1]) for row in rows] == expected
    assert len({row[1] for row in rows}) > ROWS / 2


def test_columns_of_predictions_have_different_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, pd.DataFrame({"x": X, "row": X * 2}), primary="row", task="regression")
    header, *_ = predicted(run, tmp_path / "t.csv")
    assert header == ["row", "row (2)"]
    assert "two columns would be called 'row': the second one is 'row (2)'" in capsys.readouterr().err
    names = ["a", "a_probability", "row"]
    table = pd.DataFrame({"x": X} | {name: (i / 4 < X).astype(int) for i, name in enumerate(names)})
    (tmp_path / "more").mkdir()
    run = trained(tmp_path / "more", table, primary=names)
    header, *rows = predicted(run, tmp_path / "more" / "t.csv")
    assert header == [
        *("row", "a", "a_probability"),
        *("a_probability (2)", "a_probability_probability"),
        *("row (2)", "row_probability"),
    ]
    assert len({*header}) == len(header) == len(rows[0])


def test_a_run_that_diverged_is_not_to_be_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FloatingPointError):
        train(tiny(method="single", optimizer="sgd", learning_rate=1e30), tmp_path / "run", data=digits())
    for line in (["predict", str(tmp_path / "run"), "."], ["export", str(tmp_path / "run")]):
        assert main(line) == 2
        error = capsys.readouterr().err
        assert "diverged in epoch 1" in error
        assert "train anew with other settings" in error
        assert "--resume" not in error


@pytest.mark.parametrize(
    "line",
    [
        "export RUN --out there.safetensors",
        "export RUN --format torch-export --out there.pt2",
        "export RUN --out beside.safetensors",
        "predict RUN t.csv --out there.csv",
    ],
)
def test_a_folder_in_the_place_of_the_file_is_refused_at_once(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, pd.DataFrame({"x": X, "label": np.where(X > 0, "p", "q")}), epochs=1)
    monkeypatch.chdir(tmp_path)
    for name in ("there.safetensors", "there.pt2", "there.csv", "beside.safetensors.json"):
        (tmp_path / name).mkdir()
    before = files(tmp_path)
    capsys.readouterr()
    assert main([str(run) if word == "RUN" else word for word in line.split()]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("maxl: error: --out needs a file; ")
    assert error.strip().endswith("is a folder")
    assert files(tmp_path) == before


def test_masks_are_predicted_for_images_alone(tmp_path: Path) -> None:
    config, test = scenes(tmp_path)
    train(config, tmp_path / "run")
    for source, below in ((test, Path("images")), (test / "images", Path()), (tmp_path, Path("test/images"))):
        out = tmp_path / f"out{len(below.parts)}"
        assert (
            main(["predict", str(tmp_path / "run"), str(source), "--device", "cpu", "--out", str(out)]) == 0
        )
        found = {str(p.relative_to(out)) for p in out.rglob("*.png")}
        assert {str(below / f"{i}.png") for i in range(5)} <= found
        assert not any("masks" in name for name in found)


def test_a_run_of_another_task_reads_all_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", ("cat", "dog"), count=8, size=(8, 8))
    write_folder(tmp_path / "new", ("images", "masks"), count=6, size=(8, 8))
    train(tiny(data=str(tmp_path / "data"), train_size=None, batch_size=4, method="single"), tmp_path / "run")
    assert len(predict(tmp_path / "run", tmp_path / "new")) == 12


@pytest.mark.parametrize("size", [(8, 16), (16, 8)])
def test_an_image_of_another_shape_is_cut_to_its_centre_and_scaled(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """Whatever lies outside of the centre of the run's shape does not count, whatever the size."""
    height, width = size
    centre = pixels(1, height, width, seed=1)[0]
    for scale in (1, 3):
        whole = np.full((scale * (height + 6), scale * width, 3), 255, dtype=np.uint8)
        inside = np.asarray(
            Image.fromarray(centre).resize((scale * width, scale * height), Image.Resampling.NEAREST)
        )
        whole[3 * scale : 3 * scale + inside.shape[0]] = inside
        for name, image in (("high", whole), ("wide", whole.transpose(1, 0, 2))):
            write_image(tmp_path / f"{name}{scale}.png", image)
        expected = np.asarray(Image.fromarray(inside)).transpose(2, 0, 1)
        write_image(tmp_path / "inside.png", inside)
        high = read_image(tmp_path / f"high{scale}.png", (3, height, width))
        assert high.equal(read_image(tmp_path / "inside.png", (3, height, width)))
        wide = read_image(tmp_path / f"wide{scale}.png", (3, width, height))
        assert wide.shape == (1, 3, width, height)
        if scale == 1:
            assert np.array_equal(high[0].numpy(), expected)
            assert np.array_equal(wide[0].numpy(), expected.transpose(0, 2, 1))
