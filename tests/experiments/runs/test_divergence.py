"""A run whose losses or weights are not finite has diverged, on every device, and says so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.report import write_report
from maxl.experiments.runs.checkpoint import load_checkpoint
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import Trainer, resume, train


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check in each step: it would wait for the device."""
    import maxl.experiments.runs.build as build

    for name in ("MultiTaskLearner", "MetaAuxiliaryLearner"):
        kind = getattr(build, name)
        monkeypatch.setattr(build, name, lambda *a, kind=kind, **k: kind(*a, **{**k, "check_finite": False}))


@pytest.mark.parametrize("method", ["single", "maxl", "kmeans"])
def test_a_run_that_no_step_checks_ends_as_diverged(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_gpu(monkeypatch)
    config = tiny(method=method, optimizer="sgd", learning_rate=1e6, epochs=3)
    with pytest.raises(FloatingPointError, match=r"needs? to be finite"):
        train(config, tmp_path / "run", data=digits())
    folder = RunFolder(tmp_path / "run")
    assert (folder.diverged, folder.finished, folder.model.exists()) == (True, False, False)
    assert folder.read_divergence().startswith("diverged in epoch 1: the ")
    with pytest.raises(
        ValueError, match=r"needs a run that can go on; .* diverged in epoch 1: .*and would again"
    ):
        resume(tmp_path / "run", data=digits())


@pytest.mark.parametrize("setting", ["learning_rate", "weight_decay"])
def test_numbers_that_float32_does_not_hold_end_a_run_as_diverged(setting: str, tmp_path: Path) -> None:
    config = tiny(method="single", **{setting: 1e300})
    with pytest.raises(FloatingPointError, match=r"numbers that float32 holds; .* lower --learning-rate"):
        train(config, tmp_path / "run", data=digits())
    assert (
        RunFolder(tmp_path / "run").read_divergence().startswith("diverged in epoch 1: a step needs numbers")
    )


@pytest.mark.parametrize("part", ["network", "generator"])
def test_weights_that_are_not_finite_are_noticed_and_the_checkpoint_before_is_kept(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer(tiny(epochs=4), RunFolder(tmp_path), digits())
    before = run._run_epoch

    def spoil() -> dict[str, Any]:
        row = before()
        if run.epoch == 3:
            next(getattr(run.setup, part).parameters()).data[0] = torch.inf
        return row

    monkeypatch.setattr(run, "_run_epoch", spoil)
    with pytest.raises(FloatingPointError, match=r"weights of the .* need to be finite"):
        run.fit()
    assert RunFolder(tmp_path).read_divergence().startswith("diverged in epoch 3: the weights")
    assert [row["epoch"] for row in metrics(tmp_path)] == [1, 2]
    state = load_checkpoint(RunFolder(tmp_path), run.identity)
    assert state is not None
    assert state["epoch"] == 2


def test_a_test_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    data = digits()
    x = torch.full((4, 64), torch.inf)
    test = dataclasses.replace(data.test.select(torch.arange(4)), x=x)
    flat = dataclasses.replace(data.train, x=data.train.x.flatten(1).float())
    with pytest.raises(FloatingPointError, match="the test loss needs to be finite"):
        train(
            tiny(method="single"),
            tmp_path,
            data=dataclasses.replace(data, train=flat, test=test, mean=(0.0,), std=(1.0,)),
        )


def test_the_report_names_runs_that_diverged(tmp_path: Path) -> None:
    train(tiny(epochs=1, method="single"), tmp_path / "good", data=digits())
    with pytest.raises(FloatingPointError):
        train(tiny(method="single", learning_rate=1e30), tmp_path / "bad", data=digits())
    page = write_report(tmp_path).read_text()
    assert "Left out, because it diverged in epoch 1: the training loss" in page
    early = tiny(method="kmeans", cluster_features="trunk", optimizer="sgd", learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="--cluster-features trunk needs a single-task network"):
        train(early, tmp_path / "early", data=digits())
    shown = "diverged before its first epoch: --cluster-features trunk needs"
    assert f"Left out, because it {shown}" in write_report(tmp_path).read_text()
    with pytest.raises(ValueError, match=f"needs a run that can go on; .* {shown}"):
        resume(tmp_path / "early", data=digits())
    shutil.rmtree(tmp_path / "early")
    (tmp_path / "good" / "summary.json").unlink()
    with pytest.raises(ValueError, match="holds none, only 1 unfinished and 1 diverged"):
        write_report(tmp_path)


def test_a_divergence_file_of_another_kind_is_named(tmp_path: Path) -> None:
    train(tiny(epochs=1), tmp_path, data=digits())
    (tmp_path / "diverged.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"diverged.json needs to hold JSON objects"):
        write_report(tmp_path)
