"""Every example runs as a person would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("method", ["single", "uniform", "maxl"])
def test_the_plain_loop_learns(method: str) -> None:
    command = [sys.executable, str(EXAMPLES / "loop.py"), "--epochs", "10", "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    name, accuracy = done.stdout.splitlines()[-1].split(": test accuracy ")
    assert name == method
    assert float(accuracy) > 0.7


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this PyTorch has no gloo to talk through"
)
def test_two_processes_train_as_one_does() -> None:
    program = [str(EXAMPLES / "torchrun.py"), "--epochs", "2"]
    alone = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    together = subprocess.run([*launch, *program], capture_output=True, text=True, check=True)
    losses = [
        [float(number) for number in re.findall(r"loss (\d\.\d+)", done.stdout)] for done in (alone, together)
    ]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # float32, and Adam
    assert "2 processes: test accuracy" in together.stdout


def test_every_example_is_run_here() -> None:
    run_here = set(re.findall(r'EXAMPLES / "(\w+\.py)"', Path(__file__).read_text()))
    assert {p.name for p in EXAMPLES.glob("*.py")} == run_here


def test_the_estimator_is_cross_validated() -> None:
    command = [sys.executable, str(EXAMPLES / "sklearn_estimator.py"), "--digits", "100", "--epochs", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(\w+): accuracy (\d\.\d+)", done.stdout))
    assert list(found) == ["single", "uniform", "maxl"]
    assert min(map(float, found.values())) > 0.5


def test_lightnings_trainer_trains() -> None:
    pytest.importorskip("lightning", reason="needs lightning")
    command = [sys.executable, str(EXAMPLES / "lightning_module.py"), "--epochs", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps, accuracy = done.stdout.splitlines()[-1].split(" steps: test accuracy ")
    assert int(steps) == 60
    assert float(accuracy) > 0.7


def test_a_vision_transformer_learns() -> None:
    pytest.importorskip("timm", reason="needs timm")
    command = [sys.executable, str(EXAMPLES / "timm_vit.py"), "--epochs", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1].removeprefix("test accuracy ")) > 0.4


def test_hugging_faces_trainer_trains() -> None:
    pytest.importorskip("accelerate", reason="needs accelerate")
    command = [sys.executable, str(EXAMPLES / "huggingface_trainer.py"), "--epochs", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.fullmatch(r"(\d+) steps: test accuracy (\S+), read again (\S+)", done.stdout.splitlines()[-1])
    assert found is not None
    assert int(found[1]) == 48
    assert found[2] == found[3]
    assert float(found[2]) > 0.3


@pytest.mark.parametrize("library", ["accelerate", "lightning"])
def test_other_peoples_loops_train(library: str) -> None:
    pytest.importorskip(library, reason=f"needs {library}")
    program = {"accelerate": EXAMPLES / "accelerate_loop.py", "lightning": EXAMPLES / "fabric_loop.py"}[
        library
    ]
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    told, accuracy = done.stdout.splitlines()[-1].split(": test accuracy ")
    assert told == "50 steps, processes: 1"
    assert float(accuracy) > 0.7
