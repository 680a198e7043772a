"""Finer classes in a file of their own: a hierarchy for data that has none, or another one than its own.

A CSV file with a line a training sample:

    row     its place in the training part of the data, from 0: the line of a table, the image of a folder in order
    class   its primary class
    finer   its finer class, which belongs to this one

Of data without a test part of its own the rows are those of all of it, and such as fall into the test part do not count.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maxl.experiments.data._labels import check_refines
from maxl.experiments.data._source import IntArray
from maxl.experiments.data._tables import read_table

SUFFIX = ".csv"  # of what names a file rather than a column
_COLUMNS = ("row", "class", "finer")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


@dataclass(frozen=True)
class FinerClasses:
    """Finer classes of some training samples.

    Attributes:
        rows: Of the training part, int64 of shape (N,), sorted and different.
        classes, finer: The class and the finer class of each.
        origin: How messages name the file.
    """

    rows: IntArray
    classes: tuple[str, ...]
    finer: tuple[str, ...]
    origin: str

    def among(
        self, rows: IntArray, primary: IntArray, names: Sequence[str], total: int
    ) -> tuple[IntArray, IntArray, tuple[str, ...]]:
        """The samples that have a finer class.

        Args:
            rows: Of the samples there are, int64 of shape (M,).
            primary: Their classes, int64 of shape (M,).
            names: Of the classes.
            total: Rows of the training part.

        Returns:
            Positions in ``rows``, int64 of shape (n,); the finer class of each, int64 of shape (n,); the names of these.

        Raises:
            ValueError: if the file is of other data: a row beyond it, or of another class; if a finer class is in two
                classes; or if no sample is left.
        """
        if self.rows[-1] >= total:
            raise ValueError(
                f"{self.origin}: row {self.rows[-1]} is beyond the {total} samples of the training part: the file was made "
                "from other data"
            )
        where = {int(row): i for i, row in enumerate(self.rows)}
        kept = np.array([i for i, row in enumerate(rows.tolist()) if row in where], dtype=np.int64)
        if not len(kept):
            raise ValueError(f"{self.origin} needs rows that are training samples; it has none")
        listed = [where[int(rows[i])] for i in kept]
        for i, place in zip(kept, listed, strict=True):
            if self.classes[place] != as_cell(names[primary[i]]):
                raise ValueError(
                    f"{self.origin}: row {rows[i]} is of class '{self.classes[place]}' there and of '{names[primary[i]]}' "
                    "in the data: the file was made from other data, or by another --primary"
                )
        found, codes = np.unique([self.finer[place] for place in listed], return_inverse=True)
        finer_names = tuple(map(str, found.tolist()))
        check_refines(primary[kept], codes.astype(np.int64), names, finer_names)
        return kept, codes.astype(np.int64), finer_names


def read_finer(file: Path) -> FinerClasses:
    """Reads such a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no such file: a column is missing, or a row, or one is there twice or no whole number.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"--human names a column, or a CSV file of finer classes; '{file}' does not exist"
        )
    content = read_table(file, text=_COLUMNS).content
    if missing := [name for name in _COLUMNS if name not in content.column_names]:
        raise ValueError(
            f"finer classes need the columns {', '.join(_COLUMNS)}; '{file}' lacks '{missing[0]}': "
            "maxl report and maxl labels write such a file"
        )
    written, classes, finer = (content[name].to_pylist() for name in _COLUMNS)
    if not written:
        raise ValueError(f"finer classes need at least one row; '{file}' has none")
    for line, values in enumerate(zip(written, classes, finer, strict=True), start=2):
        if not (values[0] or "").isdecimal() or len(values[0]) > 18:
            raise ValueError(
                f"'{file}', line {line}: row needs a whole number of at least 0; got '{values[0]}'"
            )
        if not values[1] or not values[2]:
            raise ValueError(f"'{file}', line {line}: every row needs a class and a finer class")
    rows = np.array([int(value) for value in written], dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    twice = np.flatnonzero(np.diff(rows[order]) == 0)
    if len(twice):
        raise ValueError(
            f"'{file}': every row is to be there once; row {rows[order][twice[0]]} is there twice"
        )
    return FinerClasses(
        rows[order], tuple(classes[i] for i in order), tuple(finer[i] for i in order), f"'{file}'"
    )


def finer_csv(rows: Sequence[int], classes: Sequence[str], finer: Sequence[str]) -> str:
    """The text of such a file.

    Args:
        rows: Of the training part.
        classes, finer: The class and the finer class of each.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(
        (row, as_cell(name), as_cell(fine)) for row, name, fine in zip(rows, classes, finer, strict=True)
    )
    return text.getvalue()


def as_cell(text: str) -> str:
    """A name as a cell that no spreadsheet takes for a formula; numbers stay as they are."""
    return "'" + text if text.startswith(_FORMULA) and _NUMBER.fullmatch(text) is None else text
