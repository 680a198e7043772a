"""Frames of pandas and polars, tables of Arrow and arrays of NumPy as data sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maxl.experiments.data._load import from_source
from maxl.experiments.data._options import Options
from maxl.experiments.data._source import Column, Part, Source
from maxl.experiments.data._types import DataSet

_PARTS = ("train", "test", "validation")


def load_frames(train: Any, test: Any = None, validation: Any = None, **options: Any) -> DataSet:
    """A data set from tables in memory, read as ``load`` reads files of them.

    Args:
        train: A DataFrame of pandas or polars, or a table of pyarrow; an index is no column. Paths in a column of images
            start from the working folder.
        test, validation: Its other parts, with the same columns; without ``test`` a fifth is cut off, as in ``load``.
        options: As keyword arguments of ``load``, but for ``data_dir``.

    Raises:
        ValueError: if a frame has no usable columns, or as ``load``.
        TypeError: if it is no frame.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"mass": range(40), "island": ["a", "b"] * 20, "kind": ["x", "x", "y", "y"] * 10})
    >>> load_frames(frame, primary="kind").input_shape
    (3,)
    """
    from maxl.experiments.data._arrow import table_source

    asked = Options.of(**options)
    tables = [
        None if frame is None else _table(frame, f"the {part} frame")
        for part, frame in zip(_PARTS, (train, test, validation), strict=True)
    ]
    source = table_source(*tables, wanted=asked.wanted, base=Path())  # type: ignore[arg-type]  # train is there
    return from_source(source, "frame", asked)


def load_arrays(
    train: tuple[npt.ArrayLike, npt.ArrayLike],
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    **options: Any,
) -> DataSet:
    """A data set from arrays of samples and of their targets.

    Args:
        train: Samples and targets: features (N, D) of any kind of numbers, or images (N, C, H, W) as uint8; targets (N,) of
            classes or numbers, or (N, L) of labels or numbers.
        test, validation: The same for its other parts; without ``test`` a fifth is cut off, as in ``load``.
        options: As keyword arguments of ``load``: ``task``, ``train_size``, ``validation_size``, ``seed``.

    Raises:
        ValueError: if shapes do not fit, or as ``load``.
    """
    given = zip(_PARTS, (train, test, validation), strict=True)
    parts = {part: (np.asarray(pair[0]), np.asarray(pair[1])) for part, pair in given if pair is not None}
    first_x, first_y = parts["train"]
    for x, y in parts.values():
        if x.ndim not in (2, 4) or y.ndim not in (1, 2) or len(x) != len(y):
            raise ValueError(
                "arrays need samples (N, D) or (N, C, H, W) and targets (N,) or (N, L); got "
                f"{x.shape} and {y.shape}"
            )
        if x.shape[1:] != first_x.shape[1:] or y.shape[1:] != first_y.shape[1:]:
            raise ValueError(
                f"every part needs samples of one shape; got {x.shape[1:]} with targets {y.shape[1:]} beside "
                f"{first_x.shape[1:]} with {first_y.shape[1:]}"
            )
    targets = _names("target", first_y)
    options = {"primary": targets, **options}
    if first_x.ndim == 2:
        return load_frames(**{part: _frame(x, y, targets) for part, (x, y) in parts.items()}, **options)
    images = {part: _image_part(x, y, targets, f"the {part} images") for part, (x, y) in parts.items()}
    source = Source(images["train"], images.get("test"), images.get("validation"), primary=targets[0])
    return from_source(source, "arrays", Options.of(**options))


def _image_part(x: npt.NDArray[Any], y: npt.NDArray[Any], targets: tuple[str, ...], origin: str) -> Part:
    if x.dtype != np.uint8:
        raise ValueError(
            f"images need to be uint8, from 0 to 255; got {x.dtype}: scale them, or flatten features to (N, D)"
        )
    if x.shape[1] not in (1, 3):
        raise ValueError(
            f"images need the shape (N, C, H, W) with 1 or 3 channels; got {x.shape}: move the channels forward"
        )
    images = torch.from_numpy(np.ascontiguousarray(x))
    columns = {name: Column(column) for name, column in _columns(y, targets)}
    return Part(columns, lambda rows: images[torch.from_numpy(rows)], origin)


def _names(word: str, values: npt.NDArray[Any]) -> tuple[str, ...]:
    return (word,) if values.ndim == 1 else tuple(f"{word}_{i}" for i in range(values.shape[1]))


def _columns(values: npt.NDArray[Any], names: tuple[str, ...]) -> list[tuple[str, npt.NDArray[Any]]]:
    return list(zip(names, [values] if values.ndim == 1 else list(values.T), strict=True))


def _frame(x: npt.NDArray[Any], y: npt.NDArray[Any], targets: tuple[str, ...]) -> Any:
    import pyarrow as pa

    try:
        return pa.table(dict([*_columns(x, _names("feature", x)), *_columns(y, targets)]))
    except pa.ArrowException as error:
        raise ValueError(f"arrays need values of one kind in each column: {error}") from error


def _table(frame: Any, origin: str) -> Any:
    """A frame as a table whose columns hold plain values."""
    import pyarrow as pa

    from maxl.experiments.data._tables import Table

    names = list(frame.column_names if isinstance(frame, pa.Table) else getattr(frame, "columns", ()))
    if not isinstance(frame, pa.Table) and not hasattr(frame, "columns"):
        raise TypeError(
            f"{origin} needs to be a DataFrame of pandas or polars, or a pyarrow table; got {type(frame).__name__}"
        )
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"columns need names that are text; {origin} has {name!r}: frame.columns = frame.columns.map(str)"
            )
    if names and (most := Counter(names).most_common(1)[0])[1] > 1:
        raise ValueError(f"columns need different names; {origin} has {most[1]} called '{most[0]}'")
    try:
        if isinstance(frame, pa.Table):
            content = frame
        elif hasattr(frame, "to_arrow"):  # polars
            content = frame.to_arrow()
        else:
            content = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except pa.ArrowException as error:
        raise ValueError(
            f"{origin} needs values of one kind in each column: {' '.join(str(error).split())}"
        ) from error
    return Table(pa.table({name: _plain(content.column(name)) for name in content.column_names}), origin)


def _plain(column: Any) -> Any:
    """Categories as what they stand for, and one kind of text."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if is_text else column
