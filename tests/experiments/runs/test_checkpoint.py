"""A run goes on from a checkpoint that is whole and its own, or says why it does not."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import DataSet
from maxl.experiments.report import write_report
from maxl.experiments.report.runs import load_study
from maxl.experiments.runs.checkpoint import content_checksum
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.fingerprint import fingerprint, what_changed
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.state import on
from maxl.experiments.runs.trainer import resume, train

STATE = "checkpoint/state.pt"


class Cut(Exception):
    """Stands for a power cut."""


def cut(path: Path, epoch: int = 4, **changes: Any) -> Path:
    """A run of five epochs whose last checkpoint is of the epoch before ``epoch``."""

    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Cut

    with pytest.raises(Cut):
        train(tiny(**{"epochs": 5, **changes}), path, data=digits(), report=report)
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were interrupted, and one that was not."""
    root = tmp_path_factory.mktemp("stopped")
    cut(root / "run")
    cut(root / "seed", seed=1)
    cut(root / "next", evaluate="next")
    cut(root / "single", method="single")
    train(tiny(epochs=5), root / "whole", data=digits())
    return root


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped / "run", tmp_path / "run")
    return tmp_path / "run"


def assert_same(run: Path, stopped: Path) -> None:
    assert metrics(run) == metrics(stopped / "whole")
    assert (run / "model.safetensors").read_bytes() == (stopped / "whole/model.safetensors").read_bytes()


