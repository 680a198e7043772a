"""Rows of a table with an image and other columns, as the inputs of a finished run on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maxl.experiments.data import MixedShape, Table, images_of_column, is_table
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import (
    column_features,
    column_rows,
    image_in_row,
    read_image,
    table_with,
    written_columns,
)
from maxl.experiments.runs.model import PrimaryModel


@dataclass(frozen=True)
class MixedRows:
    """N rows, their images still undecoded.

    Attributes:
        model: Of the run.
        source: The file, for messages.
        columns: Features of the columns beside the images, float32, (N, D).
        items: The images, encoded or as paths.
    """

    model: PrimaryModel
    source: Path
    columns: Tensor
    items: Sequence[bytes | Path]

    @classmethod
    def of(cls, table: Table, source: Path, folder: RunFolder, model: PrimaryModel) -> MixedRows:
        """All rows of a table; says which categories training has not seen.

        Args:
            table: With the columns that the run was trained on.
            source: Its file; relative paths of images start from its folder.
            folder, model: Of the run.

        Raises:
            ValueError: if a column is missing or holds something else, or the run does not say what they are.
        """
        shape, name = model.input_shape, folder.read_summary().get("image_column")
        if not isinstance(shape, MixedShape) or name is None:
            raise ValueError(f"{folder.summary} needs an image_column and columns: train the run again")
        columns = column_features(folder, shape.columns)
        if missing := [n for n in (name, *columns.kinds) if n not in table.content.column_names]:
            raise ValueError(
                f"inputs need the columns of the training table; {table.origin} lacks '{missing[0]}'"
            )
        return cls(
            model,
            source,
            column_rows(columns, table, source),
            images_of_column(table, name, source.parent),
        )

    def __len__(self) -> int:
        return len(self.items)

    def images(self, rows: Sequence[int]) -> Tensor:
        """Those of some rows, uint8 of shape (n, C, H, W), brought to the run's size and colours.

        Raises:
            ValueError: if one cannot be read.
        """
        shape = self.model.image_shape
        assert shape is not None  # the constructor has looked
        return torch.cat([read_image(self.items[i], shape, image_in_row(i, self.source)) for i in rows])

    def inputs(self, rows: Sequence[int]) -> Tensor:
        """What the trunk takes of some rows."""
        return self.model.normalise_beside(self.columns[[*rows]], self.images(rows))


def read_mixed_rows(source: Path, folder: RunFolder, model: PrimaryModel) -> MixedRows:
    """The rows of a file to predict for.

    Raises:
        ValueError: if it is no table, has no rows, or as ``MixedRows.of``.
    """
    if source.is_dir() or not is_table(source):
        raise ValueError(
            f"predict needs a CSV or parquet file for a run on images and columns beside them; got {source}"
        )
    return MixedRows.of(table_with((), source, written_columns(folder)), source, folder, model)
