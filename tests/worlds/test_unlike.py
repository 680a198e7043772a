"""Processes that differ from each other, in two of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import _unlike
import pytest
from _started import needs_gloo, started


@cache
def found() -> dict[str, list[str | None]]:
    """What was wrong, case by case, in each process."""
    results = started(Path(_unlike.__file__), 2)
    return {name: [result[name] for result in results] for name in results[0]}


@needs_gloo
@pytest.mark.parametrize("case", [case.__name__ for case in _unlike.CASES])
def test_processes_that_differ_train_as_one_or_are_refused_alike(case: str) -> None:
    assert found()[case] == [None, None]
