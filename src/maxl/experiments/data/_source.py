"""The seam between file formats and `load`: labels at once, samples only when their rows are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:  # it takes a while to import
    import pandas as pd

    from maxl.experiments.data._columns import Columns

IntArray: TypeAlias = npt.NDArray[np.int64]
Raw: TypeAlias = "Tensor | list[str] | pd.DataFrame"
Transform: TypeAlias = Callable[[Raw], Tensor]


LARGEST = float(np.finfo(np.float32).max)  # number that networks can take


@dataclass(frozen=True)
class Column:
    """One column of labels in one part.

    Attributes:
        values: The labels as stored, shape (N,): integers or strings; or masks, uint8 of shape (N, H, W).
        names: The class names that the integers index, or None where the values speak for themselves.
        files: Where the values stand, for messages; None where a row says it.
        spelled: Finds two ways in which a file writes one of the numbers; None where numbers have but one.
    """

    values: npt.NDArray[Any]
    names: tuple[str, ...] | None = None
    files: tuple[str, ...] | None = None
    spelled: Callable[[], tuple[str, str] | None] | None = None


@dataclass(frozen=True)
class Part:
    """One part of a source, its samples still undecoded.

    Attributes:
        columns: Every column that can serve as labels, by name.
        read: Decodes the given rows: images uint8 (n, C, H, W), features (n, D), a list of texts, or columns of several
            kinds.
        origin: How messages name it: "'file'" as a rule.
        look: The shape of the given rows' samples, the same for all of them, without decoding them; None where ``read``
            is meant to be called once, for all rows together.
        frame: Of images: the columns of the given rows that are inputs beside them; None where there are none.
    """

    columns: dict[str, Column]
    read: Callable[[IntArray], Raw]
    origin: str
    look: Callable[[IntArray], tuple[int, ...]] | None = None
    frame: Callable[[IntArray], pd.DataFrame] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values)

    def rows(self, index: IntArray) -> Part:
        """The part made of these rows only."""
        columns = {name: Column(column.values[index], column.names) for name, column in self.columns.items()}
        read, look, frame = self.read, self.look, self.frame  # and not the part, whose columns may be let go
        return Part(
            columns,
            lambda rows: read(index[rows]),
            self.origin,
            None if look is None else lambda rows: look(index[rows]),
            None if frame is None else lambda rows: frame(index[rows]),
        )


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source.

    Attributes:
        primary: Columns of targets; none for the default.
        human: A column of finer labels, or None.
        probe: A column of labels to measure structure by, or None; no input.
        trusted: A column of yes and no that says whose labels can be trusted, or None; no input.
        known: What columns held when their features were made, where those are to be made so again.
        written: Those of them that were read as they are written.
        stream: Whether samples stay on disk until they are asked for.
        image_size: Side to which images are scaled, or None.
        drop: Columns of a table to leave out.
        types: What columns of a table hold, where values would tell otherwise: see ``KINDS``.
    """

    primary: tuple[str, ...] = ()
    human: str | None = None
    image_size: int | None = None
    drop: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    probe: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    trusted: str | None = None
    written: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk or on the hub.

    Attributes:
        train: The training part; the whole where `test` is None, and `load` then cuts a test part.
        test, validation: The published parts, where there are any.
        primary, human: The columns used unless the caller names others; None where there is no default.
        fit: For raw material that needs statistics (features, text): called with the training samples that
            were kept, returns the transform for every part. None for images.
        flip: As in `DataSet`.
        feature_names: Columns of numeric features, in order, the one of text, or those beside images; None for images alone.
        saw: What the columns of a table of several kinds were taken for, in a line.
        fit_frame: The same as ``fit`` for the columns beside images; None where there are none.
        image_column: The column of a table that holds its images; None for anything else.
    """

    train: Part
    test: Part | None
    validation: Part | None = None
    primary: str | None = None
    human: str | None = None
    fit: Callable[[Raw], Transform] | None = None
    flip: bool = True
    feature_names: tuple[str, ...] | None = None
    saw: str = ""
    fit_frame: Callable[[pd.DataFrame], Columns] | None = None
    image_column: str | None = None


def some_of(names: Sequence[str], most: int = 10) -> str:
    """Names in a row, so many of them, for messages."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
