"""A run is repeated to the last bit: again, continued, or with other threads around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import Interrupted, interrupt_after, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from _trainer_helpers import DATA
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import resume, train


@pytest.mark.parametrize("method", ["single", "random", "kmeans", "maxl", "weighted"])
def test_a_seed_fixes_a_run_to_the_last_bit(method: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(len(name))  # what happened before in the process does not matter
        train(tiny(method=method, seed=seed), tmp_path / name, data=DATA)
    a, b, c = (model(tmp_path / name) for name in "abc")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b") != metrics(tmp_path / "c")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["primary_head.0.weight"], c["primary_head.0.weight"])


def test_the_config_file_of_a_run_repeats_it(tmp_path: Path) -> None:
    config = tiny(psi=[2] * 9 + [4], optimizer="adam", learning_rate=1e-3, regulariser="information")
    train(config, tmp_path / "a")
    repeated = RunConfig.read(tmp_path / "a" / "config.yaml")
    assert repeated == config
    train(repeated, tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


RESUMED: dict[str, dict[str, Any]] = {
    "next batch, cached labels": {"evaluate": "next", "meta_every": 2, "cache_labels": True},
    "next batch, update open at the checkpoint": {"evaluate": "next", "trunk": "convnet4"},
    "batch statistics": {
        "evaluate": "next",
        "trunk": "convnet4",
        "label_statistics": "batch",
        "generator_trunk": "own",
    },
    "weighted, adam": {"method": "weighted", "optimizer": "adam", "meta_optimizer": "adam"},
    "held out": {"evaluate": "held-out", "trunk": "convnet4", "optimizer": "sgd", "momentum": 0.9},
    "rotating folds": {"evaluate": "rotating", "held_out": 0.3},
    "gated": {"method": "gated", "evaluate": "next", "meta_every": 2},
    "alternating epochs": {"schedule": "epochs", "lookahead": "virtual", "decay": "cosine"},
    "single, momentum": {"method": "single", "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3},
    "k-means": {"method": "kmeans", "optimizer": "adamw"},
    "dropout": {"trunk": "with dropout", "evaluate": "next"},
    "a trunk of its own": {"trunk": "convnet4", "generator_trunk": "own", "evaluate": "next"},
    "rates by layer, frozen parts, warm-up": {
        **{"trunk": "convnet4", "evaluate": "next", "optimizer": "adamw", "warmup": 1.5},
        **{"freeze": ["layers.0", "layers.1"], "layer_decay": 0.7, "trunk_learning_rate": 5e-4},
    },
    "a trunk of its own, cached labels": {"generator_trunk": "own", "meta_every": 2, "cache_labels": True},
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_an_interruption_leaves_no_trace(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if changes.get("trunk") == "with dropout":
        monkeypatch.setattr("maxl.experiments.runs.build.trunks.build", lambda *_, **__: dropout_trunk())
    config = tiny(**{"method": "maxl", "epochs": 3, **changes})
    train(config, tmp_path / "whole", data=DATA)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "cut", data=DATA, report=interrupt_after(2))
    assert not RunFolder(tmp_path / "cut").finished
    assert [row["epoch"] for row in metrics(tmp_path / "cut")] == [1, 2]  # but the checkpoint is of epoch 1
    torch.rand(7)
    summary = resume(tmp_path / "cut", data=DATA)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    expected, weights = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert weights == expected
    assert summary["test_accuracy"] == metrics(tmp_path / "whole")[-1]["test_accuracy"]


LOOKS: dict[str, dict[str, Any]] = {
    "dropout": {},
    "batch statistics": {"trunk": "convnet4", "label_statistics": "batch", "generator_trunk": "own"},
    "dropout and batch statistics": {"label_statistics": "batch", "generator_trunk": "own"},
    "random labels": {"method": "random"},
    "rotating folds": {"evaluate": "rotating", "held_out": 0.3},
}


@pytest.mark.parametrize("changes", LOOKS.values(), ids=LOOKS)
def test_looks_leave_no_trace_in_what_is_trained(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "trunk" not in changes:
        monkeypatch.setattr("maxl.experiments.runs.build.trunks.build", lambda *_, **__: dropout_trunk())
    for name, every in (("often", 1), ("seldom", 3)):
        train(tiny(**{"epochs": 3, "look_every": every, **changes}), tmp_path / name, data=DATA)
    often, seldom = (metrics(tmp_path / name) for name in ("often", "seldom"))
    assert [set(a) - set(b) != set() for a, b in zip(often, seldom, strict=True)] == [True, True, False]
    assert seldom == [{name: a[name] for name in b} for a, b in zip(often, seldom, strict=True)]
    expected, weights = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("often", "seldom"))
    assert weights == expected


def note_threads(seen: list[int]) -> Any:
    return lambda row: seen.append(torch.get_num_threads())


@pytest.mark.parametrize("method", ["kmeans", "maxl"])
def test_the_bits_of_a_run_do_not_depend_on_the_threads_around_it(method: str, tmp_path: Path) -> None:
    config = tiny(method=method, train_size=300, batch_size=150, trunk="convnet4", epochs=1)
    seen: list[int] = []
    for count in (1, 3):
        torch.set_num_threads(count)
        run = train(config, tmp_path / str(count), report=note_threads(seen))
        assert (run["threads"], torch.get_num_threads()) == (1, count)
    assert seen == [1, 1]
    assert metrics(tmp_path / "1") == metrics(tmp_path / "3")
    expected, weights = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("1", "3"))
    assert weights == expected


def test_a_run_uses_the_threads_of_its_config_and_its_continuation_does(tmp_path: Path) -> None:
    seen: list[int] = []

    def cut(row: dict[str, Any]) -> None:
        seen.append(torch.get_num_threads())
        interrupt_after(2)(row)

    with pytest.raises(Interrupted):
        train(tiny(epochs=3, threads=2), tmp_path, data=DATA, report=cut)
    assert resume(tmp_path, data=DATA, report=note_threads(seen))["threads"] == 2
    assert (set(seen), torch.get_num_threads()) == ({2}, 1)


def test_a_run_continued_elsewhere_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        train(tiny(epochs=4), tmp_path, data=DATA, report=interrupt_after(2))
    first = torch.load(tmp_path / "checkpoint" / "state.pt", weights_only=True)["origin"]
    moved = {**first, "machine": "another", "versions": {**first["versions"], "torch": "9.9"}}
    monkeypatch.setattr("maxl.experiments.runs.trainer.origin", lambda *_: moved)
    with pytest.raises(Interrupted):
        resume(tmp_path, data=DATA, report=interrupt_after(3))
    summary = resume(tmp_path, data=DATA)  # a second time on the other machine: said once
    assert summary["machine"] == f"{first['machine']}, then another"
    assert summary["versions"]["torch"] == f"{torch.__version__}, then 9.9"
    assert summary["versions"]["python"] == first["versions"]["python"]
    assert (summary["device"], summary["threads"]) == ("cpu", 1)


def dropout_trunk() -> torch.nn.Module:
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.5)]
    trunk = torch.nn.Sequential(*layers)
    trunk.feature_dim = 32
    return trunk


def test_an_interruption_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    train(tiny(), tmp_path / "whole", data=DATA)
    with pytest.raises(Interrupted):
        train(tiny(), tmp_path / "cut", data=DATA, report=interrupt_after(1))
    resume(tmp_path / "cut", data=DATA)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_lines_after_the_last_checkpoint_are_written_again(tmp_path: Path) -> None:
    config = tiny(epochs=4, checkpoint_every=3)
    train(config, tmp_path / "whole", data=DATA)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "cut", data=DATA, report=interrupt_after(2))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_lo')  # cut off while writing
    resume(tmp_path / "cut", data=DATA)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_what_cannot_be_resumed_or_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--resume needs the folder of a run; .* holds none"):
        resume(tmp_path / "none", data=DATA)
    assert not (tmp_path / "none").exists()
    train(tiny(epochs=1), tmp_path / "run", data=DATA)
    with pytest.raises(ValueError, match=r"needs an unfinished run; .* is finished"):
        resume(tmp_path / "run", data=DATA)
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(ValueError, match=r"--out needs a folder without a run; .* --resume"):
        train(tiny(epochs=1), tmp_path / "run", data=DATA)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--out needs a folder; .* is a file"):
        train(tiny(epochs=1), tmp_path / "file", data=DATA)
