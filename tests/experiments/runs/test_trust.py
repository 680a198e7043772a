"""Code that a file names runs only where its reader says that it may."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from _data_helpers import pixels, write_image
from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.names import names_code
from maxl.experiments.runs.trainer import resume, train

OWN = """from torch import nn
open({mark!r}, "w").close()
def make(shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module that leaves a mark where it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_trunk.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    yield tmp_path
    sys.modules.pop("evil_trunk", None)


def forget(here: Path) -> None:
    """As in a new process."""
    sys.modules.pop("evil_trunk", None)
    (here / "mark").unlink(missing_ok=True)


def unsealed(run: Path) -> None:
    """As a folder that a stranger has made: no checksum is in the way."""
    folder = RunFolder(run)
    folder.config.write_text(folder.config.read_text().split("\n", 1)[1])


def test_a_typed_trunk_is_called_and_that_of_a_folder_only_with_trust(here: Path) -> None:
    config = tiny(trunk="evil_trunk:make", epochs=3)

    def cut(row: dict[str, object]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    train(config, here / "whole", data=digits())
    with pytest.raises(KeyboardInterrupt):
        train(config, here / "cut", data=digits(), report=cut)
    image = write_image(here / "a.png", pixels(1, 8, 8)[0])
    calls = {
        "resume": lambda trust: resume(here / "cut", data=digits(), trust=trust),
        "load_model": lambda trust: load_model(here / "whole", trust=trust),
        "predict": lambda trust: predict(here / "whole", image or here / "a.png", trust=trust),
        "export": lambda trust: export(here / "whole", "safetensors", here / "m.safetensors", trust=trust),
    }
    for call in calls.values():
        forget(here)
        with pytest.raises(ValueError, match=r"wants to run code, trunk 'evil_trunk:make'.*pass --trust"):
            call(False)
        assert not (here / "mark").exists()
        call(True)
        assert (here / "mark").exists()
    assert metrics(here / "cut") == metrics(here / "whole")


def test_a_downloaded_folder_runs_no_command(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny(epochs=1), here / "run", data=digits())
    folder = RunFolder(here / "run")
    unsealed(folder.path)
    text = folder.config.read_text()
    summary = json.loads(folder.summary.read_text())
    del summary["checksum"]
    for field in ("trunk: mlp", "generator_trunk: shared"):
        folder.config.write_text(text.replace(field, field.split(":")[0] + ": subprocess:call"))
        folder.summary.write_text(json.dumps({**summary, "input_shape": ["touch", str(here / "mark")]}))
        for line in ("predict run evil_trunk.py", "export run --out m.safetensors"):
            assert main(line.split()) == 2
            assert main([*line.split(), "--trust"]) == 2  # a shape is numbers in any case
        folder.summary.unlink()
        assert main(["train", "--resume", "run"]) == 2
    assert not (here / "mark").exists()
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_is_imported_from_the_folder_of_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny(trunk="evil_trunk:make", epochs=1), here / "run", data=digits())
    (here / "evil_trunk.py").rename(here / "run" / "evil_trunk.py")
    for inside in (here / "run", here / "run" / "checkpoint"):
        forget(here)
        monkeypatch.chdir(inside)
        with pytest.raises(ValueError, match="modules in a run's folder are not imported"):
            load_model(here / "run", trust=True)
        assert not (here / "mark").exists()


def test_a_config_file_needs_trust_and_a_trunk_that_is_typed_does_not(here: Path) -> None:
    tiny(trunk="evil_trunk:make", epochs=1).write(here / "c.yaml")
    with pytest.raises(ValueError, match=r"c.yaml wants to run code"):
        RunConfig.read(here / "c.yaml")
    assert RunConfig.read(here / "c.yaml", trust=True).trunk == "evil_trunk:make"
    assert main(["train", "--config", "c.yaml", "--out", "a"]) == 2
    assert not (here / "mark").exists()
    assert main(["train", "--config", "c.yaml", "--out", "b", "--trust"]) == 0
    assert main(["train", "--config", "c.yaml", "--out", "c", "--trunk", "evil_trunk:make"]) == 0
    assert main(["train", "--config", "c.yaml", "--out", "d", "--trunk", "mlp"]) == 0
    assert metrics(here / "b") == metrics(here / "c")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"trunk": "own:make"}, True),
        ({"generator_trunk": "own:make"}, True),
        ({"transform": ["RandAugment", "own:noisy"]}, True),
        ({"transform": ("own:noisy",)}, True),
        ({"trunk": "timm:resnet18", "generator_trunk": "own"}, False),
        ({"trunk": "hf:google/vit", "transform": ["RandAugment"]}, False),
        ({}, False),
    ],
)
def test_what_names_code(values: dict[str, object], code: bool) -> None:
    assert names_code(values) is code
