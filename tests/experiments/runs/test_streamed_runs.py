"""Runs on data that stay on disk: those in memory to the last bit, also after a power cut, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from _data_helpers import pixels, write_folder, write_image
from _run_helpers import Interrupted, interrupt_after, metrics, model
from _run_helpers import one_thread as one_thread
from _together import together
from maxl.experiments.cli import main
from maxl.experiments.data import DataSet, StreamedSamples
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.fingerprint import fingerprint
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.labelled import test_part as part_to_test_on
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import resume, train

SETTINGS: dict[str, Any] = {
    **{"trunk": "mlp", "epochs": 1, "batch_size": 8, "psi": [2], "device": "cpu", "tensorboard": False},
    **{"human": None, "workers": 2},
}
METHODS = ("single", "uniform", "random", "frozen", "maxl", "weighted", "human")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images in two levels of folders."""
    root = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate("ab"):
        for j, finer in enumerate("xy"):
            for k, image in enumerate(pixels(8, 9, 9, seed=4 * i + j)):
                write_image(root / name / finer / f"{k}.png", image)
    return root


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers in two parquet files."""
    root = tmp_path_factory.mktemp("rows")
    random = np.random.default_rng(0)
    for i in range(2):
        columns = {f"f{j}": random.normal(j, 3, 25).astype(np.float32) for j in range(4)}
        parquet.write_table(
            pa.table({**columns, "label": random.permutation(25) % 3}), root / f"part-{i}.parquet"
        )
    return root


def config(data: Path, **changes: Any) -> RunConfig:
    return RunConfig.from_dict({**SETTINGS, "data": str(data), **changes})


def both(data: Path, out: Path, **changes: Any) -> None:
    """Trains with and without; everything but seconds and memory is the same."""
    for stream in (False, True):
        train(config(data, stream=stream, **changes), out / str(stream))
    held, streamed = out / "False", out / "True"
    assert model(held).keys() == model(streamed).keys()
    for name, weights in model(held).items():
        assert torch.equal(weights, model(streamed)[name])
    assert metrics(held) == metrics(streamed)
    with np.load(held / "snapshot.npz") as one, np.load(streamed / "snapshot.npz") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
    summaries = [json.loads((run / "summary.json").read_text()) for run in (held, streamed)]
    timed = {"seconds_per_step", "seconds_total", "peak_memory_bytes", "checksum", "checksums"}
    assert {k: v for k, v in summaries[0].items() if k not in timed} == {
        k: v for k, v in summaries[1].items() if k not in timed
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_streamed_run_on_images_is_the_run_in_memory(method: str, pictures: Path, tmp_path: Path) -> None:
    both(pictures, tmp_path, method=method, validation_size=6, keep="best")


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_a_streamed_run_on_numbers_is_the_run_in_memory(method: str, rows: Path, tmp_path: Path) -> None:
    both(rows, tmp_path, method=method)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate": "augmented"},
        {"evaluate": "held-out", "held_out": 0.25},
        {"evaluate": "rotating", "held_out": 0.25, "epochs": 2},
        {"evaluate": "next", "cache_labels": True, "meta_every": 2, "epochs": 2},
        {"schedule": "epochs", "lookahead": "virtual"},
        {"transform": ["ColorJitter"], "augment": "none"},
        {"method": "kmeans", "cluster_features": "trunk"},
        {"method": "prototypes", "cluster_features": "trunk", "held_out": 0.5},
    ],
    ids=str,
)
def test_what_batches_are_drawn_from_makes_no_difference(
    changes: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    both(pictures, tmp_path, **changes)


def test_regression_is_streamed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    columns = {f"f{j}": x[:, j] for j in range(3)} | {"price": x.sum(1) + random.normal(size=60)}
    parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
    both(tmp_path / "data.parquet", tmp_path, primary="price", method="maxl")


def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    settings = {"method": "maxl", "epochs": 3, "stream": True}
    train(config(pictures, **settings), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config(pictures, workers=5, **settings), tmp_path / "cut", report=interrupt_after(2))
    resume(tmp_path / "cut")
    for name, weights in model(tmp_path / "whole").items():
        assert torch.equal(weights, model(tmp_path / "cut")[name])
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_it_is_the_same_data_in_memory_and_on_disk_and_other_data_when_a_file_changes(
    tmp_path: Path,
) -> None:
    write_folder(tmp_path / "data", ("a", "b"), 12)
    marks = [fingerprint(load_data(config(tmp_path / "data", stream=stream))) for stream in (False, True)]
    assert marks[0] == marks[1]
    with pytest.raises(Interrupted):
        train(config(tmp_path / "data", stream=True, epochs=3), tmp_path / "run", report=interrupt_after(2))
    write_image(tmp_path / "data" / "b" / "3.png", pixels(1, 6, 6, seed=9)[0])
    with pytest.raises(ValueError, match="its samples or labels"):
        resume(tmp_path / "run")


def test_a_file_that_is_damaged_while_it_trains_is_named_and_the_run_goes_on_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", ("a", "b"), 12)
    flags = "--data data --trunk mlp --method maxl --psi 2 --epochs 3 --batch-size 4 --device cpu --no-tensorboard --stream"
    assert main(["train", *flags.split(), "--out", "whole"]) == 0
    file = Path("data/b/3.png")
    content = file.read_bytes()
    written = RunFolder.append_metrics

    def damaging(self: RunFolder, row: dict[str, Any]) -> None:
        written(self, row)
        file.write_bytes(content[: len(content) // 2])

    monkeypatch.setattr(RunFolder, "append_metrics", damaging)
    capfd.readouterr()
    assert main(["train", *flags.split(), "--out", "cut"]) == 2
    monkeypatch.setattr(RunFolder, "append_metrics", written)
    (said,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("maxl: note: ")]
    assert said.startswith("maxl: error: 'data/b/3.png' cannot be decoded as an image: ")
    assert said.endswith("put the data back as they were, and continue with: maxl train --resume cut")
    assert main(["train", "--resume", "cut"]) == 2  # still damaged
    assert "data/b/3.png" in capfd.readouterr().err
    file.write_bytes(content)
    assert main(["train", "--resume", "cut"]) == 0
    for name, weights in model(Path("whole")).items():
        assert torch.equal(weights, model(Path("cut"))[name])


def test_a_file_that_is_damaged_from_the_start_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", ("a", "b"), 12)
    file = tmp_path / "data" / "a" / "5.png"
    file.write_bytes(file.read_bytes()[:-30])
    assert main(["train", "--data", "data", "--trunk", "mlp", "--stream", "--device", "cpu"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("maxl: error: 'data/a/5.png' cannot be decoded as an image: ")
    assert err.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"method": "kmeans"},
            "--method kmeans clusters all training inputs at once.*--cluster-features trunk",
        ),
        ({"method": "kmeans-shuffled", "cluster_features": "input"}, "clusters all training inputs at once"),
        ({"method": "prototypical"}, "compares all training inputs at once"),
        ({"probe": "other"}, "--probe compares all inputs at once"),
        ({"task": "segmentation"}, "masks are wider than their images"),
        ({"workers": 0}, "--workers needs to be at least 1"),
        ({"workers": 5000}, "--workers needs to be at most 1024"),
    ],
    ids=str,
)
def test_what_needs_all_inputs_at_once_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RunConfig.from_dict({"stream": True, **changes})


def test_a_finished_run_is_evaluated_on_its_streamed_test_part(pictures: Path, tmp_path: Path) -> None:
    train(config(pictures, method="single", stream=True), tmp_path / "run")
    settings = RunFolder(tmp_path / "run").read_config()
    found = part_to_test_on(tmp_path / "run", settings, load_model(tmp_path / "run"))
    held = load_data(config(pictures)).test
    assert found.images is not None
    assert torch.equal(found.images([2, 0]), held.x[[2, 0]])
    assert found.inputs(range(1, 4)).shape == (3, 3, 9, 9)


def test_what_a_run_starts_from_says_how_streamed_inputs_are_taken(pictures: Path, tmp_path: Path) -> None:
    train(config(pictures, method="single"), tmp_path / "first")
    grey = tmp_path / "grey"
    for name in "ab":
        for i, image in enumerate(pixels(8, 9, 9, channels=1)):
            write_image(grey / name / f"{i}.png", image)

    def started(stream: bool) -> DataSet:
        return load_data(config(grey, from_run=str(tmp_path / "first"), stream=stream))

    held, streamed = started(False), started(True)
    assert isinstance(streamed.train.x, StreamedSamples)
    assert streamed.input_shape == held.input_shape == (3, 9, 9)
    assert torch.equal(streamed.train.x[torch.arange(len(streamed.train))], held.train.x)


def test_two_processes_stream_their_parts_of_each_batch(pictures: Path, tmp_path: Path) -> None:
    flags = f"--data {pictures} --trunk mlp --method single --epochs 1 --batch-size 8 --device cpu --no-tensorboard".split()
    for out, more in (("held", []), ("streamed", ["--stream"])):
        for ended in together(["train", *flags, *more, "--out", out], tmp_path):
            assert ended.code == 0, ended.stderr
    for name, weights in model(tmp_path / "held").items():
        assert torch.equal(weights, model(tmp_path / "streamed")[name])
