"""Runs that start from weights of others, learn at several rates, and keep their best epoch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from _run_helpers import digits, files, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.methods import METHODS
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.rates import Schedule
from maxl.experiments.runs.start import told
from maxl.experiments.runs.trainer import Trainer, resume, train
from maxl.experiments.studies.study import Study


class Interrupted(Exception):
    """Stands for a power cut."""


def cut_after(epoch: int) -> Any:
    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Interrupted

    return report


def trunk_of(run: Path) -> dict[str, torch.Tensor]:
    return {n.removeprefix("trunk."): t for n, t in model(run).items() if n.startswith("trunk.")}


def write_weights(file: Path, *, before: str = "", **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights of an mlp trunk in a file, and returned."""
    torch.manual_seed(7)
    weights = Trainer(
        tiny(method="single", seed=9), RunFolder(file.parent / "none"), digits()
    ).setup.network.trunk
    state = {name: t + 0.01 for name, t in weights.state_dict().items()}
    save_file({**{before + name: t for name, t in state.items()}, **more}, file)
    return state


def with_validation(**changes: Any) -> tuple[RunConfig, DataSet]:
    config = tiny(validation_size=60, **changes)
    return config, load_data(config)


# Schedules and rates.


def test_rates_rise_step_by_step_and_then_fall_over_what_is_left() -> None:
    schedule = Schedule("cosine", epochs=6, warmup=2)
    rising = [schedule(epoch, step, 5) for epoch in range(2) for step in range(5)]
    assert rising == pytest.approx([(i + 1) / 10 for i in range(10)])
    without = Schedule("cosine", epochs=4)
    assert [schedule(e, 0, 5) for e in range(2, 6)] == [without(e) for e in range(4)]
    half = Schedule("constant", epochs=2, warmup=0.5)
    assert [half(0, step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert half(1, 0, 4) == 1.0


def test_each_part_of_a_run_has_its_rate_and_all_follow_the_schedule(tmp_path: Path) -> None:
    config = tiny(trunk="convnet4", learning_rate=0.1, trunk_learning_rate=0.02, layer_decay=0.5, warmup=1)
    setup = Trainer(config, RunFolder(tmp_path), digits()).setup
    assert setup.set_learning_rates(0, 1, 4) == pytest.approx(0.05)
    found = [group["lr"] for group in setup.optimizers[0].param_groups]
    assert found == pytest.approx([0.01 / 16, 0.01 / 8, 0.01 / 4, 0.01 / 2, 0.05])
    assert setup.optimizers[1].param_groups[0]["lr"] == pytest.approx(config.meta_learning_rate / 2)
    held = {id(p) for group in setup.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in setup.network.parameters()}


# Freezing.


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_frozen_parts_of_a_run_end_as_they_began(method: str, tmp_path: Path) -> None:
    config = tiny(method=method, trunk="convnet4", freeze=["layers.0", "layers.1", "layers.4"], epochs=1)
    run = Trainer(config, RunFolder(tmp_path), digits())
    before = {name: t.clone() for name, t in run.setup.network.trunk.state_dict().items()}
    run.fit()
    after = trunk_of(tmp_path)
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not moved & {"0", "1", "4"}


def test_a_frozen_trunk_is_for_methods_without_labels(tmp_path: Path) -> None:
    run = Trainer(tiny(method="single", trunk="convnet4", freeze=["trunk"]), RunFolder(tmp_path), digits())
    before = {name: t.clone() for name, t in run.setup.network.trunk.state_dict().items()}
    run.fit()
    assert all(torch.equal(t, before[name]) for name, t in trunk_of(tmp_path).items())
    for parts in (["trunk"], ["layers"]):
        with pytest.raises(
            ValueError, match=r"nothing of the trunk to train.*labels of --method uniform could change"
        ):
            Trainer(
                tiny(method="uniform", trunk="convnet4", freeze=parts), RunFolder(tmp_path / "no"), digits()
            )


# The best epoch.


def best_of(rows: list[dict[str, Any]], key: str, sign: int = 1) -> int:
    values = [sign * row[key] for row in rows]
    return values.index(max(values)) + 1


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
            train(config, tmp_path / f"cut{epoch}", data=data, report=cut_after(epoch))
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


# A file of weights.


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_a_file(method: str, tmp_path: Path) -> None:
    from test_trainer import DATA

    state = write_weights(
        tmp_path / "w.safetensors", before="backbone.", **{"fc.weight": torch.zeros(3, 256)}
    )
    config = tiny(method=method, weights=str(tmp_path / "w.safetensors"), learning_rate=1e-12, epochs=1)
    config = dataclasses.replace(config, optimizer="sgd")
    summary = train(config, tmp_path / "run", data=DATA)
    for name, tensor in trunk_of(tmp_path / "run").items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=1e-6)
    assert summary["start"]["left"] == ["fc (1 tensor)"]
    assert summary["start"]["from"] == f"file {tmp_path / 'w.safetensors'}"
    assert json.loads((tmp_path / "run/start.json").read_text()) == summary["start"]
    assert "start.json" in files(tmp_path / "run")
    assert "left out: fc (1 tensor)" in told(summary["start"])


def test_a_run_is_continued_with_the_weights_that_it_began_with(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    write_weights(file)
    config = tiny(method="maxl", epochs=3, weights=str(file), evaluate="next")
    train(config, tmp_path / "whole", data=digits())
    for epoch in (1, 2):  # before the first checkpoint, and after it
        with pytest.raises(Interrupted):
            train(config, tmp_path / f"cut{epoch}", data=digits(), report=cut_after(epoch))
        content = file.read_bytes()
        save_file({name: t + 1 for name, t in write_weights(file).items()}, file)
        with pytest.raises(
            ValueError, match=r"w.safetensors has changed since .*cut\d was started from it: put it back"
        ):
            resume(tmp_path / f"cut{epoch}", data=digits())
        file.unlink()
        with pytest.raises(ValueError, match=r"--weights needs a file; .* does not exist"):
            resume(tmp_path / f"cut{epoch}", data=digits())
        file.write_bytes(content)
        resume(tmp_path / f"cut{epoch}", data=digits())
        assert metrics(tmp_path / f"cut{epoch}") == metrics(tmp_path / "whole")
    file.unlink()
    load_model(tmp_path / "whole")  # which has weights of its own


# Another run.


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("earlier") / "run"
    train(tiny(method="maxl", epochs=1, seed=3), out, data=digits())
    return out


def start_of(config: RunConfig, path: Path, data: DataSet) -> Trainer:
    return Trainer(config, RunFolder(path), data)


def test_trunk_heads_and_generator_of_a_run_are_taken_where_they_fit(earlier: Path, tmp_path: Path) -> None:
    run = start_of(tiny(method="gated", from_run=str(earlier)), tmp_path, digits())
    weights = model(earlier)
    state = torch.load(earlier / "checkpoint/state.pt", weights_only=True)
    found = run.setup.network.state_dict()
    assert all(torch.equal(found[name], t) for name, t in weights.items())
    assert all(torch.equal(found[name], t) for name, t in state["network"].items())
    assert all(torch.equal(t, state["generator"][n]) for n, t in run.setup.generator.state_dict().items())  # type: ignore[union-attr]
    assert run.start is not None
    assert run.start.record()["left"] == []
    assert run.setup.optimizers[0].state == {}  # that is what --resume is for


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"method": "single"}, "--method single has none"),
        ({"method": "kmeans"}, "method maxl, not kmeans"),
        ({"method": "weighted"}, "method maxl, not weighted"),
        ({"method": "maxl", "psi": [4]}, "another psi"),
        ({"method": "maxl", "generator_trunk": "shared"}, "another --generator-trunk"),
        ({"method": "frozen"}, "method maxl, not frozen"),
    ],
)
def test_what_does_not_fit_is_left_and_said(
    changes: dict[str, Any], left: str, earlier: Path, tmp_path: Path
) -> None:
    run = start_of(tiny(from_run=str(earlier), **changes), tmp_path, digits())
    assert run.start is not None
    assert run.start.record()["left"] == [f"auxiliary head and label generator ({left})"]
    fresh = start_of(tiny(**changes), tmp_path, digits())
    ours, theirs = (r.setup.network.auxiliary_head.state_dict() for r in (run, fresh))
    assert all(torch.equal(t, theirs[name]) for name, t in ours.items())


