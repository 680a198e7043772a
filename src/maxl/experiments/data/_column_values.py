"""Columns of a table as what their kinds make of them: numbers, dates as several of them, and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from maxl.experiments.data._source import LARGEST, IntArray
from maxl.experiments.data._tables import PLAIN_NUMBER, Table

if TYPE_CHECKING:  # it takes a while to import
    import pandas as pd

_YEAR, _WEEK, _DAY = 365.2425, 7.0, 1.0


def read_columns(table: Table, kinds: Mapping[str, str], rows: IntArray) -> pd.DataFrame:
    """Columns of some rows: numbers and dates as float64, NaN where missing, categories and texts as str, "" likewise.

    Raises:
        ValueError: if a column is missing or holds something else than its kind, or a number is infinite or beyond float32.
    """
    import pandas as pd

    read: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name not in table.content.column_names:
            raise ValueError(f"inputs need the columns of the training table; {table.origin} lacks '{name}'")
        column = table.content[name].take(pa.array(rows))
        if kind == "number":
            read[name] = _numbers(column, name, table, rows)
        elif kind == "date":
            dates = _dates(column, name, table)
            if taken := {*kinds} & {*dates}:
                raise ValueError(
                    f"dates need names of their own for their parts; '{min(taken)}' is a column of {table.origin}"
                )
            read.update(dates)
        else:
            read[name] = np.array([word_of(value) for value in column.to_pylist()], dtype=object)
    return pd.DataFrame(read, index=pd.RangeIndex(len(rows)))


def zones_of(table: Table, kinds: Mapping[str, str]) -> dict[str, bool]:
    """Whether the dates of each column have a time zone; columns without a date, and missing ones, are left out."""
    dates = {name for name, kind in kinds.items() if kind == "date"}
    types = {field.name: field.type for field in table.content.schema if field.name in dates}
    return {
        name: pa.types.is_timestamp(of) and of.tz is not None
        for name, of in types.items()
        if not pa.types.is_null(of)
    }


def check_zones(table: Table, kinds: Mapping[str, str], zones: Mapping[str, bool]) -> None:
    """ValueError if dates of a table have a time zone where those of training had none, or the other way round: they would be
    hours apart.
    """
    for name, zoned in zones_of(table, kinds).items():
        if zones.get(name, zoned) != zoned:
            one, other = ("a", "none") if zoned else ("no", "one")
            raise ValueError(
                f"dates need a time zone in all tables or in none; column '{name}' of {table.origin} has {one} zone and "
                f"had {other} in training: write them alike"
            )


def word_of(value: object) -> str:
    """The name of a category; "" where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a whole number in a column that has gaps elsewhere
    return str(value)


def holds_text(kind: pa.DataType) -> bool:
    """Whether the values of a column are each a text of its own."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(column: pa.ChunkedArray, name: str, table: Table, rows: IntArray) -> np.ndarray:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    try:
        values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    except (pa.ArrowException, ValueError) as error:
        texts = [value or "" for value in column.to_pylist()] if holds_text(kind) else []
        odd = next((i for i, v in enumerate(texts) if v and not PLAIN_NUMBER.fullmatch(v)), None)
        held = f"row {rows[odd]} holds {texts[odd]!r}" if odd is not None else f"it is {kind}"
        raise ValueError(f"column '{name}' of {table.origin} needs to hold numbers; {held}") from error
    bad = np.isinf(values) | (np.abs(values) > LARGEST)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"numbers need to lie within ±{LARGEST:.2g}, the range of float32; column '{name}', row {rows[first]} of "
            f"{table.origin} holds {values[first]}"
        )
    return values


def _dates(column: pa.ChunkedArray, name: str, table: Table) -> dict[str, np.ndarray]:
    """A date as numbers: days since 1970, and where it lies in year, week and, if it has a time, day."""
    if holds_text(column.type):
        try:
            column = column.cast(pa.timestamp("us"))
        except pa.ArrowException as error:
            raise ValueError(
                f"column '{name}' of {table.origin} needs to hold dates such as 2024-12-31T23:59:59; {error}"
            ) from error
    if not (
        pa.types.is_date(column.type) or pa.types.is_timestamp(column.type) or pa.types.is_null(column.type)
    ):
        raise ValueError(f"column '{name}' of {table.origin} needs to hold dates; it is {column.type}")
    stamps = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).cast(pa.float64(), safe=False)
    days = stamps.to_numpy().astype(np.float64) / 86_400e6
    features = {f"{name} (day)": days}
    for place, period in (("year", _YEAR), ("week", _WEEK), ("time", _DAY)):
        angle = 2 * np.pi * days / period
        features[f"{name} ({place}, sine)"] = np.sin(angle)
        features[f"{name} ({place}, cosine)"] = np.cos(angle)
    return features
