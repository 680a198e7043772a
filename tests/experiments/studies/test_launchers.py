"""Runs as tasks of Ray: the table of a local study, whatever dies, and nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from _run_helpers import TINY, files, metrics, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import resume
from maxl.experiments.studies.ray import RayTasks
from maxl.experiments.studies.study import Study

MEASURED = ["seconds_per_step", "seconds_total", "peak_memory_bytes"]  # what two equal runs do not share
SMALL = (
    f"--data digits --train-size {TINY['train_size']} --trunk mlp --psi 3 --batch-size 25 --no-tensorboard "
    "--device cpu --methods single --launcher ray"
).split()


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray of two CPUs and one GPU, which is said to be there and is not; its processes end with the tests."""
    if os.name == "nt":
        pytest.skip("Ray calls its support of Windows beta")
    folder = f"/tmp/maxl-{os.getpid()}"  # names of sockets are limited
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else each worker is a `uv run` of its own
        patch.delenv("RAY_ADDRESS", raising=False)
        ray = pytest.importorskip("ray", reason="the extra ray is not installed")
        sigterm = signal.getsignal(signal.SIGTERM)
        try:
            context = ray.init(
                "local",
                num_cpus=2,
                num_gpus=1,
                include_dashboard=False,
                object_store_memory=80 << 20,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=folder,
            )
            signal.signal(signal.SIGTERM, sigterm)
            yield context.address_info["gcs_address"]
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
    assert not [args for args in processes(os.getsid(0)) if folder in args]


