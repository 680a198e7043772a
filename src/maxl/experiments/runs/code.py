"""A user's own code, which a setting names as module:function."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn


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


def require_tensors(model: nn.Module, name: str) -> None:
    """ValueError if the state of a user's trunk holds what a run cannot keep; ``name`` is the trunk's."""
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the state of a trunk needs to be tensors; '{key}' of '{name}' is {type(value).__name__} (get_extra_state): make "
                "it a buffer, or leave it out"
            )


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Within: modules of the folder can be imported, as when Python itself is started there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
