"""Names and values of a run's fields: as flags, in messages, and from YAML."""

from __future__ import annotations

import dataclasses
from typing import Any

from maxl.experiments.runs.methods import OWN
from maxl.presets import did_you_mean

_FLAGS = {"from_run": "--from"}  # from is no name that Python takes for a field


def flag(name: str) -> str:
    """A field's flag."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def nearest(name: str, known: Any) -> str:
    """'; did you mean …?' where a known name is near, else the known names."""
    names = [str(k) for k in known]
    return did_you_mean(name, names) or f"; choose from {', '.join(names)}"


def as_now(name: str, value: Any) -> Any:
    """A field's value from a file, by the word for it where an older version had none."""
    return OWN if name == "generator_trunk" and value is None else value


def coerce(f: dataclasses.Field[Any], value: Any, source: str) -> Any:
    """A YAML value as the field's type; ValueError if it is of another kind."""
    kind = str(f.type)
    plain = not isinstance(value, bool)
    if value is None and "None" in kind:
        return None
    if "tuple[str" in kind and isinstance(value, (list, tuple)):
        if value and all(isinstance(i, (str, int)) and not isinstance(i, bool) for i in value):
            return tuple(map(str, value))
    elif kind.startswith("tuple"):
        items = value if isinstance(value, (list, tuple)) else [value]
        if all(isinstance(i, int) and not isinstance(i, bool) for i in items):
            return tuple(items)
    elif kind.startswith("float") and plain and _is_number(value):  # YAML 1.1 reads 1e-3 as a string
        return float(value)
    elif kind.startswith("str") and plain and isinstance(value, (str, int)):
        return str(value)
    elif (kind.startswith("int") and plain and isinstance(value, int)) or (
        kind.startswith("bool") and isinstance(value, bool)
    ):
        return value
    raise ValueError(f"{source}: {f.name} needs a value of kind {kind}; got {value!r}")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
