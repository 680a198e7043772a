"""Runs on numbers and on labels: every method, from the table to predictions in its units."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from _run_helpers import metrics, one_thread
from _target_helpers import LABELS, colours, columns, prices, write_table
from maxl.experiments.data import TASKS, DataSet
from maxl.experiments.runs.baselines import cluster_labels, random_labels, shuffled_within_labels
from maxl.experiments.runs.build import build, check, choose_hierarchy
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import describe_labels
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import Labels, Numbers, predict
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.measures import MEASURES
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.snapshot import read_snapshot
from maxl.experiments.runs.summary import checksum_of
from maxl.experiments.runs.supervisions import Information
from maxl.experiments.runs.trainer import Trainer, resume, train
from maxl.hierarchy import Hierarchy
from maxl.supervision import FixedLabels, UniformLabels
from maxl.tasks import Classification, MultiLabel, Regression

__all__ = ["one_thread"]

METHODS = ("single", "uniform", "frozen", "random", "kmeans", "maxl", "weighted", "gated")
TABLES: dict[str, tuple[Callable[..., Path], Any]] = {
    "regression": (prices, "price"),
    "multi-label": (colours, LABELS),
}


def config(folder: Path, task: str, **changes: Any) -> RunConfig:
    table, primary = TABLES[task]
    values = {
        "data": str(table(folder)),
        "primary": primary,
        "trunk": "mlp",
        "psi": [3],
        "epochs": 2,
        "batch_size": 16,
        "tensorboard": False,
        "device": "cpu",
    }
    return RunConfig.from_dict({**values, **changes})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TABLES)
def test_every_method_that_needs_no_classes_runs(task: str, method: str, tmp_path: Path) -> None:
    summary = train(config(tmp_path, task, method=method, validation_size=16), tmp_path / "run")
    assert summary["task"] == task
    assert RunFolder(tmp_path / "run").read_summary() == summary
    last = metrics(tmp_path / "run")[-1]
    for measure in MEASURES[task]:
        assert summary[measure.key] == last[measure.key]
        assert measure.low <= summary[measure.key] <= measure.high
        assert summary[f"validation_{measure.name}"] == last[f"validation_{measure.name}"] is not None
    assert "test_accuracy" not in summary
    blocks = 1 if task == "regression" else 3
    assert summary["auxiliary_classes"] == (0 if method == "single" else 3 * blocks)
    if method in ("frozen", "maxl", "weighted", "gated"):
        assert len(last["label_entropy_per_class"]) == blocks
        assert 0 < last["label_entropy"] <= last["label_entropy_max"] + 1e-6
    assert len(read_snapshot(tmp_path / "run" / "snapshot.npz").features) == 0


@pytest.mark.parametrize("method", ["uniform", "kmeans", "maxl"])
def test_samples_without_a_label_have_a_block_where_psi_has_one_more(method: str, tmp_path: Path) -> None:
    chosen = config(tmp_path, "multi-label", method=method, psi=[2, 2, 2, 3])
    data = load_data(chosen)
    learner = build(chosen, data, torch.device("cpu")).learner
    without = ~data.train.primary.any(1)
    assert without.any()
    assert (~without).any()
    summary = train(chosen, tmp_path / "run")
    assert (summary["psi"], summary["auxiliary_classes"]) == ([2, 2, 2, 3], 9)
    network = learner.network
    allowed = network.task.rows(data.train.primary, network.hierarchy.mask)
    assert allowed[without].tolist() == [[False] * 6 + [True] * 3] * int(without.sum())
    assert not allowed[~without, 6:].any()
    if method == "maxl":
        assert len(metrics(tmp_path / "run")[-1]["label_entropy_per_class"]) == 4
        invented = invent(tmp_path / "run", colours(tmp_path))
        assert invented.block_names == (*LABELS, "none")
        none = ~invented.data.targets.any(1)
        torch.testing.assert_close(invented.labels[none, 6:].sum(1), torch.ones(int(none.sum())))


@pytest.mark.parametrize("method", ["human", "prototypical"])
@pytest.mark.parametrize("task", TABLES)
def test_methods_that_need_classes_say_why(task: str, method: str, tmp_path: Path) -> None:
    chosen = config(tmp_path, task, method=method)
    with pytest.raises(ValueError, match=f"--method {method} needs primary classes .* the task is {task}"):
        check(chosen, load_data(chosen))


@pytest.mark.parametrize(
    ("task", "psi", "message"),
    [
        ("regression", [3, 3], "--psi needs one number for regression, .* got 2 numbers"),
        ("multi-label", [3, 3], "--psi needs one number, one per label, or one more .*; got 2 for 3 labels"),
    ],
)
def test_psi_fits_the_task(task: str, psi: list[int], message: str, tmp_path: Path) -> None:
    chosen = config(tmp_path, task, psi=psi)
    with pytest.raises(ValueError, match=message):
        choose_hierarchy(chosen, load_data(chosen))


def test_the_command_line_knows_every_task_by_name() -> None:
    (field,) = (f for f in dataclasses.fields(RunConfig) if f.name == "task")
    assert field.metadata["choices"] == ("auto", *TASKS)
    assert set(MEASURES) == set(TASKS)


def test_networks_learn_the_task_of_the_data(tmp_path: Path) -> None:
    for task, expected in (("regression", Regression(1)), ("multi-label", MultiLabel(3))):
        chosen = config(tmp_path, task, method="maxl")
        setup = build(chosen, load_data(chosen), torch.device("cpu"))
        assert setup.generator is not None
        assert setup.network.task == setup.generator.task == setup.learner.task == expected


def test_a_regression_learns_and_predicts_in_the_units_of_its_targets(tmp_path: Path) -> None:
    chosen = config(tmp_path, "regression", method="single", epochs=60, learning_rate=3e-3)
    data = load_data(chosen)
    summary = train(chosen, tmp_path / "run", data=data)
    assert summary["test_r2"] > 0.9
    found = predict(tmp_path / "run", Path(chosen.data))
    assert all(isinstance(p, Numbers) for p in found)
    predicted = np.array([p.values["price"] for p in found if isinstance(p, Numbers)])
    actual = np.array(columns()["price"])
    assert np.sqrt(np.mean((predicted - actual) ** 2)) < 0.4 * actual.std()
    # The test part's own error, from the predictions of its rows.
    assert data.targets is not None
    of_test = data.test.primary.double().squeeze(1) * data.targets.std[0] + data.targets.mean[0]
    rows = [int(np.abs(actual - y).argmin()) for y in of_test.tolist()]
    errors = predicted[rows] - actual[rows]
    assert summary["test_rmse"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-4)
    assert summary["test_mae"] == pytest.approx(float(np.abs(errors).mean()), rel=1e-4)


def test_several_numbers_are_predicted_together(tmp_path: Path) -> None:
    table = columns()
    file = write_table(tmp_path / "t.csv", {name: table[name] for name in (*"abcd", "price", "depth")})
    chosen = config(tmp_path, "regression", data=str(file), primary=["price", "depth"], method="maxl")
    summary = train(chosen, tmp_path / "run")
    assert summary["primary"] == "price, depth"
    assert summary["targets"]["names"] == ["price", "depth"]
    (first, *_) = predict(tmp_path / "run", file)
    assert isinstance(first, Numbers)
    assert 0 < first.values["price"] < 3000
    assert -8 < first.values["depth"] < -2


def test_labels_are_learned_and_predicted_with_their_probabilities(tmp_path: Path) -> None:
    chosen = config(tmp_path, "multi-label", method="uniform", epochs=60, learning_rate=3e-3)
    summary = train(chosen, tmp_path / "run")
    assert summary["test_map"] > 0.8
    found = predict(tmp_path / "run", Path(chosen.data))
    table = columns()
    right = [
        (p.probabilities[name] >= 0.5) == bool(table[name][row])
        for row, p in enumerate(found)
        if isinstance(p, Labels)
        for name in LABELS
    ]
    assert len(right) == 3 * 80
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("task", TABLES)
def test_an_interrupted_run_ends_as_it_would_have(task: str, tmp_path: Path) -> None:
    whole = train(config(tmp_path, task, method="maxl", epochs=3), tmp_path / "whole")

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path, task, method="maxl", epochs=3), tmp_path / "cut", report=stop)
    again = resume(tmp_path / "cut")
    main = MEASURES[task][0].key
    assert again[main] == whole[main]
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_run_is_not_continued_on_other_targets(tmp_path: Path) -> None:
    chosen = config(tmp_path, "regression", method="single", epochs=3)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "run", report=stop)
    prices(tmp_path, price=[-v for v in columns()["price"]])
    with pytest.raises(ValueError, match="its features"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("task", TABLES)
def test_the_program_that_is_exported_says_what_the_model_says(task: str, tmp_path: Path) -> None:
    train(config(tmp_path, task, method="single", epochs=1), tmp_path / "run")
    sidecar = export(tmp_path / "run", "torch-export", tmp_path / "m.pt2")
    described = json.loads(sidecar.read_text())
    assert described["task"] == task
    x = torch.randn(5, 4).double()
    model, program = load_model(tmp_path / "run"), torch.export.load(tmp_path / "m.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))
        if task == "regression":
            raw = model.primary_head(model.trunk(model.normalise(x)))
            mean, std = described["targets"]["mean"][0], described["targets"]["std"][0]
            torch.testing.assert_close(program(x), raw.double() * std + mean)
            assert math.isclose(mean, 1000, rel_tol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "sorting"},
            "needs a task of classification, multi-label, regression, segmentation; got 'sorting'",
        ),
        ({"test_r2": None}, "needs 'test_r2'; it is missing"),
        ({"test_r2": 1.5}, "test_r2 of at most 1; got 1.5"),
        ({"test_rmse": -1.0}, "test_rmse of at least 0; got -1.0"),
        ({"targets": {"names": ["price"], "mean": [0.0], "std": [0.0]}}, "targets with names, mean and std"),
        ({"targets": None}, "needs 'targets'; it is missing"),
        (
            {"targets": {"names": ["p"], "mean": [0.0, 1.0], "std": [1.0]}},
            "mean for each of 1 targets; got 2",
        ),
    ],
)
def test_a_summary_that_cannot_be_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    summary = train(config(tmp_path, "regression", method="single", epochs=1), folder.path)
    changed = summary | changes
    folder.summary.write_text(json.dumps(changed | {"checksum": checksum_of(changed)}))
    with pytest.raises(ValueError, match=message):
        load_model(folder.path)


@pytest.mark.parametrize("evaluate", ["held-out", "rotating", "next"])
@pytest.mark.parametrize("task", TABLES)
def test_samples_that_judge_are_set_aside_whatever_the_targets(
    task: str, evaluate: str, tmp_path: Path
) -> None:
    chosen = config(tmp_path, task, evaluate=evaluate, held_out=0.25, epochs=1)
    assert train(chosen, tmp_path / "run")["train_size"] == 64


PSI = Hierarchy([2, 3, 1])
Y = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]] * 10)


def test_random_and_uniform_labels_lie_in_the_blocks_of_a_samples_labels() -> None:
    rows = MultiLabel().rows(Y, PSI.mask)
    labels = random_labels(Y, PSI, 0, MultiLabel())
    assert rows[torch.arange(len(Y)), labels].all()
    assert labels[Y[:, 0] == 1].unique().tolist() == [0, 1, 2, 3, 4, 5]
    (uniform,) = UniformLabels(PSI, MultiLabel()).constant(Y, Y, None)
    torch.testing.assert_close(uniform, rows / rows.sum(1, keepdim=True))


def test_clusters_of_several_labels_share_a_sample() -> None:
    labels = cluster_labels(torch.randn(len(Y), 2), Y, PSI, seed=0)
    torch.testing.assert_close(labels.sum(1), torch.ones(len(Y)))
    blocks = labels @ PSI.mask.float().T  # the weight of each label's block
    torch.testing.assert_close(blocks[0], torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(blocks[1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(labels[2], torch.full((6,), 1 / 6))
    torch.testing.assert_close(blocks[3], torch.full((3,), 1 / 3))
    assert labels[1].max() == 1.0  # one cluster of its one label


def test_the_shuffled_control_deals_out_within_each_labels_block(tmp_path: Path) -> None:
    chosen = config(tmp_path, "multi-label", method="kmeans", cluster_features="input")
    data = load_data(chosen)
    tables = []
    for method in ("kmeans", "kmeans-shuffled"):
        source = build(dataclasses.replace(chosen, method=method), data, torch.device("cpu")).learner.source
        assert isinstance(source, FixedLabels)
        tables.append(source.table)
    hierarchy = Hierarchy.uniform(3, 3)
    expected = shuffled_within_labels(tables[0], data.train.primary, hierarchy, chosen.seed)
    torch.testing.assert_close(tables[1], expected, rtol=0, atol=0)


def test_a_flat_hierarchy_clusters_all_samples() -> None:
    points = torch.cat([torch.randn(10, 2), 50 + torch.randn(10, 2)])
    labels = cluster_labels(points, torch.randn(20, 1), Hierarchy.flat(2), seed=0)
    assert labels.dtype == torch.int64
    assert len(set(labels[:10].tolist())) == len(set(labels[10:].tolist())) == 1
    assert labels[0] != labels[10]


def test_statistics_of_labels_take_each_set_of_labels_for_a_class() -> None:
    rows = MultiLabel().rows(Y, PSI.mask).double()
    even = describe_labels(rows / rows.sum(1, keepdim=True), Y, PSI, MultiLabel())
    assert even.entropy == pytest.approx(even.entropy_max)
    assert even.information == pytest.approx(0, abs=1e-9)
    verdict = even.verdict()
    assert verdict is not None
    assert "carry no information" in verdict
    own = torch.arange(len(Y)) // 4 % 2  # tells samples of one set apart
    first, second = rows.argmax(1), 5 - rows.flip(1).argmax(1)
    told = torch.nn.functional.one_hot(torch.where(own == 0, first, second), 6)
    look = describe_labels(told, Y, PSI, MultiLabel())
    assert look.information == pytest.approx(math.log(2), rel=1e-6)
    assert look.verdict() is None
    assert len(look.usage_per_class) == 3
    assert look.usage <= 1
    assert max(look.usage_per_class) <= 1
    assert float(Information(PSI, 0.5)(told.double(), Y)) == pytest.approx(-0.5 * math.log(2), rel=1e-6)


def test_a_diverging_regression_is_recorded(tmp_path: Path) -> None:
    chosen = config(tmp_path, "regression", method="single", learning_rate=1e30)
    with pytest.raises(FloatingPointError):
        train(chosen, tmp_path / "run")
    assert RunFolder(tmp_path / "run").diverged


def test_a_trainer_takes_a_data_set_that_is_loaded(tmp_path: Path) -> None:
    chosen = config(tmp_path, "multi-label", method="uniform")
    data: DataSet = load_data(chosen)
    trainer = Trainer(chosen, RunFolder(tmp_path / "run"), data)
    assert trainer.setup.network.predict(data.test.x).shape == (16, 3)


LOSSES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "huber": ("regression", {"huber": 1.5}, Regression(1, 1.5)),
    "smoothing": ("classification", {"label_smoothing": 0.1}, Classification(0.0, None, 0.1)),
    "balanced": ("classification", {"class_weights": "balanced"}, None),  # by the training part's counts
}


@pytest.mark.parametrize(("task", "options", "expected"), LOSSES.values(), ids=LOSSES)
def test_losses_are_those_that_were_asked_for(
    task: str, options: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    table: dict[str, Any] = {"a": random.normal(size=60), "b": random.normal(size=60)}
    if task == "classification":
        table["b"] = ["rare" if i % 5 == 0 else "usual" for i in range(60)]
    file, primary = write_table(tmp_path / "t.csv", table), "b"
    plain = config(tmp_path, "regression", data=str(file), primary=primary, **options)
    chosen = dataclasses.replace(plain, task=task)
    data = load_data(chosen)
    found = build(chosen, data, torch.device("cpu")).network.task
    if task == "classification" and options.get("class_weights"):
        counts = torch.bincount(data.train.primary)
        expected = Classification(0.0, (len(data.train) / (2 * counts)).tolist())
    assert found == expected
    assert RunConfig.from_dict(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("regression", {"class_weights": "balanced"}, "--class-weights is for classes; this is regression"),
        ("multi-label", {"label_smoothing": 0.1}, "--label-smoothing is for classes; this is multi-label"),
        ("multi-label", {"huber": 1.0}, "--huber is for numbers; this is multi-label"),
    ],
)
def test_a_loss_of_another_task_is_refused(
    task: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    chosen = config(tmp_path, task, **options)
    with pytest.raises(ValueError, match=message):
        check(chosen, load_data(chosen))
