"""summary.json, metrics.jsonl and snapshot.npz of strangers: a sentence for what is of another kind."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _run_helpers import digits, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.metrics import read_metrics
from maxl.experiments.runs.snapshot import read_snapshot
from maxl.experiments.runs.summary import read_summary, require_model
from maxl.experiments.runs.trainer import train

GOOD: dict[str, Any] = {
    "method": "maxl",
    "seed": 0,
    "data": "digits",
    "test_accuracy": 0.5,
    "primary_names": ["a", "b"],
    "input_shape": [1, 8, 8],
    "mean": [0.5],
    "std": [0.2],
    "features": None,
}
HUGE = 10**400


def write(path: Path, summary: dict[str, Any]) -> Path:
    path.write_text(json.dumps(summary))
    return path


@pytest.mark.parametrize("name", ["method", "seed", "data", "test_accuracy"])
def test_the_summary_of_another_tool_is_named(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "summary.json", {n: v for n, v in GOOD.items() if n != name})
    with pytest.raises(ValueError, match=rf"summary\.json needs '{name}'; it is missing"):
        read_summary(path)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "method": [5, [], {}],
        "seed": ["x", [], 1.5, -1, True, HUGE],
        "data": [5, []],
        "train_size": ["x", [], HUGE, float("nan")],
        "psi": [[], "x", [1, "a"], [[1]], 0, [0], 1.5],
        "test_accuracy": [2, -1, "x", [], True, float("nan"), HUGE],
        "train_accuracy": ["x", 1.5],
        "test_constant": ["x", 1.5, []],
        "test_size": ["x", []],
        "label_verdict": [5, []],
        "seconds_per_step": ["x", [], -1],
        "peak_memory_bytes": ["x", -1],
        "primary_names": [[], "abc", [1], [[]], {"a": 1}],
        "input_shape": [
            [],
            "abc",
            [1, 8],
            [1, 8, 8, 8],
            [-1, 8, 8],
            [1.5, 8, 8],
            ["1", "8", "8"],
            [10**6] * 3,
        ],
        "mean": [[], [float("nan")], ["a"], 5],
        "std": [[0.0], [float("nan")], [-1.0], "x"],
        "features": [5, {}, {"mean": [1], "std": [1]}, {"names": "ab", "mean": [1], "std": [1]}],
        "checksums": [5, {"a": 1}],
        "versions": [5],
    }.items(),
)
def test_values_of_another_kind_are_named(name: str, values: list[Any], tmp_path: Path) -> None:
    for value in values:
        path = write(tmp_path / "summary.json", {**GOOD, name: value})
        with pytest.raises(ValueError, match=r"summary\.json ") as refused:
            read_summary(path)
        assert len(str(refused.value)) < 400
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5, 0.5]}, "needs mean for each of 1 channels; got 2"),
        ({"std": None}, "needs 'std'; it is missing"),
        (
            {"input_shape": [2], "features": {"names": ["a"], "mean": [0.0], "std": [1.0]}},
            "each of 2 features; got 1",
        ),
    ],
)
def test_a_model_needs_sizes_that_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "summary.json", {**GOOD, **change})
    with pytest.raises(ValueError, match=message):
        require_model(read_summary(path), path)
    require_model(read_summary(write(path, GOOD)), path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "line 2, needs to be JSON"),
        ("[1]", "needs to hold JSON objects"),
        ('{"epoch": "two"}', "needs an epoch after 1"),
        ('{"epoch": 1}', "needs an epoch after 1; got '1'"),
        ('{"epoch": 1.5}', "needs an epoch after 1"),
        ('{"epoch": NaN}', "needs an epoch after 1"),
        ('{"epoch": 2, "test_accuracy": "x"}', r"needs test_accuracy to be in \[0, 1\]"),
        ('{"epoch": 2, "test_accuracy": 5}', r"needs test_accuracy to be in \[0, 1\]"),
        ('{"epoch": 2, "test_loss": 1e999}', "needs test_loss to be a number"),
        ('{"epoch": 2, "gradient_cosine_layers": [1]}', "to be numbers by layer"),
        ('{"epoch": 2, "gradient_cosine_layers": {"a": {"b": 1}}}', "to be numbers by layer"),
        ('{"epoch": 2, "label_usage_per_class": ["a", "b"]}', "to be numbers"),
        ('{"epoch": 2, "label_usage_per_class": [1.0]}', "needs 2 values of label_usage_per_class; got 1"),
        ('{"epoch": 2, "label_verdict": 5}', "to be text"),
    ],
)
def test_metrics_of_another_kind_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "label_usage_per_class": [1.0, 0.5]}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_metrics(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(tiny(epochs=1, trunk="convnet4"), out, data=digits())
    return out


def array(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        arrays = dict(np.load(path))
        with path.open("wb") as file:
            np.savez_compressed(file, **{**arrays, name: change(arrays[name])})

    return apply


def header(text: str) -> Callable[[Path], None]:
    """An array whose header says something else than what follows."""

    def apply(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
        members["features.npy"] = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        path.write_bytes(made.getvalue())

    return apply


@pytest.mark.parametrize(
    "change",
    [
        array("features", lambda a: a[:, 0]),
        array("features", lambda a: a.astype("U3")),
        array("features", lambda a: a.astype(complex)),
        array("feature_primary", lambda a: a[:5]),
        array("feature_primary", lambda a: -a - 1),
        array("feature_primary", lambda a: np.arange(len(a))),
        array("feature_primary", lambda a: a.astype(float)),
        array("gallery_images", lambda a: a[0]),
        array("gallery_images", lambda a: a.astype(float)),
        array("gallery_images", lambda a: np.repeat(a, 2, -1)),
        array("gallery_images", lambda a: a[:, :, :, :0]),
        array("gallery_scores", lambda a: a[:1]),
        array("gallery_scores", lambda a: a * np.nan),
        array("gallery_primary", lambda a: a - 99),
        array("primary_names", lambda a: np.array([None, {}], dtype=object)),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 5), }"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        header("{'descr': __import__('os').getcwd()}"),
        header("{'descr': " + "(" * 3000 + ")" * 3000 + "}"),
        header("{'descr': '<f8', "),
    ],
)
def test_a_snapshot_of_another_kind_is_named(
    change: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "snapshot.npz"
    shutil.copy(finished / "snapshot.npz", path)
    assert len(read_snapshot(path).gallery_auxiliary)
    change(path)
    with pytest.raises(ValueError, match=r"snapshot\.npz needs to be a snapshot as maxl writes it"):
        read_snapshot(path)


@pytest.mark.parametrize("verdict", ["[/red] markup", "[link=file:///]x"])
def test_text_from_files_is_printed_as_it_is(
    verdict: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("maxl.experiments.report.write_report", lambda folder: folder / "report.html")
    out = tmp_path / "study"
    shutil.copytree(finished, out / "runs/maxl/seed0")
    path = out / "runs/maxl/seed0/summary.json"
    summary = json.loads(path.read_text())
    plain = {n: v for n, v in summary.items() if not n.startswith("checksum")}
    write(path, {**plain, "label_verdict": verdict, "data": "[/blue]"})
    line = "--data digits --train-size 100 --trunk convnet4 --psi 3 --epochs 1 --batch-size 25 --device cpu"
    assert (
        main(
            [
                "compare",
                *line.split(),
                "--no-tensorboard",
                "--methods",
                "maxl",
                "--seeds",
                "0",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert f"in 1 runs {verdict}" in printed
    assert "data [/blue]" in printed


def test_weights_that_are_not_the_models_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    summary = json.loads((run / "summary.json").read_text())
    write(run / "summary.json", {n: v for n, v in summary.items() if not n.startswith("checksum")})
    model = run / "model.safetensors"
    weights = load_file(model)
    name = next(n for n, t in weights.items() if t.is_floating_point())
    for content in (
        {n: t for n, t in weights.items() if n != name},
        {**weights, "more": torch.zeros(1)},
        {**weights, name: weights[name] * torch.nan},
        {**weights, name: weights[name].half()},
        {**weights, name: weights[name][:1].clone()},
    ):
        save_file(content, model)
        assert main(["export", str(run), "--out", str(tmp_path / "m.safetensors")]) == 2
    for raw in (b"", b"hello", (2**62).to_bytes(8, "little") + b"{}"):
        model.write_bytes(raw)
        assert main(["export", str(run), "--out", str(tmp_path / "m.safetensors")]) == 2
    model.unlink()
    assert main(["export", str(run), "--out", str(tmp_path / "m.safetensors")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert all("model.safetensors" in line for line in lines)
    assert not (tmp_path / "m.safetensors").exists()


def test_what_one_answer_gets_is_by_the_class_that_training_has_most_of(tmp_path: Path) -> None:
    data = digits()
    most = (data.train.primary == 3).nonzero().flatten()
    rows = torch.cat([torch.arange(len(data.train.primary)), most, most])
    data = dataclasses.replace(data, train=data.train.select(rows))
    summary = train(tiny(method="single", epochs=1), tmp_path / "run", data=data)
    assert summary["test_constant"] == pytest.approx(float((data.test.primary == 3).double().mean()))
    assert summary["test_size"] == len(data.test)
    rows = torch.cat(
        [(data.train.primary == c).nonzero().flatten()[:5] for c in range(10)]
    )  # all alike in training
    alike = dataclasses.replace(data, train=data.train.select(rows))
    summary = train(tiny(method="single", epochs=1), tmp_path / "alike", data=alike)
    assert summary["test_constant"] == pytest.approx(
        float(data.test.primary.bincount().max()) / len(data.test)
    )
