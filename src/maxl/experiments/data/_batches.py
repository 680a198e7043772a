"""Batches of rows of bytes with labels, pickled or .npz, as the CIFAR and ImageNet32 archives hold them."""

from __future__ import annotations

import pickle
import tokenize
import zlib
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from maxl.experiments.data._files import require_regular

# What the readers raise for damaged files; none of it names the file.
_DAMAGED_PICKLE = (
    *(pickle.UnpicklingError, EOFError, AttributeError, LookupError, ValueError, TypeError),
    *(OverflowError, MemoryError, RecursionError),
)
_DAMAGED_NPZ = (
    *(
        BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        SyntaxError,
        tokenize.TokenError,
    ),
    *(NotImplementedError, RuntimeError, MemoryError, OverflowError),
)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers and refuses everything else, so that no code can run."""

    _allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(
                f"a data file may hold arrays only; this one asks for {module}.{name}"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def unpickle(file: Path) -> dict[str, Any]:
    """One pickled dictionary of arrays and lists, as the CIFAR and ImageNet32 archives hold them.

    Raises:
        ValueError: if the file is no such pickle, or would need any class but NumPy's arrays.
    """
    with require_regular(file).open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream, encoding="latin1").load()  # written by Python 2
        except _DAMAGED_PICKLE as error:
            raise ValueError(f"'{file}' cannot be read as a pickled batch: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' should hold a dictionary; got {type(content).__name__}")
    return content


def read_names(file: Path, content: dict[str, Any], key: str) -> tuple[str, ...]:
    """The class names that a pickled dictionary holds under `key`.

    Raises:
        ValueError: if they are no list of different names.
    """
    names = content.get(key)
    if (
        not isinstance(names, (list, tuple))
        or not all(isinstance(name, str) for name in names)
        or len({*names}) < len(names)
    ):
        raise ValueError(f"'{file}' needs a list of different class names under '{key}'")
    return tuple(names)


def read_batch(file: Path, keys: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images and labels of one batch.

    Args:
        keys: Of its labels.

    Returns: pixels, uint8, shape (N, 3, S, S), and for each key integers of shape (N,).

    Raises:
        ValueError: if the file is damaged, lacks something, or holds another number of labels than images.
    """
    batch = _read_npz(file, ("data", *keys)) if file.suffix == ".npz" else unpickle(file)
    for key in ("data", *keys):
        if key not in batch:
            raise ValueError(f"'{file}' lacks '{key}'; it holds: {', '.join(map(str, batch))}")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(
            f"'{file}' needs one row of bytes an image, uint8 (N, 3·S·S), under 'data'; got {got}"
        )
    side = isqrt(data.shape[1] // 3)
    if not side or data.shape[1] != 3 * side * side:
        raise ValueError(f"'{file}' needs rows of 3·S·S bytes, square images; got {data.shape[1]} bytes")
    labels = {key: _labels(file, key, batch[key], len(data)) for key in keys}
    return data.reshape(-1, 3, side, side), labels


def _labels(file: Path, key: str, stored: object, count: int) -> np.ndarray:
    try:
        labels = np.asarray(stored)
    except ValueError:  # rows of different lengths
        labels = np.empty(0, dtype=object)
    if labels.shape != (count,) or (count and labels.dtype.kind not in "iu"):
        got = f"{len(labels)} of them" if labels.ndim == 1 and labels.dtype.kind in "iu" else "something else"
        raise ValueError(
            f"'{file}' needs one whole number an image under '{key}', {count} in all; got {got}: fetch it again"
        )
    return labels.astype(np.int64) if not count else labels


def _read_npz(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    require_regular(file)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if key in keys}
    except _DAMAGED_NPZ as error:
        raise ValueError(f"'{file}' cannot be read as an .npz file: {error}") from error
