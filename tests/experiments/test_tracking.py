"""Trackers: what they are told, that a run is the same with and without them, and that none can end it."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import digits, metrics, model, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.tracked import require_trackers
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.studies.study import Study
from maxl.experiments.tracking import NAMES, MLflow, TensorBoard, Tracker, WandB, tracker_named

CONFIG = tiny(method="single", epochs=3)


class Noted:
    """Writes down what it is told, as a tracker of a user's would."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "noted.txt"

    def start(self, config: Mapping[str, Any]) -> None:
        self._note(f"start {config['method']}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._note(f"log {step} {metrics['train_loss']!r}")

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        self._note("stopped" if summary is None else f"finish {summary['test_accuracy']!r}")

    def _note(self, line: str) -> None:
        with self.file.open("a") as file:
            file.write(line + "\n")


class Meddling(Noted):
    """Does what a tracker should not: draws random numbers and changes what it is given."""

    def start(self, config: Mapping[str, Any]) -> None:
        torch.manual_seed(7)
        config["epochs"] = 1  # type: ignore[index]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        torch.rand(5)
        metrics.clear()  # type: ignore[attr-defined]

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            summary.clear()  # type: ignore[attr-defined]


def cut(config: RunConfig, folder: Path, epoch: int, *track: Any) -> None:
    """A run that is interrupted after an epoch."""

    def report(row: Mapping[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, folder, data=digits(), report=report, track=track)


# What trackers are told


def test_a_tracker_is_told_of_start_every_epoch_and_end(tmp_path: Path) -> None:
    summary = train(CONFIG, tmp_path, data=digits(), track=[Noted])
    losses = [row["train_loss"] for row in metrics(tmp_path)]
    expected = ["start single", *(f"log {i} {loss!r}" for i, loss in enumerate(losses, 1))]
    assert (tmp_path / "noted.txt").read_text().splitlines() == [
        *expected,
        f"finish {summary['test_accuracy']!r}",
    ]


def test_a_run_that_stops_says_so_and_goes_on_with_a_new_tracker(tmp_path: Path) -> None:
    cut(CONFIG, tmp_path, 2, Noted)
    resume(tmp_path, data=digits(), track=[Noted])
    verbs = [" ".join(line.split()[:2]) for line in (tmp_path / "noted.txt").read_text().splitlines()]
    # the second epoch had been reported, but not saved
    assert verbs[:4] == ["start single", "log 1", "log 2", "stopped"]
    assert verbs[4:-1] in (["start single", "log 2", "log 3"], ["start single", "log 3"])
    assert verbs[-1].startswith("finish")


def test_a_diverged_run_has_stopped(tmp_path: Path) -> None:
    config = tiny(method="single", learning_rate=1e30)
    with pytest.raises(FloatingPointError):
        train(config, tmp_path, data=digits(), track=[Noted])
    assert (tmp_path / "noted.txt").read_text().splitlines() == ["start single", "stopped"]


def test_only_finite_numbers_are_logged(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []

    class Kept(Noted):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            seen.append(dict(metrics))

    train(tiny(), tmp_path, data=digits(), track=[Kept])
    assert "epoch" not in seen[0]
    assert "label_entropy" in seen[0]
    assert "label_usage_per_class" not in seen[0]
    assert all(type(value) is float and abs(value) < float("inf") for row in seen for value in row.values())


def test_every_run_of_a_study_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_here(monkeypatch)
    Study(tiny(epochs=1), ["single", "uniform"], [0]).run(tmp_path, jobs=1, track=[Noted])
    notes = [(tmp_path / "runs" / m / "seed0" / "noted.txt").read_text() for m in ("single", "uniform")]
    assert [note.splitlines()[0] for note in notes] == ["start single", "start uniform"]
    assert all(note.splitlines()[-1].startswith("finish") for note in notes)


def test_what_no_other_process_can_import_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "study"
    with pytest.raises(ValueError, match="track needs what other processes can import"):
        Study(tiny(epochs=1), ["single"], [0]).run(out, track=[lambda folder: Noted(folder)])
    assert not out.exists()


# What they cannot do


@pytest.mark.parametrize("method", ["single", "maxl"])
def test_trackers_change_no_bit_of_a_run(method: str, tmp_path: Path) -> None:
    config = tiny(method=method, epochs=3)
    train(config, tmp_path / "without", data=digits())
    train(config, tmp_path / "with", data=digits(), track=[Noted, Meddling])
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    assert all(torch.equal(a, model(tmp_path / "without")[n]) for n, a in model(tmp_path / "with").items())
    assert RunFolder(tmp_path / "with").read_summary()["test_accuracy"] >= 0


@pytest.mark.parametrize("when", ["__init__", "start", "log", "finish"])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(when: str, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no route\nto host")

    broken = type("Broken", (Noted,), {when: fail})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(CONFIG, tmp_path, data=digits(), track=[broken, Noted])
    assert [str(w.message) for w in caught if w.category is RunWarning] == [
        "tracking by Broken has stopped, the run goes on, and its folder has everything: no route"
    ]
    assert RunFolder(tmp_path).finished
    assert (tmp_path / "noted.txt").read_text().splitlines()[-1].startswith("finish")  # of the other one


def test_an_interrupt_within_a_tracker_is_no_failure_of_it(tmp_path: Path) -> None:
    class Interrupted(Noted):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path, data=digits(), track=[Interrupted])
    resume(tmp_path, data=digits())
    assert len(metrics(tmp_path)) == 3


# Names


def test_names_are_trackers() -> None:
    assert [tracker_named(name) for name in NAMES] == [TensorBoard, MLflow, WandB]
    with pytest.raises(
        ValueError, match=r"--track needs to be one of .*; got 'wandbb'; did you mean 'wandb'"
    ):
        tiny(track=["wandbb"])


def test_two_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict each other"):
        tiny(track=["tensorboard"])  # which has tensorboard: false


def test_a_missing_package_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxl.experiments.tracking._named.find_spec", lambda name: None)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r'--track mlflow needs mlflow: pip install "maxl-torch\[mlflow\]"'):
        train(tiny(track=["mlflow"]), out, data=digits())
    with pytest.raises(ValueError, match="--track wandb needs wandb"):
        Study(tiny(track=["wandb"]), ["single"], [0]).run(out)
    assert not out.exists()
    require_trackers(tiny())


def test_tracking_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    """A run goes on, and a study takes its runs, whatever tracks them."""
    cut(CONFIG, tmp_path, 1)
    text = RunFolder(tmp_path).config.read_text()
    changed = text.partition("\n")[2].replace("tensorboard: false", "tensorboard: true")
    RunFolder(tmp_path).config.write_text(changed)
    resume(tmp_path, data=digits())
    assert (tmp_path / "tensorboard").is_dir()
    assert len(metrics(tmp_path)) == 3


# TensorBoard


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboards_files_hold_every_epoch_once_after_an_interruption(tmp_path: Path) -> None:
    config = tiny(method="single", epochs=4, tensorboard=True, checkpoint_every=2)

    def report(row: Mapping[str, Any]) -> None:
        if row["epoch"] == 3:
            raise OSError  # as if killed: epoch 3 is logged, and the checkpoint is of epoch 2

    with pytest.raises(OSError):  # noqa: PT011  (without a message)
        train(config, tmp_path, data=digits(), report=report)
    resume(tmp_path, data=digits())
    found = events(tmp_path)
    logged = [(e.step, e.value) for e in found.Scalars("test_loss")]
    assert logged == [(r["epoch"], pytest.approx(r["test_loss"])) for r in metrics(tmp_path)]
    assert {"config/text_summary", "summary/text_summary"} <= set(found.Tags()["tensors"])


# MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def mlflow(store: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store of its own."""
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return MlflowClient(tracking_uri=store)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow calls
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_has_settings_metrics_and_result_and_a_resumed_run_is_one(mlflow: Any, tmp_path: Path) -> None:
    config = tiny(method="single", epochs=4, track=["mlflow"], checkpoint_every=2)
    folder = tmp_path / "study" / "runs" / "single" / "seed0"

    def report(row: Mapping[str, Any]) -> None:
        if row["epoch"] == 3:
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011  (without a message)
        train(config, folder, data=digits(), report=report)
    number = (folder / "tracking" / "mlflow.id").read_text().strip()
    assert mlflow.get_run(number).info.status == "KILLED"
    summary = resume(folder, data=digits())
    run = mlflow.get_run(number)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "single/seed0")
    assert run.data.tags["maxl.group"] == "study"
    assert run.data.params["learning_rate"] == "0.001"
    assert set(config.to_dict()) == set(run.data.params)
    history = [(m.step, m.value) for m in mlflow.get_metric_history(number, "test_loss")]
    assert history == [(r["epoch"], r["test_loss"]) for r in metrics(folder)]
    assert run.data.metrics["seconds_total"] == summary["seconds_total"]
    experiment = mlflow.get_experiment_by_name("maxl").experiment_id
    assert len(mlflow.search_runs([experiment])) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_mlflow_run_that_is_gone_is_one_warning(mlflow: Any, tmp_path: Path) -> None:
    config = tiny(method="single", epochs=2, track=["mlflow"])
    cut(config, tmp_path, 1)
    (tmp_path / "tracking" / "mlflow.id").write_text("0" * 32 + "\n")
    with pytest.warns(RunWarning, match="tracking by mlflow has stopped.*set MLFLOW_TRACKING_URI as it was"):
        resume(tmp_path, data=digits())
    assert RunFolder(tmp_path).finished


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of what MLflow calls, whichever test does so first
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("content", ["../../etc", "", "a b"])
def test_an_id_that_is_none_is_not_used(content: str, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "mlflow.id").write_text(content)
    tracker: Tracker = MLflow(tmp_path)
    with pytest.raises(ValueError, match="needs to hold the id of a run"):
        tracker.start({})


# Weights & Biases


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_writes_files_offline_and_a_resumed_run_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    config = tiny(method="single", epochs=3, track=["wandb"])
    cut(config, tmp_path, 1)
    resume(tmp_path, data=digits())
    number = (tmp_path / "tracking" / "wandb.id").read_text().strip()
    # "*" at the end: of two runs that start in one second, the second's folder ends in "-1"
    written = sorted((tmp_path / "wandb").glob(f"offline-run-*-{number}*/run-{number}.wandb"))
    assert len(written) == 2  # before the cut, and after it
    logged = [row for file in written for row in history(file)]
    found = [
        (row["epoch"], row["test_loss"]) for row in logged
    ]  # an epoch that was not saved comes again, the same
    assert set(found) == {(r["epoch"], r["test_loss"]) for r in metrics(tmp_path)}


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that a file of Weights & Biases holds for ``wandb sync``."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def records(content: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format behind a header of 7 bytes: blocks of 32 KiB, records whole (1) or in parts (2, 3, 4)."""
    assert content.startswith(b":W&B")
    at, parts = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # a record's head never crosses blocks
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_wandb_without_a_login_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "api", type("NoKey", (), {"api_key": None})())
    with pytest.warns(RunWarning, match="tracking by wandb has stopped.*call `wandb login` first"):
        train(tiny(method="single", epochs=1, track=["wandb"]), tmp_path, data=digits())
    assert RunFolder(tmp_path).finished


# The command line


def test_the_command_line_takes_several_and_a_failing_one_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def fail(self: Any, config: Any) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(MLflow, "start", fail)
    line = "train --data digits --train-size 100 --trunk mlp --method single --epochs 1 --device cpu"
    assert main([*line.split(), "--track", "mlflow", "tensorboard"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "tracking" in line]
    assert notes == [
        "maxl: note: tracking by mlflow has stopped, the run goes on, and its folder has everything: no server"
    ]
    assert (tmp_path / "run" / "tensorboard").is_dir()
    assert RunFolder(tmp_path / "run").read_config().track == ("mlflow", "tensorboard")
