"""One run in several processes: what one would give, to the end, whatever dies on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from _together import TIMEOUT, together
from maxl.experiments.cli import main
from maxl.experiments.data import BatchStream, Split
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.launch import follows, launched, restarts
from maxl.experiments.runs.processes import ALONE, Processes, joined_processes

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo to talk through"
)
SETTINGS = (
    *("--data", "digits", "--train-size", "120", "--batch-size", "25", "--epochs", "2", "--psi", "2"),
    *(
        "--optimizer",
        "sgd",
        "--learning-rate",
        "0.01",
        "--meta-optimizer",
        "sgd",
        "--meta-learning-rate",
        "0.1",
    ),
    *("--no-tensorboard", "--device", "cpu"),
)
DIES = (
    *("train", *SETTINGS, "--trunk", "dying:make", "--evaluate", "next", "--cache-labels"),
    *("--meta-every", "2", "--epochs", "3"),
)
# A trunk with dropout, whose second process dies by itself in its 12th training pass, once.
DYING = """import os, pathlib
import torch
from torch import nn

class Dying(nn.Module):
    passes = 0
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
    def forward(self, x):
        Dying.passes += self.training
        mark = pathlib.Path(os.environ.get("MARK", "nowhere"))
        if Dying.passes > 12 and os.environ["RANK"] == "1" and mark.exists():
            mark.unlink()
            os._exit(9)
        return self.layers(x)

def make(input_shape):
    return Dying(torch.Size(input_shape).numel())