def test_classes_in_another_order_are_put_in_order_and_others_are_left(earlier: Path, tmp_path: Path) -> None:
    names = tuple(reversed(digits().primary_names))
    data = dataclasses.replace(digits(), primary_names=names)
    run = start_of(tiny(method="maxl", from_run=str(earlier)), tmp_path, data)
    x = digits().test.x[:20].float() / 255
    with torch.no_grad():
        outputs = run.setup.network.eval().predict((x - 0.5) / 0.2)
        expected = load_model(earlier)(digits().test.x[:20])
    torch.testing.assert_close(outputs, expected.flip(1), rtol=1e-4, atol=1e-5)
    assert run.start is not None
    record = run.start.record()
    assert record["taken"][1] == "primary head (the same 10 classes, put in order)"
    assert record["left"] == ["auxiliary head and label generator (other classes, or in another order)"]
    other = dataclasses.replace(digits(), primary_names=(*names[:9], "new"))
    run = start_of(tiny(method="single", from_run=str(earlier)), tmp_path, other)
    assert run.start is not None
    assert run.start.record()["left"][0] == "primary head (other classes)"


def test_numbers_of_another_spread_are_predicted_as_before(tmp_path: Path) -> None:
    """The columns are standardised as the earlier run did it, and its head speaks the new units."""
    torch.manual_seed(0)
    rows = torch.randn(60, 2).tolist()
    for name, scale, shift in (("old", 1.0, 0.0), ("new", 3.0, 5.0)):
        lines = [f"{scale * a + shift:.4f},{b:.4f},{a + b + shift:.4f}" for a, b in rows]
        (tmp_path / f"{name}.csv").write_text("a,b,y\n" + "\n".join(lines) + "\n")
    shared: dict[str, Any] = {"primary": "y", "train_size": None, "batch_size": 10, "method": "single"}
    train(tiny(data=str(tmp_path / "old.csv"), **shared), tmp_path / "old")
    config = tiny(data=str(tmp_path / "new.csv"), from_run=str(tmp_path / "old"), **shared)
    run = Trainer(config, RunFolder(tmp_path / "new"))
    assert run.data.targets != load_data(tiny(data=str(tmp_path / "old.csv"), **shared)).targets
    assert run.data.features == load_data(tiny(data=str(tmp_path / "old.csv"), **shared)).features
    earlier = load_model(tmp_path / "old")
    raw = torch.tensor(rows[:7], dtype=torch.float64)
    raw[:, 0] = 3 * raw[:, 0] + 5
    targets = run.data.targets
    assert targets is not None
    with torch.no_grad():
        ours = run.setup.network.eval().predict(earlier.normalise(raw)).double()
        expected = earlier(raw)
    torch.testing.assert_close(ours * targets.std[0] + targets.mean[0], expected, rtol=1e-4, atol=1e-4)
    run.fit()
    again = load_model(tmp_path / "new")
    with torch.no_grad():
        found = again(raw)
    torch.testing.assert_close(found, expected, rtol=1, atol=5)  # a short training away
    (tmp_path / "c.csv").write_text((tmp_path / "new.csv").read_text().replace("a,b,y", "a,c,y"))
    with pytest.raises(ValueError, match=r"of the same columns in the same order; .*c.csv' differs in 'b'"):
        load_data(dataclasses.replace(config, data=str(tmp_path / "c.csv")))


