"""Processes that differ from each other, in two of them."""

from __future__ import annotations

from pathlib import Path

import _unlike
import pytest
from _started import needs_gloo, wrong


@needs_gloo
@pytest.mark.parametrize("case", [case.__name__ for case in _unlike.CASES])
def test_processes_that_differ_train_as_one_or_are_refused_alike(case: str) -> None:
    assert wrong(Path(_unlike.__file__), 2)[case] == [None, None]
