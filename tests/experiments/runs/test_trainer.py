"""A run: its folder, what trains when and on what, and what is reported."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import maxl
from _run_helpers import digits, files, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from _trainer_helpers import DATA, trainer
from maxl.experiments.cli.show import run_table
from maxl.experiments.data import evaluation_batches
from maxl.experiments.report.final import cost
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.style import looks
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import evaluating
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.methods import HUMAN_METHODS, LEARNED_METHODS, METHODS, NOISE_METHODS
from maxl.experiments.runs.outer import folds, split_off
from maxl.experiments.runs.trainer import Trainer, train
from maxl.experiments.studies.variants import irrelevant_fields
from maxl.learning import MetaAuxiliaryLearner


@pytest.mark.parametrize("method", [m for m in METHODS if m not in NOISE_METHODS])
def test_every_method_trains_and_writes_the_whole_folder(method: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    summary = train(tiny(method=method, trunk="convnet4"), out, data=DATA)
    assert files(out) == [
        *(".lock", "checkpoint", "checkpoint/previous.pt", "checkpoint/state.pt"),
        *("config.yaml", "metrics.jsonl"),
        *("model.safetensors", "snapshot.npz", "summary.json"),
    ]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["method"], summary["seed"], summary["data"]) == (method, 0, "digits")
    assert 0 <= summary["test_accuracy"] <= 1
    assert summary["seconds_per_step"] > 0
    assert summary["peak_memory_bytes"] > 2**20
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["train_size"] == 100
    assert summary["auxiliary_classes"] == {"single": 0, **dict.fromkeys(HUMAN_METHODS, 20)}.get(method, 30)

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert {"train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"} <= set(row)
        assert ("gradient_cosine" in row) == (method != "single")
        assert ("label_usage" in row) == (method in ("frozen", *LEARNED_METHODS))
        assert (row["outer_loss"] is not None) == (method in LEARNED_METHODS)
        assert (row["train_auxiliary_loss"] is None) == (method == "single")
    assert rows[-1]["test_accuracy"] == summary["test_accuracy"]

    state = torch.load(out / "checkpoint" / "state.pt", weights_only=True)
    assert state["epoch"] == 2


def test_the_model_file_holds_trunk_and_primary_head_and_predicts_as_the_run_did(tmp_path: Path) -> None:
    run = trainer(tmp_path, trunk="convnet4")
    summary = run.fit()
    weights = model(tmp_path)
    assert {name.split(".")[0] for name in weights} == {"trunk", "primary_head"}
    fresh = trainer(tmp_path / "other", trunk="convnet4", seed=9).setup.network
    missing, unexpected = fresh.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"auxiliary_head"}
    correct = 0
    with evaluating(fresh, run.setup.network):
        for batch in evaluation_batches(DATA.test, 100, DATA.mean, DATA.std):
            logits = fresh.predict(batch.x)
            assert torch.equal(logits, run.setup.network.predict(batch.x))
            correct += int((logits.argmax(1) == batch.primary).sum())
    assert correct / len(DATA.test) == summary["test_accuracy"]


def test_a_run_learns(tmp_path: Path) -> None:
    config = tiny(epochs=15, optimizer="adam", learning_rate=3e-3, decay="constant")
    summary = train(config, tmp_path, data=DATA)
    losses = [row["train_primary_loss"] for row in metrics(tmp_path)]
    assert losses[-1] < 0.3 * losses[0]
    assert summary["test_accuracy"] > 0.7


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="a peak is forgotten by Linux alone"
)
def test_the_peak_of_memory_is_that_of_the_run_and_not_of_what_the_process_did_before(tmp_path: Path) -> None:
    large = torch.ones(2**28)  # a gibibyte, of an earlier run
    with_it = train(tiny(epochs=1), tmp_path / "with it", data=DATA)["peak_memory_bytes"]
    del large
    without = train(tiny(epochs=1), tmp_path / "without", data=DATA)["peak_memory_bytes"]
    assert 0.9 * 2**30 < with_it - without < 1.1 * 2**30

    def takes_memory(row: dict[str, Any]) -> None:
        torch.ones(2**27)

    peak = train(tiny(epochs=1), tmp_path / "own", data=DATA, report=takes_memory)["peak_memory_bytes"]
    assert peak > without + 0.9 * 2**29


def test_where_the_system_does_not_tell_there_is_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxl.experiments.runs.machine.sys.platform", "darwin")
    summary = train(tiny(epochs=1), tmp_path, data=DATA)
    assert summary["peak_memory_bytes"] is None
    out = Console(file=io.StringIO(), width=120)
    out.print(run_table(summary))
    assert "GiB" not in out.file.getvalue()  # type: ignore[attr-defined]
    (figure, table) = cost(load_study(tmp_path).settings[0], looks(["maxl"]))
    assert table.frame["Peak memory (MiB)"].tolist() == ["–"]  # type: ignore[union-attr]
    assert len(figure.plot.data) == 1  # type: ignore[union-attr]  # of time


def test_nothing_is_written_where_the_config_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 2 for 10 classes"):
        train(tiny(psi=[2, 3]), tmp_path / "run", data=DATA)
    with pytest.raises(ValueError, match="--method human needs a column of finer labels"):
        train(tiny(method="human"), tmp_path / "run", data=digits())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("schedule", "order"), [("iteration", "tmtmtmtm"), ("epochs", "ttttmmmm")])
def test_the_schedule_of_training_and_meta_steps(
    schedule: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    run = trainer(tmp_path, schedule=schedule, epochs=1)
    learner = run.setup.learner
    assert isinstance(learner, MetaAuxiliaryLearner)
    for optimizer, letter in ((learner.optimizer, "t"), (learner.meta_optimizer, "m")):
        step = optimizer.step
        monkeypatch.setattr(optimizer, "step", lambda s=step, x=letter: (taken.append(x), s())[1])
    run.fit()
    assert "".join(taken) == order


def test_held_out_samples_judge_and_do_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path, evaluate="held-out", held_out=0.2, epochs=1)
    assert run.outer._held_out is not None
    trained, judged = run.stream.split, run.outer._held_out.split
    assert (len(trained), len(judged)) == (80, 20)
    assert judged.primary.bincount().tolist() == [2] * 10
    rows = [{x.numpy().tobytes() for x in split.x} for split in (trained, judged, DATA.train)]
    assert rows[0] | rows[1] == rows[2]
    assert not rows[0] & rows[1]
    seen = []
    learner = run.setup.learner
    step = learner.step
    monkeypatch.setattr(learner, "step", lambda x, y, i, outer: (seen.append(outer), step(x, y, i, outer))[1])
    summary = run.fit()
    assert all(outer is not None and len(outer[0]) == 20 for outer in seen)
    assert summary["train_size"] == 100  # labels that were paid for, as for every other method


def test_rotating_folds_judge_in_turn_and_train_otherwise(tmp_path: Path) -> None:
    run = trainer(tmp_path, evaluate="rotating", held_out=0.25, batch_size=25)
    parts = folds(DATA.train, 4, seed=0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(100))
    assert [len(part) for part in parts] == [25] * 4
    assert max(max(c) - min(c) for c in (DATA.train.primary[p].bincount().tolist() for p in parts)) <= 1

    def rows(x: torch.Tensor) -> set[bytes]:
        return {row.numpy().tobytes() for row in x}

    whole = rows(torch.cat([batch.x for batch in run.stream.epoch(0)]))
    for epoch in range(5):
        pairs = list(run.outer.epoch(epoch))
        trained = rows(torch.cat([batch.x for batch, _ in pairs]))
        judged = rows(torch.cat([outer[0] for _, outer in pairs if outer is not None]))
        assert len(pairs) == 3
        assert not trained & judged
        assert trained | judged == whole
        expected = DATA.train.primary[parts[epoch % 4]].bincount(minlength=10)
        assert torch.equal(pairs[0][1][1].bincount(minlength=10), expected)  # type: ignore[index]


def test_augmented_outer_batches_hold_the_same_samples_anew(tmp_path: Path) -> None:
    config = tiny(method="maxl", evaluate="augmented", trunk="convnet4")
    with pytest.raises(ValueError, match="--evaluate augmented needs images that training crops at random"):
        Trainer(config, RunFolder(tmp_path / "no"), DATA)
    data = dataclasses.replace(DATA, augment=True)
    run = Trainer(config, RunFolder(tmp_path / "yes"), data)
    for batch, outer in run.outer.epoch(0):
        assert outer is not None
        assert torch.equal(batch.primary, outer[1])
        assert batch.x.shape == outer[0].shape
        assert not torch.equal(batch.x, outer[0])
    first, again = (list(run.outer.epoch(3)) for _ in range(2))
    assert all(torch.equal(a[1][0], b[1][0]) for a, b in zip(first, again, strict=True))  # type: ignore[index]
    run.fit()


def test_only_methods_that_learn_labels_hold_samples_out(tmp_path: Path) -> None:
    assert len(trainer(tmp_path, evaluate="held-out", method="random").stream.split) == 100


def test_a_split_is_balanced_disjoint_and_fixed_by_its_seed() -> None:
    kept, cut = split_off(DATA.train, 0.3, seed=4)
    assert cut.primary.bincount().tolist() == [3] * 10
    assert len(kept) == 70
    again = split_off(DATA.train, 0.3, seed=4)[1]
    assert torch.equal(cut.x, again.x)


def test_methods_of_one_seed_share_initial_weights_and_order(tmp_path: Path) -> None:
    methods = [m for m in METHODS if m not in NOISE_METHODS or m == "gce"]
    runs = {method: trainer(tmp_path, method=method) for method in methods}
    first = runs["single"]
    for run in runs.values():
        for part in ("trunk", "primary_head"):
            ours, theirs = (getattr(r.setup.network, part).state_dict() for r in (run, first))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        for ours, theirs in zip(run.stream.epoch(1), first.stream.epoch(1), strict=True):
            assert torch.equal(ours.index, theirs.index)
    auxiliary = [runs[m].setup.network.auxiliary_head.state_dict()["2.weight"] for m in ("maxl", "random")]
    assert torch.equal(*auxiliary)
    other = trainer(tmp_path, seed=1)
    assert not torch.equal(*(r.setup.network.trunk.state_dict()["layers.1.weight"] for r in (first, other)))


def test_single_does_not_depend_on_what_it_does_not_use(tmp_path: Path) -> None:
    train(tiny(method="single", psi=[2]), tmp_path / "a", data=DATA)
    train(tiny(method="single", psi=[5], entropy_weight=9.0, evaluate="held-out"), tmp_path / "b", data=DATA)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_frozen_labels_do_not_change_and_maxls_do(tmp_path: Path) -> None:
    for method, change in (("frozen", False), ("maxl", True)):
        train(tiny(method=method, meta_learning_rate=0.1), tmp_path / method, data=DATA)
        first, second = (row["label_entropy"] for row in metrics(tmp_path / method))
        assert (first != second) == change


def test_a_field_that_changes_a_method_is_not_called_irrelevant_to_it(tmp_path: Path) -> None:
    def rows(method: str, **changes: Any) -> list[dict[str, Any]]:
        train(
            tiny(method=method, trunk="convnet4", **changes), tmp_path / str(len(files(tmp_path))), data=DATA
        )
        return metrics(max(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns))

    plain = rows(
        "frozen", label_statistics="batch"
    )  # a label then depends on its batch, which differs by epoch
    assert rows("frozen", label_statistics="batch", cache_labels=True) != plain
    assert "cache_labels" not in irrelevant_fields("frozen")
    for name, value in (("meta_learning_rate", 0.5), ("entropy_weight", 9.0), ("lookahead", "virtual")):
        assert name in irrelevant_fields("frozen")
        assert rows("frozen", label_statistics="batch", **{name: value}) == plain


def test_a_label_depends_on_its_sample_alone_from_the_first_step(tmp_path: Path) -> None:
    run = trainer(tmp_path, trunk="convnet4", generator_trunk="own", epochs=1)
    used: list[tuple[torch.Tensor, ...]] = []
    run.setup.generator.register_forward_hook(lambda _m, args, out: used.append((*args, out.detach())))
    run._calibrate()
    used.clear()
    batch = next(run.stream.epoch(0))
    run.setup.learner.step(batch.x, batch.primary, batch.index)
    x, y, labels = used[0]
    fresh = trainer(tmp_path, trunk="convnet4", generator_trunk="own", epochs=1)
    fresh._calibrate()
    with torch.no_grad():
        alone = torch.cat([fresh.setup.generator(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(alone, labels, rtol=1e-4, atol=1e-6)


def test_a_learning_rate_halves_at_each_quarter_and_cosine_falls_to_nothing(tmp_path: Path) -> None:
    for decay, expected in (
        ("step", [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * e / 8)) for e in range(8)]),
        ("constant", [1] * 8),
    ):
        setup = trainer(tmp_path, decay=decay, epochs=8, learning_rate=1.0, meta_learning_rate=0.1).setup
        assert [setup.set_learning_rates(e) for e in range(8)] == pytest.approx(expected)
        assert [o.param_groups[0]["lr"] for o in setup.optimizers] == pytest.approx(
            [expected[-1], expected[-1] / 10]
        )


def test_validation_is_reported_beside_test(tmp_path: Path) -> None:
    summary = train(tiny(validation_size=50, method="single"), tmp_path)
    assert summary["validation_accuracy"] == metrics(tmp_path)[-1]["validation_accuracy"]
    assert 0 <= summary["validation_accuracy"] <= 1
    assert summary["train_size"] == 100


def test_tensorboard_holds_the_metrics(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny(method="single", tensorboard=True), tmp_path, data=DATA)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = [(e.step, e.value) for e in events.Scalars("test_loss")]
    assert logged == [(r["epoch"], pytest.approx(r["test_loss"])) for r in metrics(tmp_path)]


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_it_unfinished(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="training loss needs to be finite"):
        train(tiny(method="single", learning_rate=1e30), tmp_path, data=DATA)
    assert not RunFolder(tmp_path).finished


def test_the_public_version_is_in_the_summary(tmp_path: Path) -> None:
    assert train(tiny(epochs=1), tmp_path, data=DATA)["versions"]["maxl"] == maxl.__version__


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_float32_products_are_rounded_within_a_run_alone(precision: str, tmp_path: Path) -> None:
    switch = torch.backends.cuda.matmul
    before, seen = switch.fp32_precision, []
    config = tiny(precision=precision, trunk="convnet4", epochs=1)
    train(config, tmp_path / "run", data=DATA, report=lambda row: seen.append(switch.fp32_precision))
    assert seen == [before if precision == "float32" else "tf32"]
    assert switch.fp32_precision == before


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_weights_are_channels_last_unless_told_otherwise(method: str, tmp_path: Path) -> None:
    def kinds(**changes: Any) -> set[bool]:
        run = trainer(tmp_path, method=method, trunk="convnet4", **changes)
        modules = [m for m in (run.setup.network, run.setup.generator) if m is not None]
        weights = [p for m in modules for p in m.parameters() if p.dim() == 4 and p.shape[1] > 1]
        return {p.is_contiguous(memory_format=torch.channels_last) for p in weights}

    assert kinds() == {True}
    assert kinds(channels_last=False) == {False}


def test_augmentation_is_as_the_config_says() -> None:
    shown = {
        choice: load_data(RunConfig(train_size=50, augment=choice))
        for choice in ("auto", "none", "crop", "crop-flip")
    }
    assert {c: d.augment for c, d in shown.items()} == {
        "auto": False,
        "none": False,
        "crop": True,
        "crop-flip": True,
    }
    assert [shown[c].flip for c in ("crop", "crop-flip")] == [False, True]


def test_features_cannot_be_augmented(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b,label\n" + "".join(f"{i},{-i},{i % 2}\n" for i in range(20)))
    with pytest.raises(ValueError, match=r"--augment crop needs images; .*features of shape \(2,\)"):
        load_data(RunConfig(data=str(table), trunk="mlp", augment="crop"))
