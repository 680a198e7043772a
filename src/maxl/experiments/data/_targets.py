"""What stored columns of targets are, classes, labels or numbers, and what becomes of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from maxl.experiments.data._label_cells import encode_cells, holds_cells, looks_several
from maxl.experiments.data._labels import encode
from maxl.experiments.data._masks import encode_masks, require_classes
from maxl.experiments.data._source import LARGEST, Column, IntArray, Part

TASKS = ("classification", "multi-label", "regression", "segmentation")

# Int64 classes of shape (N,), int64 labels of shape (N, C), each 0 or 1, or float64 numbers of shape (N, D).
TargetArray: TypeAlias = npt.NDArray[Any]

_MANY = 20  # different values beyond which numbers need not be classes
_REPEATS = 10  # times that the value of a class is there on average
_MOSTLY = 0.9  # share of zeros and ones, or of whole numbers, from which a column is one of labels, the rest mistakes


@dataclass(frozen=True)
class Encoded:
    """The targets of all parts.

    Attributes:
        task: One of ``TASKS``.
        parts: Targets of each part.
        names: Of the classes or labels; of numbers, and of labels in columns of their own, these.
        saw: What the columns hold and what they were taken for, in a line; "" where the task was given. Of masks, in any
            case, also how many classes occur.
        separator: What parts the labels of a cell; None where nothing does.
    """

    task: str
    parts: list[TargetArray]
    names: tuple[str, ...]
    saw: str
    separator: str | None = None


def encode_targets(
    task: str, parts: Sequence[Part], columns: tuple[str, ...], ignore_index: int = 255
) -> Encoded:
    """The targets in some columns of every part.

    | task | columns | targets |
    |---|---|---|
    | classification | one, of text or whole numbers | see ``encode`` |
    | multi-label | one a label, of 0 and 1 | as they stand |
    | multi-label | one, of text or lists | see ``encode_cells`` |
    | regression | one a number to predict | as they stand, float64 |
    | segmentation | one, of masks | see ``encode_masks`` |
    | auto | any | of the task that the training part's values look like |

    Args:
        task: One of ``TASKS``, or "auto".
        parts: The training part first.
        columns: Their names, which every part has.
        ignore_index: Value of masks that stands for no class.

    Raises:
        ValueError: if the values cannot be targets of the task, or nothing tells which task is meant.
    """
    saw = ""
    if task == "auto":
        task, saw = _look(parts[0], columns)
    masks = [name for name in columns if parts[0].columns[name].values.ndim == 3]
    if bool(masks) != (task == "segmentation"):
        raise ValueError(
            f"--task {task} needs {'a class for each image' if masks else 'masks'}; the data has "
            f"{'masks, so it is' if masks else 'none: put images and masks into folders images/ and masks/, not'} "
            "segmentation"
        )
    if task == "segmentation":
        masked, names, counted = encode_masks(parts, columns[0], ignore_index)
        return Encoded(task, list(masked), names, f"{saw}\n{counted}".strip())
    if task == "classification":
        if len(columns) > 1:
            raise ValueError(
                f"--task classification needs one column as --primary; got {len(columns)}: name one, or use "
                "--task multi-label for columns of 0 and 1"
            )
        classes, names = encode(parts, columns[0])
        return Encoded(task, list(classes), names, saw)
    if task == "multi-label" and len(columns) == 1 and holds_cells(parts[0].columns[columns[0]]):
        labels, names, separator = encode_cells(parts, columns[0])
        return Encoded(task, list(labels), names, saw, separator)
    stacked: list[TargetArray] = []
    for part in parts:
        for name in columns:
            (_check_label if task == "multi-label" else _check_number)(name, part)
        arrays = [part.columns[name].values for name in columns]
        kind = np.int64 if task == "multi-label" else np.float64
        stacked.append(np.stack([array.astype(kind) for array in arrays], axis=1))
    return Encoded(task, stacked, columns, saw)


def strata(targets: TargetArray) -> IntArray:
    """What a draw of samples has regard to: classes; nothing for labels and numbers, whose draws are random."""
    return targets if targets.ndim == 1 else np.zeros(len(targets), dtype=np.int64)


def check_judgeable(
    task: str, targets: TargetArray, names: tuple[str, ...], origin: str, *, training: bool = False
) -> None:
    """Check that a part can be standardised by, or judged on.

    Args:
        origin: How messages name the part.
        training: Whether it is the part to train on.

    Raises:
        ValueError: if all numbers of a column are equal, no sample has a label, or no pixel a class; or if pixels to train
            on have one class alone.
    """
    if task == "segmentation":
        require_classes(targets, names, origin, 2 if training else 1)
    if task == "regression":
        equal = np.flatnonzero((targets == targets[0]).all(axis=0))
        if len(equal):
            raise ValueError(
                f"targets need to differ; those of column '{names[equal[0]]}' are all {targets[0, equal[0]]:g} in "
                f"{origin} ({len(targets)} samples): choose another column, or more samples"
            )
    if task == "multi-label" and not targets.any():
        raise ValueError(
            f"labels need to occur; no sample of {origin} has one of {', '.join(names)}: choose other columns, or "
            "more samples"
        )


def _look(part: Part, columns: tuple[str, ...]) -> tuple[str, str]:
    """The task that values look like, and what was seen and taken."""
    if len(columns) > 1:
        return _look_at_several(part, columns)
    column, name = part.columns[columns[0]], columns[0]
    if column.values.ndim == 3:
        return "segmentation", "each image has a mask: segmentation"
    if column.names is not None:
        return "classification", f"column '{name}' holds {len(column.names)} named classes: classification"
    if mark := looks_several(column):
        how = "lists" if mark == "list" else f"several labels a row, parted by '{mark}'"
        return "multi-label", f"column '{name}' holds {how}: multi-label" + (
            "" if mark == "list" else "; if each cell is one class, say --task classification"
        )
    if column.values.dtype.kind not in "iuf":
        return "classification", f"column '{name}' holds text: classification"
    finite = column.values[np.isfinite(column.values)]
    distinct = np.unique(finite)
    many = len(distinct) > _MANY
    if finite.dtype.kind == "f" and (finite != np.floor(finite)).any():
        told = f"column '{name}' holds {len(distinct)} different numbers, not all of them whole"
        # A few of them among classes are slips, which ``encode`` names.
        slips = not many and float((finite == np.floor(finite)).mean()) >= _MOSTLY
        task = "classification" if slips else "regression"
        return task, f"{told}: {task}"
    told = f"column '{name}' holds {len(distinct)} different whole numbers"
    if not many:
        return "classification", f"{told}: classification"
    gaps = float(distinct[-1]) - float(distinct[0]) + 1 > len(distinct)
    if gaps and len(finite) < _REPEATS * len(distinct):
        told += ", with gaps and few of them repeated"
        return "regression", f"{told}: regression; if they are classes, say --task classification"
    return "classification", f"{told}: classification; if they are amounts, say --task regression"


def _look_at_several(part: Part, columns: tuple[str, ...]) -> tuple[str, str]:
    shares = {name: _share_of_labels(part.columns[name]) for name in columns}
    as_labels = [name for name, share in shares.items() if share is not None and share >= _MOSTLY]
    if len(as_labels) == len(columns):
        return "multi-label", f"{len(columns)} columns hold 0 and 1: multi-label"
    text = [name for name, share in shares.items() if share is None]
    if text:
        raise ValueError(
            f"several columns as --primary need to hold 0 and 1 (multi-label) or numbers (regression); '{text[0]}' of "
            f"{part.origin} holds text: name one column, or leave it out"
        )
    if as_labels:
        other = next(name for name in columns if name not in as_labels)
        raise ValueError(
            f"several columns as --primary need to hold 0 and 1 in all of them, or numbers; '{as_labels[0]}' holds 0 "
            f"and 1, '{other}' of {part.origin} other numbers: leave one out, or say --task regression"
        )
    return "regression", f"{len(columns)} columns hold numbers: regression"


def _share_of_labels(column: Column) -> float | None:
    """The share of zeros and ones; None for text."""
    if column.values.dtype.kind not in "iuf":
        return None
    return float(np.isin(column.values, (0, 1)).mean())


def _check_label(name: str, part: Part) -> None:
    values = part.columns[name].values
    if values.dtype.kind not in "iuf":
        raise ValueError(
            f"labels of --task multi-label need to be 0 or 1; column '{name}' of {part.origin} holds text"
        )
    _reject(name, part, ~np.isin(values, (0, 1)), "is neither 0 nor 1")


def _check_number(name: str, part: Part) -> None:
    values = part.columns[name].values
    if values.dtype.kind not in "iuf":
        raise ValueError(
            f"targets of --task regression need to be numbers; column '{name}' of {part.origin} holds text: remove "
            "what is no number, or use --task classification"
        )
    _reject(name, part, ~np.isfinite(values), "is missing or not finite")
    _reject(name, part, np.abs(values.astype(np.float64)) > LARGEST, "is beyond the range of float32")


def _reject(name: str, part: Part, bad: np.ndarray, rule: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ValueError(
            f"targets in column '{name}': row {rows[0]} {rule} (got {part.columns[name].values[rows[0]]}; "
            f"{len(rows)} such rows in {part.origin}): remove or correct these rows"
        )