def test_what_a_run_cannot_start_from(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--from needs the folder of a finished run; .* holds none"):
        load_data(tiny(from_run=str(tmp_path)))
    with pytest.raises(ValueError, match=r"has the trunk mlp; got --trunk resmlp: leave --trunk out"):
        start_of(tiny(from_run=str(earlier), trunk="resmlp"), tmp_path, digits())
    features = tmp_path / "t.csv"
    features.write_text("a,b,y\n" + "".join(f"{i},{i * i},{'uv'[i % 2]}\n" for i in range(30)))
    with pytest.raises(ValueError, match=r"--from .* takes images; .* has samples of shape \(2,\)"):
        load_data(tiny(data=str(features), primary="y", train_size=None, from_run=str(earlier)))
    with pytest.raises(Interrupted):
        train(tiny(epochs=3), tmp_path / "cut", data=digits(), report=cut_after(2))
    with pytest.raises(ValueError, match=r"finished run; .* is not: continue it with maxl train --resume"):
        load_data(tiny(from_run=str(tmp_path / "cut")))


OWN = """from torch import nn
open({mark!r}, "w").close()
def make(shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
"""


def test_code_that_another_folder_names_is_run_only_with_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    (tmp_path / "warm_trunk.py").write_text(OWN.format(mark=str(mark)))
    words = "--data digits --train-size 50 --epochs 1 --batch-size 25 --method single --no-tensorboard --device cpu"
    assert main(f"train {words} --trunk warm_trunk:make --out a".split()) == 0
    for more, code in (("", 2), (" --trust", 0), (" --trunk warm_trunk:make", 0)):
        sys.modules.pop("warm_trunk", None)
        mark.unlink(missing_ok=True)
        capsys.readouterr()
        assert main(f"train {words} --from a --out b{len(more)}{more}".split()) == code
        assert mark.exists() == (code == 0)
        error = capsys.readouterr().err
        assert ("wants to run code" in error) == (code == 2)
    sys.modules.pop("warm_trunk", None)
    assert not (tmp_path / "b0").exists()
    assert RunFolder(tmp_path / "b8").read_config(trust=True).trunk == "warm_trunk:make"


# Studies, config files, and what is refused on the command line.


def test_a_study_takes_the_options_and_its_runs_the_trunk_of_the_run_they_start_from(
    earlier: Path, tmp_path: Path
) -> None:
    base = tiny(trunk="auto", from_run=str(earlier), warmup=0.5, layer_decay=0.9, freeze=["layers.1"])
    study = Study(base, ["uniform"], [0])
    said: list[str] = []
    results = study.run(tmp_path / "study", jobs=1, tell=said.append)
    assert set(results["trunk"]) == {"mlp"}
    assert any(f"starts from run {earlier}: trunk" in line for line in said)
    config = RunFolder(tmp_path / "study/runs/uniform/seed0").read_config()
    assert (config.trunk, config.from_run, config.freeze) == ("mlp", str(earlier), ("layers.1",))
    study.run(tmp_path / "study", jobs=1)  # finished as it is


def test_the_options_survive_a_config_file(tmp_path: Path) -> None:
    config = tiny(
        **{"from_run": "a", "freeze": ["layers.0"], "layer_decay": 0.75, "trunk_learning_rate": 1e-4},
        **{"warmup": 2.0, "epochs": 9, "patience": 3, "keep": "best", "validation_size": 0.2},
        **{"trunk_output": "0", "trunk_pool": "mean", "normalisation": "model"},
    )
    config.write(tmp_path / "c.yaml")
    assert RunConfig.read(tmp_path / "c.yaml") == config


def test_a_folder_of_an_older_version_still_loads(tmp_path: Path) -> None:
    train(tiny(method="single", epochs=1), tmp_path, data=digits())
    folder = RunFolder(tmp_path)
    new = (
        "pretrained",
        "weights",
        "from_run",
        "normalisation",
        "freeze",
        "trunk_learning_rate",
        "layer_decay",
    )
    new += ("warmup", "patience", "keep", "trunk_output", "trunk_pool")
    lines = folder.config.read_text().splitlines()[1:]
    old = [line for line in lines if line.split(":")[0] not in new]
    assert len(lines) - len(old) == len(new)
    folder.config.write_text("\n".join(old) + "\n")
    assert isinstance(load_model(tmp_path), nn.Module)
    assert folder.read_config() == tiny(method="single", epochs=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--weights a.pt --from b", "starts from one set of weights; got --weights and --from: drop one"),
        ("--weights none.pt", "--weights needs a file; none.pt does not exist"),
        ("--pretrained --trunk mlp", "--pretrained needs a model that comes with weights: --trunk timm:NAME"),
        ("--normalisation model --trunk mlp", "--normalisation model needs a model that comes with weights"),
        ("--from none", "--from needs the folder of a finished run; none holds none"),
        ("--patience 2", "--patience goes by samples that are neither trained on nor tested"),
        ("--keep best", "--keep best goes by samples"),
        ("--keep first", "--keep"),
        ("--patience 0 --validation-size 10", "--patience needs to be at least 1"),
        ("--warmup 2", "--warmup needs to end before the last of 2 epochs; got 2"),
        ("--warmup -1", "--warmup needs to be at least 0"),
        ("--layer-decay 1.5", "--layer-decay needs to be above 0 and at most 1; got 1.5"),
        ("--trunk-learning-rate 0", "--trunk-learning-rate needs to be above 0"),
        ("--freeze layers.9 --trunk mlp", "--freeze: what is frozen needs to be a part of the trunk"),
        ("--freeze trunk --trunk mlp", "--freeze leaves nothing of the trunk to train"),
        ("--freeze trunk --layer-decay 0.5", "--layer-decay is of a trunk that is trained"),
        ("--trunk-output 0 --trunk mlp", "--trunk-output goes with --trunk module:function or hf:NAME"),
        ("--trunk-pool last", "--trunk-pool"),
        ("--trunk timm:resnet17", "unknown trunk 'timm:resnet17'"),
        (
            "--trunk torchvision:resnet17",
            "unknown trunk 'torchvision:resnet17'; did you mean 'torchvision:resnet1",
        ),
    ],
)
def test_what_does_not_go_is_refused_in_one_line(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = "train --data digits --train-size 50 --epochs 2 --method uniform --device cpu --out run"
    assert main([*shared.split(), *words.split()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("maxl: error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_clusters_of_a_trained_trunk_go_without_stopping() -> None:
    for more in ({"patience": 1}, {"keep": "best"}):
        with pytest.raises(
            ValueError, match="--cluster-features trunk trains a single-task network to its last"
        ):
            tiny(method="kmeans", cluster_features="trunk", validation_size=20, **more)
