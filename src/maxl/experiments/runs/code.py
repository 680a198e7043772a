"""A user's own code, which a setting names as module:function."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any


def imported(name: str, flag: str) -> Any:
    """What ``module:function`` names, in the working folder or installed.

    Args:
        name: The two names.
        flag: Of the setting, for messages.

    Raises:
        ValueError: if it cannot be imported.
    """
    module, _, function = name.partition(":")
    try:
        with importable(Path.cwd()):
            return getattr(import_module(module), function)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"--{flag} {name} needs the function '{function}' of the module '{module}', in this folder or installed; "
            f"importing it fails with {type(error).__name__}: {error}"
        ) from error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Within: modules of the folder can be imported, as when Python itself is started there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
