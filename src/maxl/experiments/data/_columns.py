"""Tables as they are: numbers, categories, dates and texts, some of them missing, as features of a network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from maxl.experiments.data._column_values import check_zones, holds_text, word_of
from maxl.experiments.data._features import require_words, vectorizer_of_words
from maxl.experiments.data._tables import PLAIN_NUMBER, Table
from maxl.presets import did_you_mean

if TYPE_CHECKING:  # it takes a while to import
    import pandas as pd

KINDS = ("number", "category", "date", "text")

TEXT_DIMENSIONS = 32  # of each column of texts, beside others
CATEGORIES = 64  # of a column that have a feature of their own; rarer ones share one
_WORDS = 3.0  # in a value, on average, from which different values are texts
_TRUSTED = [  # of what a file may name, beside scikit-learn's transformers
    "numpy.dtype",
    "sklearn.compose._column_transformer._RemainderColsList",  # a list, in versions before 1.7
]
_FEW_ROWS = 20  # below which different whole numbers are no sign of an identifier


@dataclass(frozen=True)
class Columns:
    """Features of the columns of a table, float32: scikit-learn's transformers, fitted to the training samples.

    Numbers and dates are filled by their median where they are missing, which a further feature says, and standardised; a
    date is its day and its places in year, week and day. Categories become one feature each, missing among them, rare ones
    share one; texts are TF-IDF of words and word pairs, reduced by a truncated SVD and standardised. Numbers and dates that
    are missing in all training samples carry nothing: their features are 0, whatever other samples hold.

    Attributes:
        kinds: Of each column, in order: one of ``KINDS``.
        transformer: A fitted ``sklearn.compose.ColumnTransformer``.
        zones: Of columns of dates, whether they had a time zone in training; of none where nobody said.
    """

    kinds: dict[str, str]
    transformer: Any
    zones: dict[str, bool] = field(default_factory=dict)

    def __call__(self, frame: Any) -> Tensor:
        """Shape (N, D), of what ``read_columns`` gives.

        Raises:
            ValueError: if a number is too far from those of training for float32.
        """
        if empty := self._empty():  # no statistic of training would scale what is there now
            frame = frame.assign(**dict.fromkeys(empty, np.nan))
        features = torch.from_numpy(np.ascontiguousarray(self.transformer.transform(frame))).float()
        if not features.isfinite().all():
            row, column = (~features.isfinite()).nonzero()[0].tolist()
            name = self.transformer.get_feature_names_out()[column]
            raise ValueError(
                f"numbers need to be near enough to those of training for float32; sample {row} is not, in {name}"
            )
        return features

    def check_zones(self, table: Table) -> None:
        """ValueError if dates of a table have a time zone where those of training had none, or the other way round."""
        check_zones(table, self.kinds, self.zones)

    def unseen(self, frame: pd.DataFrame) -> list[str]:
        """What to say of what training has not seen, a line a column: categories, which count as none of those known, gaps, and
        values of columns that had none.
        """
        said = self._filled(frame)
        for name, read in self._empty_columns().items():
            if there := int(frame[read].notna().sum()):
                said.append(
                    f"column '{name}' holds {there} values in {len(frame)} rows, and held none in training: it carries nothing"
                )
        for name, known in self._categories().items():
            new = frame[name][~frame[name].isin(known)]
            if len(new):
                rows = f"{len(new)} of {len(frame)} rows"
                said.append(
                    f"column '{name}' holds a category that training has not seen in {rows}: {new.iloc[0]!r}"
                )
        return said

    def _filled(self, frame: pd.DataFrame) -> list[str]:
        """The same of numbers and dates that are missing, and never were in training: no feature says so of them."""
        said = []
        for step, made, names in self.transformer.transformers_:
            if step != "number":
                continue
            with_gaps = {names[i] for i in made[0].indicator_.features_}
            for name in names:
                date, _, part = name.removesuffix(")").rpartition(" (")
                if name in with_gaps or (missing := int(frame[name].isna().sum())) == 0:
                    continue
                if self.kinds.get(name) == "number" or (self.kinds.get(date) == "date" and part == "day"):
                    column = name if name in self.kinds else date
                    said.append(
                        f"column '{column}' misses {missing} of {len(frame)} values, and missed none in training: the median of "
                        "training takes their place"
                    )
        return said

    def empty(self) -> list[str]:
        """Columns of numbers and dates that are missing in all training samples: they carry nothing."""
        return list(self._empty_columns())

    def _empty_columns(self) -> dict[str, str]:
        """The same, and in which column of a frame one sees what is there."""
        empty = {*self._empty()}
        places = {name: f"{name} (day)" if kind == "date" else name for name, kind in self.kinds.items()}
        return {name: place for name, place in places.items() if place in empty}

    def _empty(self) -> list[str]:
        """Those columns of a frame. What says that they are missing says it of every training sample."""
        for step, made, names in self.transformer.transformers_:
            if step == "number":
                with_gaps = made[0].indicator_.features_
                always = made[1].mean_[len(names) :] == 1
                return [names[i] for i in with_gaps[always]]
        return []

    def written(self) -> list[str]:
        """Columns that training read as text, which another file's are to be read as, whatever they look like there.

        Texts, and categories that a CSV file's numbers or dates would not give: "01" among them, or a word.
        """
        texts = [name for name, kind in self.kinds.items() if kind == "text"]
        return [*texts, *(name for name, known in self._categories().items() if not _inferred(known))]

    def _categories(self) -> dict[str, Any]:
        names = [name for name, kind in self.kinds.items() if kind == "category"]
        if not names:
            return {}
        return dict(zip(names, self.transformer.named_transformers_["category"].categories_, strict=True))

    def to_bytes(self) -> bytes:
        """As a skops file, which holds no code."""
        stored = {"kinds": self.kinds, "transformer": self.transformer}
        content: bytes = _skops().dumps({**stored, "zones": self.zones} if self.zones else stored)
        return content

    @classmethod
    def read(cls, file: Path) -> Columns:
        """From a file with the content of ``to_bytes``.

        Raises:
            ValueError: if it holds something else, code for instance.
        """
        from sklearn.compose import ColumnTransformer

        content = file.read_bytes()
        try:
            stored = _skops().loads(content, trusted=_TRUSTED)
        except Exception as error:  # a foreign zip file fails in many ways
            raise ValueError(f"{file} does not say how features are made of columns: {error}") from error
        kinds = stored.get("kinds") if isinstance(stored, dict) else None
        if not isinstance(kinds, dict) or not isinstance(stored.get("transformer"), ColumnTransformer):
            raise ValueError(f"{file} does not say how features are made of columns")
        zones = stored.get("zones", {})  # which older versions did not keep
        if not isinstance(zones, dict):
            raise ValueError(f"{file} does not say how features are made of columns")
        return cls(
            {str(name): str(kind) for name, kind in kinds.items()},
            stored["transformer"],
            {str(name): bool(zoned) for name, zoned in zones.items()},
        )


def _skops() -> Any:
    """skops.io. Its import looks at all that loaded modules offer, where other libraries warn of what they give up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skops import io
    return io


