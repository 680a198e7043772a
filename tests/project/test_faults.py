"""The script that counts what becomes of runs when things fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "dev" / "faults.py"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


def counts(*arguments: str) -> dict[str, tuple[int, ...]]:
    """Tried, right, refused and wrong of each kind."""
    run = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    rows = re.findall(r"^([a-z-]+) +(\d+) +(\d+) +(\d+) +(\d+)", run.stdout, re.MULTILINE)
    assert run.returncode == 0, run.stdout + run.stderr
    return {name: tuple(map(int, numbers)) for name, *numbers in rows}


def test_a_few_cases_are_right_or_refused() -> None:
    found = counts("--cases", "3", "--only", "checkpoints", "harm")
    assert list(found) == ["checkpoints", "harm", "all"]
    assert found["all"][0] == 6
    assert all(tried == right + refused and wrong == 0 for tried, right, refused, wrong in found.values())


@pytest.mark.slow
def test_the_quick_version_tries_every_kind_and_finds_nothing_wrong() -> None:
    found = counts("--quick")
    assert len(found) == 10
    assert all(tried == right + refused > 0 and wrong == 0 for tried, right, refused, wrong in found.values())