def flip(file: Path, place: float) -> None:
    """Turns one bit."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    def apply(run: Path, _: Path) -> None:
        state = torch.load(run / STATE, weights_only=True)
        change(state)
        torch.save(state, run / STATE)

    return apply


def first_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path, Path], None]:
    def apply(state: dict[str, Any]) -> None:
        name = next(iter(state["network"]))
        state["network"][name] = change(state["network"][name])

    return edit(apply)


DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a bit of the weights": (lambda run, _: flip(run / STATE, 0.5), "is damaged"),
    "cut short": (lambda run, _: os.truncate(run / STATE, 5000), "is damaged"),
    "empty": (lambda run, _: (run / STATE).write_bytes(b""), "is damaged"),
    "text": (lambda run, _: (run / STATE).write_text("hello"), "is damaged"),
    "a folder": (lambda run, _: ((run / STATE).unlink(), (run / STATE).mkdir()), "state.pt"),
    "a number": (lambda run, _: torch.save(5, run / STATE), "is damaged: it holds int"),
    "of another seed": (
        lambda run, other: shutil.copy(other / "seed" / STATE, run / STATE),
        "differs in seed",
    ),
    "of another preset": (
        lambda run, other: shutil.copy(other / "next" / STATE, run / STATE),
        "belongs to another run: it differs in evaluate",
    ),
    "of another method": (
        lambda run, other: shutil.copy(other / "single" / STATE, run / STATE),
        "it differs in label, method",
    ),
    "another epoch": (edit(lambda s: s.update(epoch=1)), "does not have its checksum"),
    "an epoch beyond the end": (edit(lambda s: s.update(epoch=99)), "it is of epoch 99"),
    "no checksum": (edit(lambda s: s.pop("checksum")), "its checksum is missing"),
    "no network": (edit(lambda s: s.pop("network")), "network is missing"),
    "optimizers exchanged": (edit(lambda s: s["optimizers"].reverse()), "does not have its checksum"),
    "a weight": (first_weight(lambda t: t + 1e-6), "does not have its checksum"),
    "a tensor of terabytes": (first_weight(lambda t: torch.zeros(1).expand(1 << 40)), "claims .* bytes"),
    "nested": (edit(lambda s: s.update(extra=nested(150))), "is damaged"),
}


def test_a_checkpoint_of_before_there_was_a_word_for_a_trunk_of_its_own(tmp_path: Path) -> None:
    own = {"method": "maxl", "generator_trunk": "own", "epochs": 3}
    train(tiny(**own), tmp_path / "whole", data=digits())
    cut(tmp_path / "run", epoch=3, **own)
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text().partition("\n")[2]  # without its checksum
    file.write_text(text.replace("generator_trunk: own", "generator_trunk: null"))

    def older(state: dict[str, Any]) -> None:
        state["identity"]["config"]["generator_trunk"] = None
        state["checksum"] = content_checksum({n: v for n, v in state.items() if n != "checksum"})

    edit(older)(tmp_path / "run", tmp_path)
    resume(tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert load_study(tmp_path / "run").runs[0].config["generator_trunk"] == "own"


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(
    damage: Callable[[Path, Path], object], reason: str, run: Path, stopped: Path
) -> None:
    damage(run, stopped)
    with pytest.warns(RunWarning, match=f"{reason}.*; going on from the checkpoint before it, of epoch 2"):
        resume(run, data=digits())
    assert_same(run, stopped)
    assert (run / "checkpoint/refused.pt").exists()


def test_a_crash_after_a_damaged_checkpoint_loses_nothing(
    run: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(run / STATE, 0.5)
    replace = os.replace

    def crash(source: Any, target: Any) -> None:
        if str(target).endswith("state.pt"):  # the one before has already made way
            raise Cut
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.warns(RunWarning), pytest.raises(Cut):
        resume(run, data=digits())
    monkeypatch.undo()
    resume(run, data=digits())
    assert_same(run, stopped)


def test_without_another_a_damaged_checkpoint_stops_the_run(run: Path, stopped: Path) -> None:
    (run / "checkpoint/previous.pt").unlink()
    flip(run / STATE, 0.5)
    with pytest.raises(
        ValueError, match=r"state\.pt is damaged.*; to train from the start remove .*checkpoint and resume"
    ):
        resume(run, data=digits())
    shutil.rmtree(run / "checkpoint")
    resume(run, data=digits())
    assert_same(run, stopped)


def test_between_two_renames_the_checkpoint_before_is_there(run: Path, stopped: Path) -> None:
    (run / STATE).unlink()
    resume(run, data=digits())  # without a warning: nothing is damaged
    assert_same(run, stopped)


def test_an_earlier_checkpoint_of_the_same_run_leads_to_the_same_end(run: Path, stopped: Path) -> None:
    (run / "checkpoint/previous.pt").replace(run / STATE)
    resume(run, data=digits())
    assert_same(run, stopped)


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("1", "2", 1), lambda text: text[200:], lambda _: ""]
)
def test_metrics_that_do_not_go_with_the_checkpoint_are_refused(
    change: Callable[[str], str], run: Path
) -> None:
    file = run / "metrics.jsonl"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=r"does not go with .*metrics\.jsonl: one of them was damaged"):
        resume(run, data=digits())


def changed(data: DataSet, **parts: Any) -> DataSet:
    return dataclasses.replace(data, train=dataclasses.replace(data.train, **parts))


def test_data_that_changed_since_the_checkpoint_is_refused(run: Path, stopped: Path) -> None:
    data = digits()
    pixels, labels = data.train.x.clone(), data.train.primary.clone()
    pixels[50, 0, 4, 4] ^= 1
    labels[[0, 1]] = labels[[1, 0]]
    others = {
        "its samples or labels": [changed(data, x=pixels), changed(data, primary=labels)],
        "the number of its samples": [dataclasses.replace(data, train=data.train.select(torch.arange(99)))],
        "its classes": [dataclasses.replace(data, primary_names=tuple("abcdefghij"))],
    }
    for what, sets in others.items():
        for other in sets:
            with pytest.raises(
                ValueError, match=f"the data has changed since .* was written, {what}: put it back"
            ):
                resume(run, data=other)
    resume(run, data=data)
    assert_same(run, stopped)


def test_features_are_compared_within_what_the_order_of_sums_moves(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [f"{i % 7},{i % 11},{i % 2}" for i in range(200)]
    table.write_text("\n".join(["a,b,label", *rows]))
    data = load_data(tiny(data=str(table), train_size=None))
    mark = fingerprint(data)
    assert what_changed(mark, fingerprint(changed(data, x=data.train.x * (1 + 1e-7)))) is None
    assert what_changed(mark, json.loads(json.dumps(mark))) is None
    one = data.train.x.clone()
    one[17, 1] += 0.1
    for x in (one, data.train.x.flip(0), data.train.x.flip(1)):
        assert what_changed(mark, fingerprint(changed(data, x=x))) == "its features"


def test_a_checksum_follows_the_content_alone() -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": [1, 2.5, "x", None, True], "c": {}}
    same = {
        "a": torch.arange(6.0).view(3, 2).T.clone().T.reshape(2, 3),
        "b": (1, 2.5, "x", None, True),
        "c": {},
    }
    assert content_checksum(state) == content_checksum(same)
    others = [
        {"a": state["a"].double()},
        {"a": state["a"].view(3, 2)},
        {"a": -state["a"]},
        {"b": [1, 2.5, "x", None, 1]},
    ]
    assert len({content_checksum({**state, **other}) for other in others} | {content_checksum(state)}) == 5
    with pytest.raises(TypeError, match="tensors, numbers and text; got object"):
        content_checksum({"a": object()})


@pytest.mark.parametrize("keep", [0, 1, 3, 12, -1])
def test_a_config_that_is_cut_short_is_refused(keep: int, run: Path) -> None:
    file = RunFolder(run).config
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:keep]))
    with pytest.raises(ValueError, match=r"config\.yaml (does not have its checksum|needs)"):
        resume(run, data=digits())
    file.write_text("".join(lines[1:keep]))  # as an older version wrote it
    with pytest.raises(ValueError, match=r"config\.yaml needs"):
        resume(run, data=digits())


def test_a_config_that_is_changed_is_refused_unless_its_seal_is_taken_off(run: Path, stopped: Path) -> None:
    file = RunFolder(run).config
    text = file.read_text().replace("look_every: 1", "look_every: 5")
    file.write_text(text)
    with pytest.raises(ValueError, match="restore it, or remove its first line if the change is meant"):
        resume(run, data=digits())
    file.write_text(text.split("\n", 1)[1])
    resume(run, data=digits())
    assert (run / "model.safetensors").read_bytes() == (stopped / "whole/model.safetensors").read_bytes()


@pytest.mark.parametrize("file", ["model.safetensors", "summary.json", "metrics.jsonl", "snapshot.npz"])
def test_a_bit_of_a_finished_run_is_noticed_by_whoever_reads_the_file(
    file: str, stopped: Path, tmp_path: Path
) -> None:
    readers: list[Callable[[Path], object]] = [
        load_model,
        lambda run: export(run, "safetensors", tmp_path / "m.safetensors"),
    ]
    if file != "model.safetensors":
        readers = [write_report, *(readers if file == "summary.json" else [])]
    for place in (0.2, 0.6, 0.95):
        for reader in readers:
            shutil.copytree(stopped / "whole", tmp_path / "run", dirs_exist_ok=True)
            flip(tmp_path / "run" / file, place)
            with pytest.raises(ValueError, match=file):
                reader(tmp_path / "run")
            assert not (tmp_path / "m.safetensors").exists()


def test_folders_from_before_checksums_still_load_report_and_go_on(stopped: Path, tmp_path: Path) -> None:
    def aged(name: str) -> RunFolder:
        shutil.copytree(stopped / name, tmp_path / name)
        folder = RunFolder(tmp_path / name)
        folder.config.write_text(folder.config.read_text().split("\n", 1)[1])
        return folder

    whole = aged("whole")
    summary = json.loads(whole.summary.read_text())
    kept = {n: v for n, v in summary.items() if n not in ("checksum", "checksums")}
    whole.summary.write_text(json.dumps(kept))
    assert load_model(whole.path).input_shape == (1, 8, 8)
    assert write_report(whole.path).exists()
    old = aged("run")
    (old.path / "checkpoint/previous.pt").unlink()
    edit(lambda state: [state.pop(name) for name in ("checksum", "identity", "metrics")])(old.path, stopped)
    resume(old.path, data=digits())
    assert_same(old.path, stopped)


def test_a_learners_state_goes_to_the_device_of_its_process(stopped: Path) -> None:
    """Checkpoints are read to the CPU, whatever device wrote them; in several processes the first one reads for all."""
    saved = torch.load(stopped / "next" / STATE, weights_only=True)["learner"]
    assert saved["update"] is not None
    seen = []

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            seen.append(value.device.type)
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                look(item)

    look(on(saved, torch.device("meta")))
    assert len(seen) > 10
    assert set(seen) == {"meta"}
    assert content_checksum(on(saved, torch.device("cpu"))) == content_checksum(saved)
