"""What the name of a trunk says: one of ours, a library's model, or code to be called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CODE_FIELDS = ("trunk", "generator_trunk", "transform")  # module:function in one of these runs code
LIBRARIES = ("timm", "torchvision", "hf")  # LIBRARY:MODEL


def library_of(name: str) -> tuple[str | None, str]:
    """The library that a trunk's name starts with, or None, and the rest of the name."""
    before, colon, rest = name.partition(":")
    return (before, rest) if colon and before in LIBRARIES else (None, name)


def is_code(name: str | None) -> bool:
    """Whether a trunk's name is module:function, which runs code."""
    return name is not None and ":" in name and library_of(name)[0] is None


def runs_code(setting: str, value: Any) -> bool:
    """Whether a setting's value, one name or several, names code of somebody's: of a transform, any module."""
    names = [] if value is None else [value] if isinstance(value, str) else list(value)
    return any(":" in name if setting == "transform" else is_code(name) for name in map(str, names))


def without_place(name: str) -> str:
    """A trunk's name where that is a folder's: its last part, which says what it is rather than where it lies."""
    library, rest = library_of(name)
    lies = library == "hf" and (Path(rest).is_absolute() or Path(rest).is_dir())
    return f"hf:{Path(rest).name}" if lies else name


def names_code(values: Mapping[str, Any]) -> bool:
    """Whether a config's values name code of somebody's, which is called with ``--trust`` alone where they come from a file."""
    return any(runs_code(name, values.get(name)) for name in CODE_FIELDS)


def refuse_code(values: Mapping[str, Any], source: str) -> None:
    """ValueError if values from a file name a trunk ``module:function``: whoever wrote the file would run code."""
    for name in CODE_FIELDS:
        if runs_code(name, values.get(name)):
            raise ValueError(
                f"{source} wants to run code, {name} {values[name]!r}: look at it, and pass --trust "
                "(trust=True in Python) if you trust it"
            )
