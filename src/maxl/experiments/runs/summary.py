"""summary.json: reading it back, from this program, an older one, or a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maxl.experiments.data import TASKS, MixedShape
from maxl.experiments.runs.files import read_json, sha256
from maxl.experiments.runs.measures import MEASURES, OUTCOMES, Measure, main_measure, task_of

CHECKSUM = "checksum"
PARTS = ("train", "validation", "test")
_MOST_VALUES = 1 << 24  # of one input; an image of 2000 by 2000 pixels has 12 million


def checksum_of(summary: Mapping[str, Any]) -> str:
    """The checksum of a summary, its own entry left out."""
    rest = {name: value for name, value in summary.items() if name != CHECKSUM}
    return sha256(json.dumps(rest, sort_keys=True).encode())


def read_summary(path: Path) -> dict[str, Any]:
    """The result of a run.

    Entries that an older version did not write may be missing; those that are there are of their kind.

    Raises:
        ValueError: if the file is no summary of a run, or damaged; the message names it.
    """
    summary = read_json(path)
    sealed = CHECKSUM in summary or "checksums" in summary  # an older version wrote neither
    if sealed and summary.get(CHECKSUM) != checksum_of(summary):
        raise ValueError(f"{path} does not have its checksum: it was damaged or changed; train the run again")
    if summary.get("task") is not None and summary["task"] not in TASKS:
        raise ValueError(f"{path} needs a task of {', '.join(TASKS)}; got {_short(summary['task'])}")
    for name in ("method", "seed", "data", main_measure(task_of(summary)).key):
        if summary.get(name) is None:
            raise ValueError(f"{path} needs {name!r}; it is missing: repeat the run")
    for name, (fits, kind) in _KINDS.items():
        value = summary.get(name)
        if value is not None and not fits(value):
            raise ValueError(
                f"{path} needs {'an' if name[0] in 'aeiou' else 'a'} {name} {kind}; got {_short(value)}"
            )
    return summary


def require_model(summary: Mapping[str, Any], path: Path) -> None:
    """ValueError unless a summary says what its model takes and gives: shape, normalisation, names of classes."""
    regression = task_of(summary) == "regression"
    for name in ("primary_names", "input_shape", "mean", "std", *["targets"] * regression):
        if summary.get(name) is None:
            raise ValueError(f"{path} needs {name!r}; it is missing: train the run again")
    shape, features = summary["input_shape"], summary.get("features")
    normalised = features or summary
    if regression:
        targets, count = summary["targets"], len(summary["primary_names"])
        for name in ("mean", "std"):
            if len(targets[name]) != count:
                raise ValueError(f"{path} needs {name} for each of {count} targets; got {len(targets[name])}")
    if features and len(features["names"]) != shape[0]:
        raise ValueError(f"{path} needs a name for each of {shape[0]} features; got {len(features['names'])}")
    if image := summary.get("image_shape"):
        if len(shape) != 1 or shape[0] <= math.prod(image) or not summary.get("columns") or features:
            raise ValueError(
                f"{path} needs columns beside images of shape {tuple(image)}; its shape is {shape}"
            )
        shape = image
    for name in ("mean", "std"):
        if len(normalised[name]) not in (1, shape[0]):
            raise ValueError(
                f"{path} needs {name} for each of {shape[0]} {'channels' if len(shape) == 3 else 'features'}; "
                f"got {len(normalised[name])}"
            )


def shape_of(summary: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one sample of a run's model; a ``MixedShape`` where it is an image beside columns."""
    (*shape,), image = summary["input_shape"], summary.get("image_shape")
    if image is None:
        return tuple(shape)
    return MixedShape(shape[0] - math.prod(image), (image[0], image[1], image[2]))


def is_number(value: object) -> bool:
    """Whether a value of JSON is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _whole(low: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def _text(value: object) -> bool:
    return isinstance(value, str)


def _names(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_text, value))


def _numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(is_number, value))


def _scales(value: object) -> bool:
    return isinstance(value, list) and _numbers(value) and all(v > 0 for v in value)


def _psi(value: object) -> bool:
    return _whole(1)(value) or (isinstance(value, list) and len(value) > 0 and all(map(_whole(1), value)))


def _shape(value: object) -> bool:
    if not isinstance(value, list) or len(value) not in (1, 3) or not all(map(_whole(1), value)):
        return False
    return math.prod(value) <= _MOST_VALUES


def _features(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _names(value.get("names"))
        and _numbers(value.get("mean"))
        and _scales(value.get("std"))
    )


def _tokens(value: object) -> bool:
    return isinstance(value, dict) and _text(value.get("column")) and _whole(1)(value.get("length"))


def _checksums(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def kind_of(measure: Measure) -> tuple[Callable[[object], bool], str]:
    """What values of a measure are: a check, and words for it."""
    if (measure.low, measure.high) == (0, 1):
        return _SHARE
    if measure.low == 0:
        return (lambda value: is_number(value) and value >= 0), "of at least 0"
    return (lambda value: is_number(value) and value <= measure.high), f"of at most {measure.high:g}"


_NUMBER = (is_number, "that is a number")
_TEXT = (_text, "that is text")
_SHARE: tuple[Callable[[Any], bool], str] = (lambda value: is_number(value) and 0 <= value <= 1, "in [0, 1]")
_COUNT = (_whole(0), "that is a whole number of at least 0")
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("method", "data", "primary", "trunk", "label_verdict", "device", "probe"), _TEXT),
    **{f"{part}_{m.name}": kind_of(m) for ms in MEASURES.values() for m in ms for part in PARTS},
    **{f"{part}_{m.name}": kind_of(m) for m in OUTCOMES for part in (*PARTS, m.part)},
    **dict.fromkeys(("test_loss", "seconds_total", "entropy_weight", "train_size", "test_size"), _NUMBER),
    **dict.fromkeys(("worst_group", "temperature_from"), _TEXT),
    "test_constant": _SHARE,
    "temperature": (lambda value: is_number(value) and value > 0, "above 0"),
    **dict.fromkeys(("seed", "epochs", "auxiliary_classes", "peak_memory_bytes"), _COUNT),
    **dict.fromkeys(("epochs_trained", "kept_epoch"), _COUNT),
    "kept_because": _TEXT,
    "start": (lambda value: isinstance(value, dict), "by name"),
    "seconds_per_step": (lambda value: is_number(value) and value >= 0, "of at least 0"),
    "psi": (_psi, "of whole numbers of at least 1"),
    "primary_names": (_names, "that is a list of names"),
    "input_shape": (_shape, f"of one or three positive whole numbers, {_MOST_VALUES:,} values at most"),
    "image_shape": (
        lambda value: _shape(value) and len(value) == 3,
        f"of three positive whole numbers, {_MOST_VALUES:,} values at most",
    ),
    "image_column": _TEXT,
    "label_separator": _TEXT,
    "known_outputs": (_numbers, "of numbers"),
    "mean": (_numbers, "of numbers"),
    "std": (_scales, "of numbers above 0"),
    "features": (_features, "with names, mean and std"),
    "targets": (_features, "with names, mean and std"),
    "tokens": (_tokens, "with a column and a length"),
    "checksums": (_checksums, "of text by file"),
    "versions": (lambda value: isinstance(value, dict), "by name"),
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