def processes(session: int) -> list[str]:
    """The command lines of a session's processes."""
    listed = subprocess.run(["ps", "-wweo", "sid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [row[1] for row in rows if int(row[0]) == session]


@pytest.fixture
def local_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local runs one after another here: starting processes takes longer than the runs."""
    runs_here(monkeypatch)


def same_tables(first: Path, second: Path) -> None:
    one, other = (pd.read_csv(folder / "results.csv").drop(columns=MEASURED) for folder in (first, second))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (first / "comparisons.csv").read_bytes() == (second / "comparisons.csv").read_bytes()


class Killer(threading.Thread):
    """Kills, with SIGKILL, the process that makes a run, in the middle of it and so many times."""

    def __init__(self, out: Path, epochs: int, times: int = 1) -> None:
        super().__init__(daemon=True)
        self.out, self.epochs, self.times = out, epochs, times
        self.killed: list[tuple[Path, int]] = []
        self.stop = False

    def run(self) -> None:
        while not self.stop and len(self.killed) < self.times:
            for file in list(self.out.glob("runs/*/*/metrics.jsonl")):
                run = RunFolder(file.parent)
                if run.finished or not 2 <= len(run.read_metrics()) < self.epochs - 8:
                    continue
                try:
                    pid = json.loads((run.path / ".holder").read_text())["process"]
                    os.kill(pid, signal.SIGKILL)
                except (OSError, ValueError):  # it has just ended
                    continue
                self.killed.append((run.path, len(run.read_metrics())))
                break
            time.sleep(0.005)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.usefixtures("ray_address", "local_in_this_process")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "seeds"), [(["single"], [0, 1]), (["single", "uniform", "random"], [0, 1, 2, 3])]
)
def test_a_study_whose_worker_is_killed_has_the_table_of_a_local_one(
    methods: list[str], seeds: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = 20
    study = Study(tiny(epochs=epochs), methods, seeds)
    count = len(study.plan())
    killer = Killer(tmp_path / "ray", epochs)
    killer.start()
    progress: list[tuple[int, int, str]] = []
    estimates: list[str] = []
    with pytest.warns(RunWarning, match=r"its process died .*; it goes on from its checkpoint"):
        study.run(
            tmp_path / "ray",
            launcher=RayTasks(),
            progress=lambda *now: progress.append(now),
            estimate=estimates.append,
        )
    killer.stop = True
    assert capsys.readouterr().out == ""  # what Ray prints of a death is no result
    ((path, epoch),) = killer.killed
    assert epoch < epochs
    assert [row["epoch"] for row in metrics(path)] == list(range(1, epochs + 1))
    assert progress[-1][:2] == (count * epochs, count * epochs)
    assert progress[-1][2].startswith(f"{count}/{count} runs")
    assert estimates[0].endswith(f"for {count} runs, 2 at a time, once processes have started")
    study.run(tmp_path / "local", jobs=1)
    same_tables(tmp_path / "ray", tmp_path / "local")
    for run in study.plan():
        assert metrics(tmp_path / "ray" / run.path) == metrics(tmp_path / "local" / run.path)
    assert files(tmp_path / "ray") == files(tmp_path / "local")


BROKEN = """import sys
import torch
class Broken(torch.nn.Linear):
    def forward(self, x):
        if "default_worker" in sys.argv[0] and self.training and len(x) == 25:
            raise RuntimeError("this one breaks")
        return super().forward(x)
def make(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), Broken(64, 8))
def fine(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
"""


@pytest.mark.usefixtures("ray_address")
def test_a_run_that_fails_is_named_and_the_others_have_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_here.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    grid = {"trunk": ["broken_here:fine", "broken_here:make"]}
    study = Study(tiny(epochs=1, trunk="broken_here:fine"), ["single"], [0, 1], grid)
    out = tmp_path / "study"
    with pytest.raises(ChildProcessError) as raised:
        study.run(out, launcher=RayTasks(), jobs=1)
    said = str(raised.value)
    bad = [p.path for p in study.plan() if p.config.trunk.endswith("make")]
    assert len(bad) == 2
    for path in bad:
        assert f"{out / path}: RuntimeError: this one breaks" in said
    assert said.endswith(f"; {out / 'results.csv'} has the other runs, and the same command tries again")
    assert pd.read_csv(out / "results.csv")["seed"].tolist() == [0, 1]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.usefixtures("ray_address")
@pytest.mark.slow
def test_a_run_whose_process_dies_without_an_epoch_between_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal, sys, torch\n"
        "def make(shape):\n"
        "    if 'default_worker' in sys.argv[0]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))\n"
    )
    study = Study(tiny(epochs=1, trunk="deadly:make"), ["single"], [0])
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RunWarning)
        with pytest.raises(ValueError, match=r"has a result: the process of .* died twice without an epoch"):
            study.run(tmp_path / "study", launcher=RayTasks())
    assert len([w for w in warned if issubclass(w.category, RunWarning)]) == 1


@pytest.mark.parametrize("content", [b"another machine's", None])
@pytest.mark.usefixtures("ray_address")
def test_a_folder_that_a_machine_does_not_see_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(path: Path, _: bytes) -> None:
        if content is not None:
            path.write_bytes(content)

    monkeypatch.setattr("maxl.experiments.studies.ray.write_at_once", elsewhere)
    study = Study(tiny(epochs=1), ["single"], [0])
    with pytest.raises(
        ValueError, match=r"--out needs a folder that every machine of the Ray sees; .*study is"
    ):
        study.run(tmp_path / "study", launcher=RayTasks())
    assert files(tmp_path) == []


@pytest.mark.usefixtures("ray_address")
def test_another_version_on_a_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxl.experiments.studies.ray.metadata.version", lambda _: "9.9")
    study = Study(tiny(epochs=1), ["single"], [0])
    with pytest.raises(ValueError, match=r"needs the same maxl; .* this one 9.9: install one there"):
        study.run(tmp_path / "study", launcher=RayTasks())
    assert files(tmp_path) == []


@pytest.mark.usefixtures("ray_address")
def test_each_run_on_a_gpu_asks_for_one(tmp_path: Path) -> None:
    def at_a_time(most: int | None = None, **settings: Any) -> int:
        with RayTasks().open(tmp_path, [tiny(**settings)]) as crew:
            return crew.at_a_time(most)

    assert at_a_time(device="cpu") == 2
    assert at_a_time(device="cuda") == 1  # the one that the Ray is said to have
    assert at_a_time(device="auto") == 1
    assert at_a_time(device="cpu", threads=2) == 1
    assert [at_a_time(most, device="cpu") for most in (1, 8)] == [1, 2]
    with pytest.raises(ValueError, match=r"needs a machine with 3 free CPUs for a run; .*: 2 CPUs, 1 GPUs"):
        at_a_time(device="cpu", threads=3)
    with pytest.raises(ValueError, match=r"--device cuda:1 is one of a single machine; .* give cuda"):
        at_a_time(device="cuda:1")
    assert files(tmp_path) == []


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("maxl.experiments.studies.ray.find_spec", lambda _: None)
    assert main(["compare", *SMALL, "--epochs", "1", "--seeds", "0", "--out", str(tmp_path / "study")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == 'maxl: error: --launcher ray needs ray: pip install "maxl-torch[ray]"'
    assert files(tmp_path) == []


def test_ray_is_imported_where_it_is_asked_for() -> None:
    program = (
        "import sys, maxl.experiments.cli, maxl.experiments.studies.ray; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", "http://head:8265"])
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"--ray-address needs HOST:PORT or auto, .*; got {address}"):
        RayTasks(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=f"got {address}"):
        RayTasks()


def test_an_address_at_which_there_is_no_ray_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    words = [*SMALL, "--epochs", "1", "--seeds", "0", "--out", "study", "--ray-address", "127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "maxl", "compare", "-q", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--ray-address 127.0.0.1:1 cannot be used here: " in line
    assert files(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="needs sessions of processes")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "own"), [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, True)]
)
def test_an_interrupted_study_ends_its_tasks_and_goes_on(
    number: signal.Signals,
    code: int,
    own: bool,
    tmp_path: Path,
    ray_address: str,
    local_in_this_process: None,
) -> None:
    """By Ctrl-C on a Ray that is there, and by SIGTERM on one that the command has started."""
    line = [*SMALL, "--seeds", "0", "--out", "study", *([] if own else ["--ray-address", ray_address])]
    words = ["compare", "-q", *line, "--epochs", "3000"]
    run = RunFolder(tmp_path / "study/runs/single/seed0")
    log = tmp_path / "log"
    with log.open("w") as errors:
        command = subprocess.Popen(
            [sys.executable, "-m", "maxl", *words], cwd=tmp_path, stderr=errors, start_new_session=True
        )
        try:
            until = time.monotonic() + 240
            while not (run.metrics.exists() and len(run.read_metrics()) > 2):
                assert time.monotonic() < until, log.read_text()
                assert command.poll() is None, log.read_text()
                time.sleep(0.05)
            command.send_signal(number)
            assert command.wait(timeout=120) == code
        finally:
            if command.poll() is None:
                command.kill()
    if own:
        assert processes(command.pid) == []
    done = len(run.read_metrics())
    assert not run.finished
    assert not (run.path / ".holder").exists()
    assert (run.path / "checkpoint/state.pt").exists()
    time.sleep(0.3)
    assert len(run.read_metrics()) == done  # nobody goes on
    last = log.read_text().splitlines()[-1]
    assert last.endswith(f"continue with: {shlex.join(['maxl', *words])}")
    assert not list((tmp_path / "study").glob(".shared*"))

    def stop(row: dict[str, object]) -> None:
        assert row["epoch"] == done + 1  # what was reported is saved
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(run.path, label="single", report=stop)
