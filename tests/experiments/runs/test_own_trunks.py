"""Trunks of a user's own: what was trained is what is loaded, or is refused; tied weights; what cannot be kept or exported."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from _run_helpers import digits, files, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import train

MODULE = '''
import math

import numpy as np
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.inside = nn.Linear(math.prod(shape), 32)

    def forward(self, x):
        return torch.relu(self.inside(x.flatten(1)))


class Drawn(Own):
    """Random features, which are no part of the state."""

    def __init__(self, shape, keep):
        super().__init__(shape)
        keep(self, torch.randn(32, 32))

    def forward(self, x):
        return torch.cos(super().forward(x) @ self.drawn)


class Tied(Own):
    def __init__(self, shape):
        super().__init__(shape)
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
        self.b.weight = self.a.weight
        self.register_buffer("whole", torch.ones(8, 8))
        self.register_buffer("top", self.whole[:4])

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.a(super().forward(x)))))


class Branching(Own):
    def forward(self, x):
        x = super().forward(x)
        return x * 2 if float(x.detach().mean()) > 0.01 else x


class Each(Own):
    def forward(self, x):
        return torch.stack([super(Each, self).forward(row[None])[0] for row in x])


class Extra(Own):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Noisy(Own):
    def forward(self, x):
        x = super().forward(x)
        return x + torch.rand_like(x)


class Batched(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], 16, 3)
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)

    def forward(self, x):
        return torch.relu(self.norm(self.convolution(x))).mean((2, 3))


class Picky(Own):
    def forward(self, x):
        assert len(x) == 1 or bool((x >= -2.5).all()), "pixels lie in [-2.5, 2.5]"
        assert len(x) != 2
        return super().forward(x)


own, tied, branching, each, extra, noisy, batched, picky = Own, Tied, Branching, Each, Extra, Noisy, Batched, Picky


def buffer(shape):
    return Drawn(shape, lambda self, drawn: self.register_buffer("drawn", drawn, persistent=False))


def attribute(shape):
    return Drawn(shape, lambda self, drawn: setattr(self, "drawn", drawn))


def elsewhere(shape):
    return Drawn(shape, lambda self, drawn: setattr(self, "drawn", torch.tensor(np.random.randn(32, 32)).float()))
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODULE)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("mine", None)


def trained(here: Path, trunk: str, **changes: object) -> Path:
    settings = tiny(**{"trunk": f"mine:{trunk}", "method": "single", "learning_rate": 0.01, **changes})
    train(settings, here / "run", data=digits())
    return here / "run"


@pytest.mark.parametrize("trunk", ["buffer", "attribute", "own", "noisy", "picky"])
def test_what_is_loaded_is_what_was_trained(trunk: str, here: Path) -> None:
    run = trained(here, trunk)
    summary = RunFolder(run).read_summary()
    torch.manual_seed(7)  # of the process that loads: nothing of the model hangs on it
    first, again = (load_model(run, trust=True) for _ in range(2))
    if trunk != "noisy":
        x = torch.rand(5, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(first(x), again(x))
        judged = judge(run, device="cpu", trust=True)
        assert judged.metrics["nll"] == pytest.approx(summary["test_nll"], rel=1e-6)
    # Of a network that draws at inference, or fails on other samples than its own, nothing is certain, and nothing kept.
    assert (summary["known_outputs"] is None) == (trunk in ("noisy", "picky"))


def test_loading_draws_nothing_from_the_generator_of_the_process(here: Path) -> None:
    run = trained(here, "buffer")
    torch.manual_seed(3)
    load_model(run, trust=True)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4), drawn)


def test_a_trunk_that_is_built_otherwise_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(here, "elsewhere")
    with pytest.raises(
        ValueError, match="is not what was trained: on two fixed inputs its outputs differ by"
    ):
        load_model(run, trust=True)
    summary = json.loads((run / "summary.json").read_text())
    for name in ("known_outputs", "checksum", "checksums"):
        del summary[name]
    (run / "summary.json").write_text(json.dumps(summary))
    load_model(run, trust=True)  # as an older version left it
    assert main(["evaluate", str(run), "--trust", "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("torch.relu(self.inside", "torch.tanh(self.inside", "outputs differ"),
        ("x.flatten(1)", "x[:, 0].flatten(1)", None),  # the same, said otherwise
        ("torch.relu(self.inside(x.flatten(1)))", "self.nothing", "fails with AttributeError"),
    ],
)
def test_code_that_was_edited_after_training(old: str, new: str, message: str | None, here: Path) -> None:
    run = trained(here, "own")
    assert old in MODULE
    if "nothing" in new:  # where it is built zeros are tried
        new = f"({old} if not x.any() else {new})"
    (here / "mine.py").write_text(MODULE.replace(old, new, 1))
    sys.modules.pop("mine", None)
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        for cache in here.glob("__pycache__/*"):
            cache.unlink()
        if message is None:
            load_model(run, trust=True)
            return
        with pytest.raises(ValueError, match=rf"run is not what was trained: .*{message}"):
            load_model(run, trust=True)
    finally:
        sys.dont_write_bytecode = before


def test_every_task_and_kind_of_input_is_known_again(tmp_path: Path) -> None:
    from _judged_helpers import CASES

    for name in ("photographs", "features", "prices", "colours", "scenes"):
        (tmp_path / name).mkdir()
        config, _ = CASES[name](tmp_path / name)
        summary = train(config, tmp_path / f"{name}-run")
        assert 2 <= len(summary["known_outputs"]) <= 16
        load_model(tmp_path / f"{name}-run")
        folder = RunFolder(tmp_path / f"{name}-run")
        others = [value + 0.1 + abs(value) for value in summary["known_outputs"]]
        folder.write_summary({**summary, "known_outputs": others})
        with pytest.raises(ValueError, match="is not what was trained"):
            load_model(folder.path)


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_tied_weights_are_kept_and_loaded_tied(method: str, here: Path) -> None:
    run = trained(here, "tied", method=method, generator_trunk="mlp")
    loaded = load_model(run, trust=True)
    inside = loaded.trunk.get_submodule("model")
    a, b = inside.get_submodule("a"), inside.get_submodule("b")
    assert a.weight is b.weight
    kept = model(run)
    assert torch.equal(kept["trunk.model.a.weight"], kept["trunk.model.b.weight"])
    assert torch.equal(kept["trunk.model.a.weight"], a.weight)  # type: ignore[arg-type]
    assert kept["trunk.model.top"].shape == (4, 8)
    summary = RunFolder(run).read_summary()
    assert judge(run, device="cpu", trust=True).metrics["nll"] == pytest.approx(summary["test_nll"], rel=1e-6)


def test_a_state_that_is_no_tensor_is_refused_before_training(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "train --data digits --train-size 100 --method single --epochs 1 --trunk mine:extra --out run"
    assert main([*line.split(), "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'_extra_state' of 'mine:extra' is dict (get_extra_state): make it a buffer" in error
    assert not (here / "run").exists()


@pytest.mark.parametrize("format", ["torch-export", "onnx"])
@pytest.mark.parametrize("trunk", ["branching", "each"])
def test_what_cannot_be_exported_is_one_line(
    trunk: str, format: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if format == "onnx" and (
        missing := [n for n in ("onnx", "onnxscript", "onnxruntime") if find_spec(n) is None]
    ):
        pytest.skip(f"needs {' and '.join(missing)}: the extra onnx")
    run = trained(here, trunk, epochs=1)
    before = files(here)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters, about themselves
        out = "m.pt2" if format == "torch-export" else "m.onnx"
        assert main(["export", str(run), "--trust", "--format", format, "--out", out]) == 2
    printed, error = capfd.readouterr()
    assert printed == ""
    assert error.count("\n") == 1, error
    assert error.startswith("maxl: error: the ")
    assert f"cannot be exported as {format}" in error or "outputs are not the model's" in error
    assert files(here) == before
    assert main(["export", str(run), "--trust"]) == 0  # the weights alone


def test_a_trunk_that_normalises_by_batches_is_told_of(here: Path) -> None:
    run = trained(here, "batched")
    from _data_helpers import pixels, write_image

    write_image(here / "a.png", pixels(1, 8, 8, channels=1)[0])
    write_image(here / "b.png", pixels(1, 8, 8, channels=1, seed=1)[0])
    (here / "c").mkdir()
    for name in "ab":
        (here / f"{name}.png").rename(here / "c" / f"{name}.png")
    with pytest.warns(RunWarning, match="normalises by the batch .*norm keeps no running statistics"):
        predict(run, here / "c", trust=True)
    with pytest.warns(RunWarning, match="depend on the others"):
        judge(run, device="cpu", trust=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        train(tiny(trunk="convnet4", method="single", epochs=1), here / "other", data=digits())
        predict(here / "other", here / "c")
