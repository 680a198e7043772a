"""The list of broken lines follows the sources; that tests catch them is for ``dev/mutations.py`` to say."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def mutations() -> Any:
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "dev" / "mutations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # named tuples look their module up
    spec.loader.exec_module(module)
    return module


def test_each_stands_in_its_file_once_changes_it_and_has_its_tests() -> None:
    listed = mutations()
    for mutation in listed.MUTATIONS:
        file, changed = listed.broken(ROOT, mutation)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(file.read_text("utf-8"))), mutation
        for name in mutation.tests.split():
            assert (ROOT / "tests" / name).is_file(), name


def test_one_that_does_not_stand_there_is_named() -> None:
    listed = mutations()
    with pytest.raises(ValueError, match=r"needs its line once in losses.py; got 0 times 'no such line'"):
        listed.broken(ROOT, listed.Mutation("losses.py", "no such line", "", "test_losses.py"))
