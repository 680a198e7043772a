"""Memory that runs out: one sentence, the last checkpoint intact, and a run that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import maxl.experiments.runs.checkpoint as checkpoint
from _run_helpers import digits, metrics, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.memory import OutOfMemory, bytes_asked, is_out_of_memory
from maxl.experiments.runs.trainer import Trainer, resume, train
from maxl.learning import MetaAuxiliaryLearner

CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1 GiB free.\nSee more"
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 5368709120 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = {"cuda": CUDA, "cpu": CPU, "python": MemoryError()}
ASKED = {"cuda": " (2.50 GiB more were asked for)", "cpu": " (5.00 GiB more were asked for)", "python": ""}
FLAGS = "--data digits --train-size 100 --trunk mlp --psi 3 --epochs 3 --batch-size 25 --device cpu --no-tensorboard"


def fails_at(step: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The so-many-th training step, from 1, gets no memory."""
    before, count = MetaAuxiliaryLearner.step, 0

    def short(self: MetaAuxiliaryLearner, *args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count == step:
            raise error
        return before(self, *args, **kwargs)

    monkeypatch.setattr(MetaAuxiliaryLearner, "step", short)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_step_without_memory_ends_in_one_sentence_and_the_run_goes_on_as_if_nothing_had_been(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        fails_at(6, ERRORS[kind], patch)  # in the second of three epochs of four steps
        assert main(["train", *FLAGS.split()]) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("maxl: note: ")]
    assert said == (
        f"maxl: error: memory ran out in a step of epoch 2 on cpu{ASKED[kind]}: train anew with smaller batches "
        "than 25, such as --batch-size 12; what is finished is kept: where more memory comes free, continue with: "
        "maxl train --resume run"
    )
    folder = RunFolder(Path("run"))
    assert (folder.finished, folder.diverged, folder.model.exists()) == (False, False, False)
    assert [row["epoch"] for row in metrics(folder.path)] == [1]
    assert main(["train", "--resume", "run"]) == 0
    assert main(["train", *FLAGS.split(), "--out", "whole"]) == 0
    assert metrics(Path("run")) == metrics(Path("whole"))
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_the_first_step_without_memory_leaves_a_run_that_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fails_at(1, CUDA, patch)
        with pytest.raises(OutOfMemory, match=r"in a step of epoch 1 .* such as --batch-size 12$"):
            train(tiny(), tmp_path / "run", data=digits())
    resume(tmp_path / "run", data=digits())
    train(tiny(), tmp_path / "whole", data=digits())
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_batch_of_one_sample_has_no_smaller_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_at(1, CPU, monkeypatch)
    with pytest.raises(OutOfMemory, match=r"anew with a smaller --trunk or --image-size$"):
        train(tiny(batch_size=1), tmp_path / "run", data=digits())


def test_a_look_without_memory_does_not_blame_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(self: Trainer) -> None:
        raise CUDA

    monkeypatch.setattr(Trainer, "look", short)
    with pytest.raises(OutOfMemory, match=r"in looking at epoch 1, 500 samples at a time.*smaller --trunk"):
        train(tiny(), tmp_path / "run", data=digits())


def test_data_and_networks_that_do_not_fit_into_memory_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def short(*_: object, **__: object) -> None:
        raise CPU

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("maxl.experiments.runs.trainer.build", short)
    with pytest.raises(OutOfMemory, match=r"in building the networks .* smaller --trunk or --psi"):
        train(tiny(), tmp_path / "run", data=digits())
    monkeypatch.setattr("maxl.experiments.runs.loading.load", short)
    with pytest.raises(OutOfMemory, match=r"in reading the data .* --train-size"):
        load_data(tiny())
    assert main(["train", *FLAGS.split()]) == 2
    error = capfd.readouterr().err
    assert error.endswith("lower --image-size or --train-size\n")  # nothing to continue
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_elsewhere_is_one_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def short(*_: object, **__: object) -> None:
        raise CPU

    monkeypatch.setattr("maxl.experiments.runs.checking.build", short)
    assert main(["check", "--trunk", "mlp", "--shape", "4", "--device", "cpu", "--quiet"]) == 2
    assert capfd.readouterr().err == (
        "maxl: error: memory ran out in maxl check (5.00 GiB more were asked for): ask for less, or end other programs\n"
    )


def test_a_checkpoint_that_memory_does_not_suffice_to_read_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fails_at(6, CUDA, patch)
        with pytest.raises(OutOfMemory):
            train(tiny(epochs=3), tmp_path / "run", data=digits())

    asked = ""

    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {asked}.")

    kept = (tmp_path / "run/checkpoint/state.pt").read_bytes()
    asked = "20.00 MiB"
    for place in ((checkpoint.torch, "load"), (checkpoint, "content_checksum")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, short)
            with pytest.raises(torch.OutOfMemoryError):
                resume(tmp_path / "run", data=digits())
    assert [p.name for p in (tmp_path / "run/checkpoint").iterdir()] == ["state.pt"]
    assert (tmp_path / "run/checkpoint/state.pt").read_bytes() == kept
    asked = "20.00 GiB"  # far more than the file holds, so what the file says is wrong
    monkeypatch.setattr(checkpoint.torch, "load", short)
    with pytest.raises(ValueError, match=r"state.pt is damaged: CUDA out of memory"):
        resume(tmp_path / "run", data=digits())


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_at(1, RuntimeError("shapes differ"), monkeypatch)
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        train(tiny(), tmp_path / "run", data=digits())


def test_what_the_machine_itself_says_is_understood() -> None:
    with pytest.raises(RuntimeError) as overflow:
        torch.empty(2**40, 2**40)
    assert is_out_of_memory(overflow.value)
    assert bytes_asked(overflow.value) is None
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**58)
    assert is_out_of_memory(refused.value)
    assert bytes_asked(refused.value) == 2**60
