"""Runs that start from another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import Interrupted, digits, interrupt_after, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import Trainer, train
from maxl.experiments.studies.study import Study


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
        ({"method": "maxl", "generator_trunk": "own"}, "another --generator-trunk"),
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


def mixed(rows: range) -> str:
    """Numbers, categories with missing ones, dates and text, which later rows alone would let pass for categories."""
    words = ("apple pear plum", "bus car train", "blue green red")
    lines = ["size,kind,when,note,label"]
    for i in rows:
        k = i % 3
        some = words[k].split()
        kind = "" if i % 17 == 3 else "abc"[(i * i // 5) % 3]
        lines.append(
            f"{i * 0.37 % 5 + k},{kind},20{20 + i % 5}-0{1 + i % 9}-11,{some[i % 2]} {some[2]} n{i if i < 90 else i % 5},{'xyz'[k]}"
        )
    return "\n".join(lines) + "\n"


def texts(rows: range) -> str:
    """A table of one text column."""
    return "\n".join(["note,label", *(line.split(",", 3)[3] for line in mixed(rows).splitlines()[1:])]) + "\n"


@pytest.mark.parametrize("table", [mixed, texts])
def test_columns_become_features_as_the_earlier_run_made_them(
    table: Callable[[range], str], tmp_path: Path
) -> None:
    """Fitted anew, the same row would be another input: without a step, its prediction has to stay what it was."""
    (tmp_path / "old.csv").write_text(table(range(90)))
    (tmp_path / "new.csv").write_text(table(range(500, 560)))
    shared: dict[str, Any] = {"primary": "label", "train_size": None, "batch_size": 10, "method": "single"}
    train(tiny(data=str(tmp_path / "old.csv"), **shared), tmp_path / "old")
    of_new = {**shared, "learning_rate": 1e-12, "epochs": 1}
    train(tiny(data=str(tmp_path / "new.csv"), from_run=str(tmp_path / "old"), **of_new), tmp_path / "new")
    before, after = (predict(tmp_path / run, tmp_path / "new.csv", proba=True) for run in ("old", "new"))
    assert [p.name for p in after] == [p.name for p in before]
    for a, b in zip(after, before, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    train(tiny(data=str(tmp_path / "new.csv"), **of_new), tmp_path / "anew")
    assert [p.probabilities for p in predict(tmp_path / "anew", tmp_path / "new.csv", proba=True)] != [
        p.probabilities for p in after
    ]


def test_what_a_run_cannot_start_from(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--from needs the folder of a finished run; .* holds none"):
        load_data(tiny(from_run=str(tmp_path)))
    with pytest.raises(ValueError, match=r"has the trunk mlp; got --trunk convnet4: leave --trunk out"):
        start_of(tiny(from_run=str(earlier), trunk="convnet4"), tmp_path, digits())
    features = tmp_path / "t.csv"
    features.write_text("a,b,y\n" + "".join(f"{i},{i * i},{'uv'[i % 2]}\n" for i in range(30)))
    with pytest.raises(ValueError, match=r"--from .* takes images; .* has samples of shape \(2,\)"):
        load_data(tiny(data=str(features), primary="y", train_size=None, from_run=str(earlier)))
    with pytest.raises(Interrupted):
        train(tiny(epochs=3), tmp_path / "cut", data=digits(), report=interrupt_after(2))
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
