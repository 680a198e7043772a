"""Runs that keep their best epoch, and end when no better one is awaited."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from _fine_tuning_helpers import with_validation
from _run_helpers import Interrupted, interrupt_after, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import Trainer, resume, train


def best_of(rows: list[dict[str, Any]], key: str, sign: int = 1) -> int:
    values = [sign * row[key] for row in rows]
    return values.index(max(values)) + 1


@pytest.mark.parametrize("choice", [{"keep": "best"}, {"patience": 3}])
def test_without_a_sample_to_validate_by_there_is_no_best_epoch(
    choice: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny(method="single", validation_size=0.0003, **choice)
    with pytest.raises(
        ValueError, match=r"need a sample to validate by; --validation-size 0\.0003 leaves none"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_the_network_of_the_best_epoch_is_kept(method: str, tmp_path: Path) -> None:
    # A rate so high that results go up and down.
    config, data = with_validation(
        method=method, keep="best", epochs=5, learning_rate=0.1, decay="constant", seed=2
    )
    summary = train(config, tmp_path / "run", data=data)
    rows = metrics(tmp_path / "run")
    kept = best_of(rows, "validation_accuracy")
    assert kept < 5
    assert summary["kept_epoch"] == kept
    assert summary["kept_because"] == "--keep best: the best validation_accuracy"
    for name in ("validation_accuracy", "test_accuracy", "test_nll", "train_accuracy"):
        assert summary[name] == rows[kept - 1][name]
    # The same as a run that ends there, whose schedule is constant.
    train(dataclasses.replace(config, epochs=kept), tmp_path / "short", data=data)
    assert all(torch.equal(t, model(tmp_path / "short")[name]) for name, t in model(tmp_path / "run").items())
    loaded = load_model(tmp_path / "run")
    with torch.no_grad():
        correct = (loaded(data.test.x).argmax(1) == data.test.primary).double().mean()
    assert float(correct) == summary["test_accuracy"]


def test_a_regression_is_kept_by_its_own_measure_and_seldom_looks_change_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = "\n".join(f"{a:.4f},{b:.4f},{a * b:.4f}" for a, b in torch.randn(80, 2).tolist())
    (tmp_path / "t.csv").write_text(f"a,b,y\n{table}\n")
    shared = {"data": str(tmp_path / "t.csv"), "primary": "y", "train_size": None, "validation_size": 20}
    more = {"method": "single", "keep": "best", "learning_rate": 0.1, "decay": "constant", "epochs": 5}
    for every in (1, 4):
        config = tiny(**shared, **more, look_every=every, batch_size=10)
        summary = train(config, tmp_path / str(every))
        assert summary["kept_epoch"] == best_of(metrics(tmp_path / str(every)), "validation_r2")
        assert summary["test_rmse"] > 0
    assert (tmp_path / "1/model.safetensors").read_bytes() == (tmp_path / "4/model.safetensors").read_bytes()
    first, second = (RunFolder(tmp_path / n).read_summary() for n in "14")
    assert {n: first[n] for n in ("test_r2", "test_rmse", "kept_epoch")} == {
        n: second[n] for n in ("test_r2", "test_rmse", "kept_epoch")
    }


STOPPED: dict[str, dict[str, Any]] = {
    "single": {"method": "single", "keep": "best"},
    "last epoch": {"method": "uniform"},
    "maxl": {"keep": "best", "evaluate": "next", "warmup": 0.5, "freeze": ["layers.1"]},
}


@pytest.mark.parametrize("changes", STOPPED.values(), ids=STOPPED)
def test_patience_ends_a_run_and_an_interruption_leaves_no_trace(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config, data = with_validation(
        **{
            "patience": 1,
            "epochs": 8,
            "learning_rate": 0.05,
            "decay": "constant",
            "method": "maxl",
            **changes,
        }
    )
    whole = train(config, tmp_path / "whole", data=data)
    rows = metrics(tmp_path / "whole")
    best = best_of(rows, "validation_accuracy")
    assert len(rows) < 8
    assert len(rows) == best + 1
    assert (whole["epochs"], whole["epochs_trained"]) == (8, len(rows))
    assert whole["kept_epoch"] == (best if config.keep == "best" else len(rows))
    assert "1 without a better validation_accuracy" in whole["kept_because"]
    for epoch in {1, len(rows)}:  # also after the last, whose checkpoint is not written yet
        with pytest.raises(Interrupted):
            train(config, tmp_path / f"cut{epoch}", data=data, report=interrupt_after(epoch))
        resumed = resume(tmp_path / f"cut{epoch}", data=data)
        assert metrics(tmp_path / f"cut{epoch}") == rows
        assert {n: resumed[n] for n in ("kept_epoch", "kept_because", "test_accuracy")} == {
            n: whole[n] for n in ("kept_epoch", "kept_because", "test_accuracy")
        }
        expected, found = (
            (tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", f"cut{epoch}")
        )
        assert found == expected


def test_a_run_that_was_killed_before_its_summary_writes_the_same_one(tmp_path: Path) -> None:
    config, data = with_validation(method="maxl", keep="best", patience=1, learning_rate=0.05, epochs=8)
    whole = train(config, tmp_path, data=data)
    weights = (tmp_path / "model.safetensors").read_bytes()
    for name in ("summary.json", "model.safetensors", "snapshot.npz"):
        (tmp_path / name).unlink()
    again = resume(tmp_path, data=data)
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    left = {"seconds_total", "seconds_per_step", "peak_memory_bytes", "checksum", "checksums"}
    assert {n: v for n, v in again.items() if n not in left} == {
        n: v for n, v in whole.items() if n not in left
    }


def test_labels_are_those_of_the_generator_of_the_epoch_that_was_kept(tmp_path: Path) -> None:
    config, data = with_validation(method="maxl", keep="best", patience=1, learning_rate=0.05, epochs=8)
    train(config, tmp_path / "run", data=data)
    state = torch.load(tmp_path / "run/checkpoint/state.pt", weights_only=True)
    kept, last = state["best"]["generator"], state["generator"]
    assert any(not torch.equal(t, last[name]) for name, t in kept.items())
    from _data_helpers import pixels, write_image

    (tmp_path / "images" / "3").mkdir(parents=True)
    write_image(tmp_path / "images" / "3" / "a.png", pixels(1, 8, 8)[0])
    labels = invent(tmp_path / "run", tmp_path / "images", device="cpu").labels
    run = Trainer(config, RunFolder(tmp_path / "other"), data)
    run.setup.generator.load_state_dict(kept)  # type: ignore[union-attr]
    run.setup.generator.eval()  # type: ignore[union-attr]
    x = torch.from_numpy(pixels(1, 8, 8)).movedim(-1, 1) if pixels(1, 8, 8).shape[-1] in (1, 3) else None
    assert labels.shape == (1, 30)
    assert x is None or labels.isfinite().all()
