"""Where a search looks: the fields of a run that it varies, and between which values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.files import read_yaml
from maxl.experiments.runs.names import CODE_FIELDS
from maxl.experiments.runs.values import nearest
from maxl.experiments.studies.variants import irrelevant_fields

# What a search cannot vary: what is to be learned and from what, how long (an epoch of one trial is compared with the same
# of others), and what changes no result.
FIXED = {
    **dict.fromkeys(
        (
            *(
                "data",
                "primary",
                "task",
                "human",
                "probe",
                "probe_shots",
                "trusted",
                "ignore_index",
                "drop",
                "types",
            ),
            *("train_size", "validation_size", "image_size", "text_length", "augment"),
        ),
        "it says what is learned from",
    ),
    "seed": "a search that chose the luckiest seed would choose nothing else",
    "method": "maxl compare tells methods apart, with several seeds",
    "epochs": "trials are compared epoch by epoch",
    **dict.fromkeys((*MACHINE_FIELDS, "compile", "precision", "channels_last"), "it is of the machine"),
    **dict.fromkeys(CODE_FIELDS, "networks differ in what an epoch costs: search once for each"),
}


@dataclass(frozen=True)
class Between:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low, high: Bounds, low below high.
        log: Whether factors count rather than differences; low is above 0 then.
        whole: Whether only whole numbers are meant.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range needs low below high; got {self.low:g} and {self.high:g}")
        if self.log and not self.low > 0:
            raise ValueError(f"a range with log needs low above 0; got {self.low:g}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that every other one lies between."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True)
class OneOf:
    """Some values.

    Attributes:
        values: At least one; numbers, text or truth values.
    """

    values: tuple[float | int | str | bool, ...]

    def __post_init__(self) -> None:
        if not self.values or any(not isinstance(v, (int, float, str, bool)) for v in self.values):
            raise ValueError(f"choices need to be numbers or words, at least one; got {list(self.values)}")

    @property
    def ends(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values


Space = Mapping[str, Between | OneOf]


def default_space(base: RunConfig, keep: Collection[str] = ()) -> dict[str, Between | OneOf]:
    """What matters to a method: learning rate and weight decay; of labels their weight and number; of learned ones more.

    Args:
        base: The run that is to be tuned.
        keep: Fields that stay as they are.
    """
    sgd = base.optimizer == "sgd"
    space: dict[str, Between | OneOf] = {
        "learning_rate": Between(1e-3, 0.5, log=True) if sgd else Between(1e-4, 3e-2, log=True),
        "weight_decay": Between(1e-6, 1e-2, log=True),
        "auxiliary_weight": Between(0.03, 3.0, log=True),
        "psi": Between(2, 10, whole=True),
        "meta_learning_rate": Between(1e-4, 1e-2, log=True),
        "entropy_weight": Between(0.0, 1.0),
    }
    left_out = {*irrelevant_fields(base.method), *keep, *(["psi"] if len(base.psi) > 1 else [])}
    return {name: values for name, values in space.items() if name not in left_out}


def read_space(path: Path, space: Space) -> dict[str, Between | OneOf]:
    """A space with the changes of a YAML file.

    ``name: {low: 0.001, high: 0.1, log: true}`` is a range, ``name: [16, 32]`` are choices, and ``name: null`` leaves a
    field as it is.

    Raises:
        ValueError: if the file is missing, or names or holds what cannot be searched.
    """
    if not path.is_file():
        raise ValueError(f"--space needs a file; {path} does not exist")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} needs to hold one 'name: range' a line; got {type(content).__name__}")
    changed = dict(space)
    for name, given in content.items():
        require_searchable(str(name), str(path))
        if given is None:
            changed.pop(name, None)
            continue
        try:
            changed[name] = _read(str(name), given)
        except ValueError as error:
            raise ValueError(f"{path}, {name}: {error}") from error
    return changed


def require_searchable(name: str, source: str = "space") -> None:
    """ValueError if a name is no field of a run, or one that a search cannot vary."""
    fields = [f.name for f in dataclasses.fields(RunConfig)]
    if name not in fields:
        raise ValueError(f"{source} has an unknown field {name!r}{nearest(name, fields)}")
    if name in FIXED:
        raise ValueError(f"{source} cannot vary {name}: {FIXED[name]}")


def check_space(space: Space, base: RunConfig) -> None:
    """ValueError unless a space has something to vary, and its ends are values that runs of ``base`` can have."""
    if not space:
        raise ValueError("a search needs a field to vary; the space has none left")
    for name, values in space.items():
        require_searchable(name)
        if name in irrelevant_fields(base.method):
            raise ValueError(f"--method {base.method} does not depend on {name}: leave it out of the space")
        for end in values.ends:
            changed(base, {name: end})


def changed(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A run's config with other values of some fields."""
    return RunConfig.from_dict({**base.to_dict(), **values}, "space")


def space_dict(space: Space) -> dict[str, Any]:
    """Plain values, as a file for ``read_space`` has them."""
    return {
        name: list(v.values)
        if isinstance(v, OneOf)
        else {"low": v.low, "high": v.high, "log": v.log, "whole": v.whole}
        for name, v in space.items()
    }


def _read(name: str, given: Any) -> Between | OneOf:
    if isinstance(given, list):
        return OneOf(tuple(given))
    if not isinstance(given, dict) or not {"low", "high"} <= set(given) <= {"low", "high", "log", "whole"}:
        raise ValueError(
            f"needs {{low: X, high: X, log: true or false}}, a list of choices, or null; got {given!r}"
        )
    kind = next(str(f.type) for f in dataclasses.fields(RunConfig) if f.name == name)
    whole = "int" in kind
    if not whole and "float" not in kind:
        raise ValueError("holds no numbers: give a list of choices")
    ends = []
    for end in ("low", "high"):
        try:
            ends.append(float(given[end]))  # YAML 1.1 reads 1e-3 as a text
        except (TypeError, ValueError):
            raise ValueError(f"{end} needs to be a number; got {given[end]!r}") from None
        if isinstance(given[end], bool) or (whole and ends[-1] != int(ends[-1])):
            raise ValueError(f"{end} needs to be a {'whole ' * whole}number; got {given[end]!r}")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log needs to be true or false; got {log!r}")
    return Between(ends[0], ends[1], log=log, whole=whole)
