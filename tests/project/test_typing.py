"""Types as strict users get them: ``py.typed`` and the annotations, by mypy and by pyright."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("strict_user.py")


def test_the_program_runs() -> None:
    runpy.run_path(str(PROGRAM), run_name="__main__")


def test_pyright_finds_the_mistakes_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="asks basedpyright, which is pyright with a node of its own")
    settings = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": True}
    settings |= {"enableTypeIgnoreComments": False, "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    (tmp_path / "user.py").write_text(PROGRAM.read_text("utf-8"), "utf-8")
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_finds_the_mistakes_and_nothing_else(tmp_path: Path) -> None:
    """Minutes where PyTorch is read anew. In a folder of its own: what is not on the path is found as it is installed."""
    (tmp_path / "user.py").write_text(PROGRAM.read_text("utf-8"), "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "user.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_announced() -> None:
    assert (ROOT / "src" / "maxl" / "py.typed").is_file()