"""


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = RunFolder(run).read_metrics()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def model(run: Path) -> dict[str, Tensor]:
    return load_file(RunFolder(run).model)


@needs_gloo
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    # An odd batch, whose parts differ in size, and samples of its own that judge.
    given = ("train", *SETTINGS, "--trunk", "convnet4", "--evaluate", "held-out", "--held-out", "0.25")
    assert main([*given, "--out", str(tmp_path / "one")]) == 0
    first, other = together([*given, "--out", "two"], tmp_path)
    assert (first.code, other.code) == (0, 0), first.stderr + other.stderr
    assert "Run folder: two" in first.stdout
    assert other.stdout == other.stderr == ""
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, float):
                assert b[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name, tensor in model(tmp_path / "one").items():
        torch.testing.assert_close(model(tmp_path / "two")[name], tensor, rtol=1e-4, atol=1e-5)
    summary = RunFolder(tmp_path / "two").read_summary()
    assert (summary["processes"], RunFolder(tmp_path / "one").read_summary()["processes"]) == (2, 1)


@needs_gloo
def test_a_run_one_of_whose_processes_dies_goes_on_to_the_same_end(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    whole, mark = tmp_path / "whole", tmp_path / "mark"
    ended = together([*DIES, "--out", "whole"], tmp_path)
    assert [e.code for e in ended] == [0, 0], ended[0].stderr
    mark.touch()
    first, dead = together([*DIES, "--out", "died"], tmp_path, environment={"MARK": str(mark)})
    assert (first.code, dead.code) == (2, 9)
    assert "maxl: error: another process of this run ended" in first.stderr
    assert "torchrun --nproc-per-node=2 -m maxl train --resume died --trust" in first.stderr
    assert "Traceback" not in first.stderr
    run = RunFolder(tmp_path / "died")
    assert run.checkpoint.exists()
    assert not run.finished
    assert main(["train", "--resume", str(run.path), "--trust"]) == 2  # in another number of processes
    ended = together(["train", "--resume", "died", "--trust"], tmp_path)
    assert [e.code for e in ended] == [0, 0], ended[0].stderr
    assert metrics(run.path) == metrics(whole)
    assert all(torch.equal(model(run.path)[name], tensor) for name, tensor in model(whole).items())


@needs_gloo
@pytest.mark.slow
def test_torchrun_starts_it_once_more(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    mark = tmp_path / "mark"
    mark.touch()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "--max-restarts=1", "-m", "maxl", *DIES, "--out", "run"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MARK": str(mark)},
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    assert not mark.exists()  # it has died
    ended = together([*DIES, "--out", "whole"], tmp_path)
    assert [e.code for e in ended] == [0, 0]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


@needs_gloo
def test_a_mistake_is_named_once(tmp_path: Path) -> None:
    first, other = together(["train", *SETTINGS, "--method", "gated", "--out", "run"], tmp_path)
    assert (first.code, other.code) == (2, 2)
    assert first.stderr.startswith("maxl: error: a gate compares gradients of the whole batch")
    assert other.stderr == ""
    assert not list(tmp_path.iterdir())


def test_other_commands_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    command = ["compare", "--data", "digits", "--out", str(tmp_path / "study")]
    assert main(command) == 2
    assert capsys.readouterr().err == "maxl: error: maxl compare is one process: call it without torchrun\n"
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 2
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_what_torchrun_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "MASTER_ADDR", "RANK", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert (launched(), follows(), restarts()) == (1, False, 0)
    with joined_processes("cpu") as processes:
        assert processes is ALONE
    monkeypatch.setenv("WORLD_SIZE", "3")  # of a cluster's own: nobody to talk to
    assert launched() == 1
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert (launched(), follows(), restarts()) == (3, True, 1)


@needs_gloo
@pytest.mark.parametrize("method", ["maxl", "single", "agreement"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_in_one_process_ends_all(rank: int, method: str, tmp_path: Path) -> None:
    """A file that one machine lacks, for instance: nobody waits for who cannot build its network."""
    (tmp_path / "lacking.py").write_text(
        "import os\nfrom torch import nn\n\ndef make(input_shape):\n"
        f"    if os.environ['RANK'] == '{rank}':\n"
        "        raise ValueError('no such file here')\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8))\n"
    )
    command = ["train", *SETTINGS, "--trunk", "lacking:make", "--method", method, "--out", "run"]
    ended = together(command, tmp_path)
    assert {process.code for process in ended} == {2}
    assert sum("no such file here" in process.stderr for process in ended) == 1
    assert not (tmp_path / "run").exists()


@needs_gloo
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:] + rows[:1], "its samples or labels"),
        (lambda rows: [*rows, rows[0]], "the number of its samples"),
        (lambda rows: [row.replace("a,", "c,") for row in rows], "its classes"),
        (None, "cannot be read"),
    ],
    ids=["order", "number", "classes", "missing"],
)
def test_other_data_on_another_machine_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    """Each takes its part of every batch by position: of a table in another order some would count twice, others never."""
    rows = [f"{'ab'[i % 2]},{i % 7},{i % 5}" for i in range(80)]
    machines = [tmp_path / "first", tmp_path / "second"]
    for machine, own in zip(machines, (rows, change and change(rows)), strict=True):
        machine.mkdir()
        text = "not a table" if own is None else "\n".join(["label,x,z", *own]) + "\n"
        (machine / ("t.parquet" if change is None else "t.csv")).write_text(text)
    if change is None:
        pd.DataFrame({"label": ["a", "b"] * 40, "x": range(80), "z": range(80)}).to_parquet(
            machines[0] / "t.parquet"
        )
    file = "t.parquet" if change is None else "t.csv"
    options = ("--epochs", "1", "--batch-size", "25", "--psi", "2", "--no-tensorboard", "--device", "cpu")
    command = ["train", "--data", file, "--method", "single", *options, "--out", str(tmp_path / "run")]
    ended = together(command, tmp_path, machines=machines)
    assert [process.code for process in ended] == [2, 2]
    assert sum(words in process.stderr for process in ended) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size", [7, 10])
def test_parts_of_batches_make_up_the_batches(batch_size: int) -> None:
    x = torch.arange(23, dtype=torch.float32)[:, None]
    split = Split(x, torch.zeros(23, dtype=torch.int64))

    def stream(part: tuple[int, int]) -> list[Tensor]:
        batches = BatchStream(split, batch_size, mean=(), std=(), augment=False, seed=3, part=part)
        return [batch.x for batch in batches.epoch(1)]

    whole, parts = stream((0, 1)), [stream((i, 3)) for i in range(3)]
    assert [len(p[0]) for p in parts] == {7: [2, 2, 3], 10: [3, 3, 4]}[batch_size]
    for batch, *mine in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(mine), batch)


def test_a_batch_has_a_sample_for_each_process() -> None:
    split = Split(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError, match="each of 3 processes needs a sample of every batch; got batches of 2"
    ):
        BatchStream(split, 10, mean=(), std=(), augment=False, seed=0, part=(0, 3))


def test_compiled_passes_are_for_one_process() -> None:
    Processes(0, 2).check(RunConfig())
    with pytest.raises(ValueError, match="--compile is for one process"):
        Processes(0, 2).check(RunConfig(compile=True))


def test_a_state_of_several_processes_goes_on_in_as_many() -> None:
    state = {"epoch": 3, "random": "a", "others": [{"random": "b"}]}
    assert Processes(1, 2).own(state)["random"] == "b"
    assert Processes(0, 2).own(state)["random"] == "a"
    with pytest.raises(ValueError, match="a run in 2 processes and goes on in as many alone; got 1"):
        ALONE.own(state)
    assert ALONE.together({"epoch": 3}, ("epoch",)) == {"epoch": 3}
