"""Runs that learn at several rates, start from weights in a file, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from _fine_tuning_helpers import trunk_of, write_weights
from _run_helpers import Interrupted, digits, files, interrupt_after, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.rates import Schedule
from maxl.experiments.runs.start import told
from maxl.experiments.runs.trainer import Trainer, resume, train

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


# A file of weights.


@pytest.mark.parametrize(
    "method", ["single", "uniform", "kmeans", "prototypical", "human", "maxl", "wamal", "gce"]
)
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
            train(config, tmp_path / f"cut{epoch}", data=digits(), report=interrupt_after(epoch))
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


# Studies, config files, and what is refused on the command line.


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
