"""--fast: what it sets on which device, what was typed goes before it, and what it gains is measured on what it sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from _run_helpers import TINY, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs import fast
from maxl.experiments.runs.checking import Case, run_gain
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.fast import fast_settings, slower, told
from maxl.experiments.runs.processes import Processes

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def test_only_what_a_gpu_has_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        settings = fast_settings(tiny(method="maxl"), CUDA)
        assert settings.get("precision") == ("bf16" if native else None)
        assert settings["compile"]
    assert fast_settings(tiny(), CPU) == {}
    assert "nothing is both faster and safe on every cpu" in told({}, CPU)


def test_what_torchrun_starts_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = tiny(method="maxl")
    settings = fast_settings(config, CUDA)
    assert settings == {"channels_last": True, "precision": "bf16"}
    Processes(0, 2).check(RunConfig.from_dict({**config.to_dict(), **settings}))


def test_what_cannot_be_compiled_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    config = tiny(method="gated")
    settings = fast_settings(config, CUDA)
    assert "compile" not in settings
    RunConfig.from_dict({**config.to_dict(), **settings})  # is no contradiction
    with pytest.raises(ValueError, match="compile"):
        RunConfig.from_dict({**config.to_dict(), "compile": True})


def test_what_is_typed_goes_before_it_and_a_run_says_what_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fast, "fast_settings", lambda config, device: {"precision": "bf16", "workers": 7})
    flags = ["--data", "digits", "--train-size", "60", "--epochs", "1", "--trunk", "mlp", "--device", "cpu"]
    assert main(["train", *flags, "--fast", "--workers", "3", "--out", str(tmp_path / "run")]) == 0
    assert "note: --fast: precision bf16\n" in capsys.readouterr().err
    config = RunConfig.read(tmp_path / "run/config.yaml")
    assert (config.precision, config.workers) == ("bf16", 3)
    assert main(["train", "--resume", str(tmp_path / "run"), "--fast"]) == 2
    assert "--resume takes a run's settings from its folder" in capsys.readouterr().err


def test_on_a_cpu_it_changes_no_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**TINY, "epochs": 1, "method": "single"}
    flags = [
        "--data",
        "digits",
        "--train-size",
        "100",
        "--trunk",
        "mlp",
        "--psi",
        "3",
        "--epochs",
        "1",
        "--batch-size",
        "25",
    ]
    rest = ["--method", "single", "--no-tensorboard", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", *flags, *rest, "--fast"]) == 0
    assert RunConfig.read(tmp_path / "run/config.yaml") == RunConfig.from_dict(values)
    assert "--fast: nothing is both faster and safe" in capsys.readouterr().err


def test_the_gain_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case("mlp", (6,), 3, 2, 16, learning_rate=0.1)
    nothing = run_gain(case, {}, repeats=2)
    assert nothing.difference == 0.0  # the same iteration twice
    lower = run_gain(case, {"precision": "bf16"}, repeats=2)
    assert 1e-4 < lower.difference < 0.3  # of three digits of bf16
    assert min(lower.seconds, lower.fast_seconds) > 0
    assert "precision bf16:" in str(lower)
    assert main(["check", "--trunk", "mlp", "--shape", "6", "--device", "cpu"]) == 0
    assert "--fast: nothing is both faster and safe on every cpu" in capsys.readouterr().out


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_that_a_processor_imitates_is_told(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has, raising=False)
    told = slower(RunConfig(precision="bf16"), torch.device("cpu"))
    assert ("imitates it" in told) is not has
    assert slower(RunConfig(), torch.device("cpu")) == ""
    assert slower(RunConfig(precision="bf16"), torch.device("cuda")) == ""
