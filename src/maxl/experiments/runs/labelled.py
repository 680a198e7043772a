"""Labelled samples of one's own, as the inputs and targets of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data import (
    beside,
    class_codes,
    class_folders,
    decode,
    image_files,
    image_items,
    is_table,
    label_column,
    labelled_masks,
    normalise,
    read_features,
    read_table,
    read_texts,
    read_trusted_rows,
    stretch,
    table_targets,
)
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import (
    as_channels,
    column_features,
    column_rows,
    has_columns,
    image_in_row,
    read_image,
    text_inputs,
    written_columns,
)
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.mixed_rows import MixedRows
from maxl.experiments.runs.model import PrimaryModel

_FINER = "subclass"  # the column of a folder's second level


@dataclass(frozen=True)
class Labelled:
    """Samples with targets.

    Attributes:
        names: Their files, or rows counted from 0; N of them.
        targets: As in a split of the run's data; numbers are standardised as the run's are.
        inputs: The samples at some positions, as the trunk takes them.
        images: The same, if they are images, as bytes of shape (n, C, H, W); else None.
        left_out: What of the data does not count, in words.
        trusted: Whose targets can be trusted where the run was told, bool of shape (N,); None where the data does not say.
    """

    names: Sequence[Path | int]
    targets: Tensor
    inputs: Callable[[Sequence[int]], Tensor]
    images: Callable[[Sequence[int]], Tensor] | None = None
    left_out: tuple[str, ...] = ()
    trusted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def that_judge(self) -> Labelled:
        """Those whose targets can be trusted: wrong ones cannot judge.

        Raises:
            ValueError: if there are none.
        """
        if self.trusted is None or bool(self.trusted.all()):
            return self
        kept: list[int] = self.trusted.nonzero().flatten().tolist()
        if not kept:
            raise ValueError("labels that judge need to be right; no sample is trusted: mark some")
        images = self.images
        count = len(self) - len(kept)
        return replace(
            self,
            names=[self.names[i] for i in kept],
            targets=self.targets[kept],
            inputs=lambda rows: self.inputs([kept[i] for i in rows]),
            images=None if images is None else lambda rows: images([kept[i] for i in rows]),
            left_out=(
                *self.left_out,
                f"{count} {'sample' if count == 1 else 'samples'} whose labels are not trusted",
            ),
            trusted=self.trusted[kept],
        )

    def require_finite(self, start: int, finite: Tensor, what: str) -> None:
        """Names the first sample that is too far from those of training for its outputs to be numbers.

        Args:
            start: Position of the first sample looked at.
            finite: Whether each is, bool of shape (n,).
            what: Happens with such a sample, for the message.

        Raises:
            ValueError: if there is one.
        """
        if not finite.all():
            name = self.names[start + int((~finite).nonzero()[0])]
            raise ValueError(
                f"samples need to be like those of training; {'row ' if isinstance(name, int) else ''}{name} is so far "
                f"from them that {what} for it"
            )


def labelled_samples(run: Path, config: RunConfig, model: PrimaryModel, source: Path) -> Labelled:
    """Samples with the targets of the run's task.

    | run | source | targets |
    |---|---|---|
    | on images | a folder | the folder of an image names its class; of segmentation, files in masks/ |
    | on images | a CSV or parquet file with images or their paths | the columns that training had |
    | on images and columns | the same, with these columns | likewise |
    | on features or text | a CSV or parquet file with the training columns | likewise |

    Args:
        run: Folder of the run.
        config: Its settings.
        model: Its model.
        source: See the table.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        ValueError: if it is of another kind, lacks targets, cannot be read, or has a class that the run does not have.
    """
    if not source.exists():
        raise FileNotFoundError(f"labelled samples are read from a folder or table; {source} does not exist")
    if source.is_dir():
        if not model.takes_images:
            raise ValueError(f"labelled rows need a CSV or parquet file; {source} is a folder: name the file")
        return (_with_masks if model.task == "segmentation" else _in_folders)(config, model, source)
    if model.task == "segmentation":
        raise ValueError(f"segmentation needs a folder with images/ and masks/; got {source}")
    if not is_table(source):
        raise ValueError(
            f"labelled samples need a {'folder with a subfolder a class, or a ' * model.takes_images}CSV or parquet "
            f"file with their targets; got {source}"
        )
    return _in_table(run, config, model, source)


def test_part(run: Path, config: RunConfig, model: PrimaryModel) -> Labelled:
    """The test samples of a run, in its folder, loaded as for training.

    Raises:
        ValueError: if they cannot be loaded, or are of other classes by now.
    """
    data = load_data(config, RunFolder(run))
    if (data.task, data.primary_names, data.input_shape) != (
        model.task,
        model.primary_names,
        model.input_shape,
    ):
        raise ValueError(
            f"the data of the run has changed since: {config.data} has other classes or other samples"
        )
    test, bytes_of = data.test, lambda rows: data.test.x[list(rows)]
    return Labelled(
        range(len(test)),
        test.primary,
        lambda rows: beside(
            None if test.columns is None else test.columns[[*rows]],
            normalise(test.x[[*rows]], data.mean, data.std),
        ),
        bytes_of if model.image_shape is not None else None,
    )


def _in_folders(config: RunConfig, model: PrimaryModel, source: Path) -> Labelled:
    if model.task != "classification":
        raise ValueError(
            f"a folder gives each image one class; the run's task is {model.task}: name a CSV or parquet file with the "
            f"images' paths and the columns {', '.join(model.primary_names)}"
        )
    files, classes = class_folders(source, finer=config.primary == _FINER)
    targets = class_codes(classes, model.primary_names, lambda i: f"'{files[i]}'")
    beside = len(image_files(source)) - len(files)
    left_out = (
        (f"{beside} {'image' if beside == 1 else 'images'} outside of the classes' folders",)
        if beside
        else ()
    )
    return _of_images(model, files, files, targets, left_out, lambda i: f"'{files[i]}'")


def _in_table(run: Path, config: RunConfig, model: PrimaryModel, source: Path) -> Labelled:
    asked = config.primary or label_column(config.data)
    column = asked if isinstance(asked, str) else None
    in_cells = model.task == "multi-label" and column not in model.primary_names
    written = (column or "label",) if model.task == "classification" or in_cells else ()
    folder = RunFolder(run)
    summary = folder.read_summary()
    on_text = not (has_columns(folder) or model.takes_images or model.feature_names is not None)
    text = text_inputs(folder, model.input_shape[0]) if on_text else None
    as_text = written_columns(folder) if text is None else [text.column]
    table = read_table(source, text=[*written, *as_text])
    count = len(table.content)
    if not count:
        raise ValueError(f"labelled samples need at least one row; {source} has none")
    if in_cells and (column or "label") not in table.content.column_names:
        _require_no_inputs(model, summary, column or "label", source)
    separator = summary.get("label_separator")
    targets = table_targets(table, model.task, column, model.primary_names, separator)
    trusted = read_trusted_rows(table, config.trusted)
    if model.target_scale is not None:
        targets = model.target_scale.standardise(targets)
    rows = np.arange(count)
    if model.takes_images:
        items = image_items(
            table, source.parent, (*written, *model.primary_names), summary.get("image_column")
        )
        return _of_images(model, range(count), items, targets, (), lambda i: image_in_row(i, source), trusted)
    if model.image_shape is not None:
        mixed = MixedRows.of(table, source, folder, model)
        return Labelled(range(count), targets, mixed.inputs, mixed.images, trusted=trusted)
    if has_columns(folder):
        x = column_rows(column_features(folder, model.input_shape[0]), table, source)
        return Labelled(range(count), targets, lambda part: model.normalise(x[[*part]]), trusted=trusted)
    needed = model.feature_names if text is None else (text.column,)
    assert needed is not None  # a run on features or on text
    if missing := [name for name in needed if name not in table.content.column_names]:
        raise ValueError(
            f"labelled samples need the columns of the training table; {source} lacks {missing[0]!r}"
        )
    x = read_features(table, needed, rows) if text is None else text(read_texts(table, text.column, rows))
    return Labelled(range(count), targets, lambda part: model.normalise(x[[*part]]), trusted=trusted)


def _require_no_inputs(model: PrimaryModel, summary: Mapping[str, Any], column: str, source: Path) -> None:
    """ValueError where columns that are called like the run's labels are inputs of it: they would pass for its labels."""
    inputs = {*(model.feature_names or ()), *(summary.get("columns") or ())}
    if taken := [name for name in model.primary_names if name in inputs]:
        raise ValueError(
            f"labels of this run stand in column '{column}', which {source} lacks; its column '{taken[0]}' is an input"
        )


def _of_images(
    model: PrimaryModel,
    names: Sequence[Path | int],
    items: Sequence[Path | bytes],
    targets: Tensor,
    left_out: tuple[str, ...],
    where: Callable[[int], str],
    trusted: Tensor | None = None,
) -> Labelled:
    def images(rows: Sequence[int]) -> Tensor:
        return torch.cat([read_image(items[i], model.input_shape, where(i)) for i in rows])

    return Labelled(names, targets, lambda rows: model.normalise(images(rows)), images, left_out, trusted)


def _with_masks(config: RunConfig, model: PrimaryModel, source: Path) -> Labelled:
    channels, height, width = model.input_shape
    files, targets = labelled_masks(source, model.primary_names, (height, width), config.ignore_index)

    def images(rows: Sequence[int]) -> Tensor:
        each = [decode([files[i]], 1, partial(_quoted, files[i]), None) for i in rows]
        return torch.cat([as_channels(stretch(image, (height, width)), channels) for image in each])

    return Labelled(files, targets, lambda rows: model.normalise(images(rows)), images)


def _quoted(file: Path, _: int) -> str:
    return f"'{file}'"