def fit_columns(frame: Any, kinds: Mapping[str, str], zones: Mapping[str, bool]) -> Columns:
    """The transform of a table's columns for any part; see ``Columns``.

    Args:
        frame: Of the training samples, as ``read_columns`` gives it.
        kinds: Of each column.
        zones: Of columns of dates, whether they have a time zone.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import TruncatedSVD
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from threadpoolctl import threadpool_limits

    numbers = [name for name in frame if frame[name].dtype.kind == "f"]
    categories = [name for name, kind in kinds.items() if kind == "category"]
    filled = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=2, max_categories=CATEGORIES, sparse_output=False
    )
    steps: list[tuple[str, Any, Any]] = []
    if numbers:
        steps.append(("number", make_pipeline(filled, StandardScaler()), numbers))
    if categories:
        steps.append(("category", one_hot, categories))
    for name in (name for name, kind in kinds.items() if kind == "text"):
        words = vectorizer_of_words()
        require_words(frame[name], name, f"--drop {name}, or say --types {name}=category")
        counts = words.fit_transform(frame[name])
        svd = TruncatedSVD(min(TEXT_DIMENSIONS, *counts.shape), random_state=0)
        steps.append((f"text {name}", make_pipeline(words, svd, StandardScaler()), name))
    transformer = ColumnTransformer(steps, sparse_threshold=0.0)
    with threadpool_limits(1):  # sums over threads round differently from machine to machine
        transformer.fit(frame)
    return Columns(dict(kinds), transformer, dict(zones))


def kinds_of(table: Table, names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """What each column holds, by its type and values.

    Args:
        table: The training table.
        names: Of the columns.
        given: What the user says of some of them.

    Raises:
        ValueError: if a column can be none, or holds something else than what is said.
    """
    require_kinds(names, given)
    return {name: given.get(name) or _kind(table, name) for name in names}


def require_kinds(names: Sequence[str], given: Mapping[str, str]) -> None:
    """ValueError unless each column of which something is said is among ``names``, and it is one of ``KINDS``."""
    for name, kind in given.items():
        if name not in names:
            raise ValueError(
                f"--types needs columns of the table that are no targets; got '{name}'{did_you_mean(name, names)}"
            )
        if kind not in KINDS:
            raise ValueError(f"--types needs one of {', '.join(KINDS)} for each column; got {name}={kind}")


def _kind(table: Table, name: str) -> str:
    kind, types = table.content.schema.field(name).type, pa.types
    if types.is_dictionary(kind):
        return "category"
    if types.is_null(kind):
        return "number"  # all of it is missing
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return "number"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "date"
    if not holds_text(kind):
        raise ValueError(
            f"columns need to hold numbers, categories, dates or texts; '{name}' of {table.origin} is {kind}: --drop {name}"
        )
    values = [value for value in table.content[name].to_pylist() if value]
    number = [PLAIN_NUMBER.fullmatch(value) is not None for value in values]
    if 2 * sum(number) > len(values) and not all(number):
        odd = values[number.index(False)]
        raise ValueError(
            f"a column needs to hold numbers in all rows or in few; '{name}' of {table.origin} holds {odd!r} in row "
            f"{table.content[name].to_pylist().index(odd)}: mend it, or say --types {name}=category"
        )
    words = sum(len(value.split()) for value in values) / max(len(values), 1)
    return "text" if words >= _WORDS and 2 * len({*values}) > len(values) else "category"


def said(kinds: Mapping[str, str], table: Table) -> str:
    """The columns in a line, and what they are taken for."""
    return (
        f"{len(kinds)} columns are inputs; {listed(kinds, table)} (--drop leaves out, --types says otherwise)"
    )


def listed(kinds: Mapping[str, str], table: Table) -> str:
    """The columns of each kind, and how many of their values are missing."""
    missing = {name: _missing(table.content[name]) for name in kinds}
    parts = []
    for kind in KINDS:
        names = [
            name + (f" ({missing[name]} missing)" if missing[name] else "")
            for name, of in kinds.items()
            if of == kind
        ]
        if names:
            parts.append(f"{kind}: {', '.join(names)}")
    return "; ".join(parts)


def said_of_identifiers(table: Table, inputs: Sequence[str]) -> str:
    """That some inputs look as if they numbered the rows, a line each; what they know of a class is an accident or gives it away."""
    lines = []
    for name in inputs:
        if numbered := _numbered(table.content[name]):
            low, high = numbered
            lines.append(
                f"column '{name}' numbers the rows, {low} to {high}, and is an input: --drop {name} leaves it out"
            )
    return "\n".join(lines)


def _numbered(column: pa.ChunkedArray) -> tuple[int, int] | None:
    """Lowest and highest of whole numbers that differ in every row and leave few out; None of other columns."""
    rows = len(column)
    if rows < _FEW_ROWS or not pa.types.is_integer(column.type) or column.null_count:
        return None
    values = column.to_numpy()
    low, high = int(values.min()), int(values.max())
    return (low, high) if high - low < 2 * rows and len(np.unique(values)) == rows else None


def _missing(column: pa.ChunkedArray) -> int:
    empty = sum(value == "" for value in column.to_pylist()) if holds_text(column.type) else 0
    return int(column.null_count) + empty


def has_gaps(table: Table, names: Sequence[str]) -> bool:
    """Whether a number is missing in one of the columns."""
    columns = (table.content[name] for name in names)
    return any(c.null_count or (pa.types.is_floating(c.type) and _nans(c)) for c in columns)


def _nans(column: pa.ChunkedArray) -> bool:
    return bool(np.isnan(column.to_numpy()).any())


def _inferred(known: Sequence[str]) -> bool:
    """Whether a column of these categories, read from a CSV file by what it looks like, is no text and gives them."""
    from pyarrow import csv as arrow_csv

    words = [word for word in known if word]
    if not words or any(character in word for word in words for character in ',"\r\n'):
        return False
    content = "\n".join(["words", *words]).encode()
    read = arrow_csv.read_csv(
        pa.BufferReader(content), read_options=arrow_csv.ReadOptions(use_threads=False)
    ).column(0)
    return not holds_text(read.type) and [word_of(value) for value in read.to_pylist()] == words
