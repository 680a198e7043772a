"""Every example runs as a person would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("method", ["single", "uniform", "maxl"])
def test_the_plain_loop_learns(method: str) -> None:
    command = [sys.executable, str(EXAMPLES / "loop.py"), "--epochs", "10", "--method", method]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    name, accuracy = done.stdout.splitlines()[-1].split(": test accuracy ")
    assert name == method
    assert float(accuracy) > 0.7


def test_every_example_is_run_here() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == {"loop.py"}
