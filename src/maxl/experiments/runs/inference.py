"""Predictions of a finished run for images, rows and texts of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from maxl.experiments.data import image_items, is_table
from maxl.experiments.runs.build import resolve_device
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import (
    find_images,
    find_unmasked,
    image_in_row,
    read_image,
    read_prepared_rows,
    read_rows,
    table_with,
)
from maxl.experiments.runs.masks import Mask, predict_masks
from maxl.experiments.runs.mixed_rows import read_mixed_rows
from maxl.experiments.runs.model import PrimaryModel, load_model, warn_of_batches

_BATCH = 256


class Prediction(NamedTuple):
    """The likeliest class of an image, or of a row of a table (counted from 0); all probabilities if asked for."""

    file: Path | int
    name: str
    probability: float
    probabilities: dict[str, float] | None = None


class Numbers(NamedTuple):
    """What a regression says of an image or row: a number for each target, in the target's units."""

    file: Path | int
    values: dict[str, float]


class Labels(NamedTuple):
    """The probability of each label of an image or row; it has those of at least one half."""

    file: Path | int
    probabilities: dict[str, float]


Predicted = Prediction | Numbers | Labels | Mask


def predict(
    run: Path, source: Path, *, device: str = "cpu", trust: bool = False, proba: bool = False
) -> list[Prediction] | list[Numbers] | list[Labels] | list[Mask]:
    """The likeliest class of each image or row, with its probability; or its numbers, or its labels' probabilities.

    Images are brought to the run's size (the centre of the image, scaled; of segmentation all of it, stretched) and channels.

    Args:
        run: Folder of a finished run.
        source: For images, a folder, searched with its subfolders (masks/ beside images/ left out for segmentation), one image file, or a CSV or parquet file with a
            column of images or of their paths; for features and text, a CSV or parquet file with the columns of the
            training table (labels are not needed), which a run on images and columns beside them takes, too; for text
            also a .txt file with a text a line.
        device: Where to compute.
        trust: As for ``load_model``.
        proba: Also give the probabilities of all classes; those of labels are given anyway.

    Returns:
        One prediction a file, sorted by path, or a row; probabilities in [0, 1], numbers in the units of the targets.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        PermissionError: if a folder below it cannot be read.
        ValueError: if ``source`` is not of the run's kind, holds nothing or cannot be read, the run is unfinished, or
            probabilities are asked for and its outputs are no classes or labels of a sample.
    """
    model = load_model(run, trust=trust)
    warn_of_batches(model)
    if proba and model.task in ("regression", "segmentation"):
        raise ValueError(
            "--proba needs a run on classes or labels; "
            + (
                "a regression gives numbers, which have no probabilities: leave it out"
                if model.task == "regression"
                else "segmentation has a probability for every class at every pixel, which no table holds: leave it out"
            )
        )
    if not source.exists():
        raise FileNotFoundError(
            f"predict needs images, or a table for a run on features; {source} does not exist"
        )
    if model.task == "segmentation":
        return list(predict_masks(model, find_unmasked(source), resolve_device(device)))
    names: list[Path | int]
    inputs: Callable[[range], Tensor]
    if model.takes_images:
        names, inputs = _images(run, source, model)
    elif model.image_shape is not None:
        mixed = read_mixed_rows(source, RunFolder(run), model)
        names, inputs = [*range(len(mixed))], mixed.inputs
    else:
        if model.feature_names is None:
            rows = read_prepared_rows(source, RunFolder(run), model.input_shape[0])
        else:
            rows = read_rows(source, model.feature_names)
        names, inputs = [*range(len(rows))], lambda part: model.normalise(rows[part.start : part.stop])
    where = resolve_device(device)
    trunk, primary_head = model.trunk.to(where), model.primary_head.to(where)
    done: list[Tensor] = []
    for start in range(0, len(names), _BATCH):
        x = inputs(range(start, min(start + _BATCH, len(names))))
        with torch.no_grad():
            # Normalised before it moves, and back before it gets units: not every device computes in float64.
            outputs = _read(model, primary_head(trunk(x.to(where))).float().cpu(), proba)
        finite = outputs.isfinite().all(1)
        if not finite.all():
            odd = names[start + int((~finite).nonzero()[0])]
            raise ValueError(
                f"predict needs samples like those of training; {'row ' if isinstance(odd, int) else ''}{odd} of "
                f"{source} is so far from them that the model gives no number for it"
            )
        done.append(outputs)
    every = zip(names, torch.cat(done).tolist(), strict=True)
    if model.task == "regression":
        return [Numbers(name, dict(zip(model.primary_names, row, strict=True))) for name, row in every]
    if model.task == "multi-label":
        return [Labels(name, dict(zip(model.primary_names, row, strict=True))) for name, row in every]
    return [
        Prediction(
            name,
            model.primary_names[int(row[1])],
            row[0],
            dict(zip(model.primary_names, row[2:], strict=True)) if proba else None,
        )
        for name, row in every
    ]


def _images(
    run: Path, source: Path, model: PrimaryModel
) -> tuple[list[Path | int], Callable[[range], Tensor]]:
    """What names each image, its file or its row in a table, and what makes inputs of some of them."""
    names: list[Path | int]
    items: Sequence[Path | bytes]
    if is_table(source):
        column = RunFolder(run).read_summary().get("image_column")
        items = image_items(table_with((), source), source.parent, (), column)
        names, where = [*range(len(items))], [image_in_row(i, source) for i in range(len(items))]
    else:
        items = find_images(source)
        names, where = [*items], [f"'{file}'" for file in items]

    def inputs(part: range) -> Tensor:
        return model.normalise(torch.cat([read_image(items[i], model.input_shape, where[i]) for i in part]))

    return names, inputs


def _read(model: PrimaryModel, outputs: Tensor, proba: bool) -> Tensor:
    """What a prediction holds: (probability, class and, if asked for, all probabilities), a probability a label, or numbers."""
    if model.task == "classification":
        probabilities = outputs.softmax(1)
        top = probabilities.max(1)
        columns = [top.values.double().unsqueeze(1), top.indices.double().unsqueeze(1)]
        return torch.cat([*columns, *[probabilities.double()] * proba], 1)
    return outputs.sigmoid() if model.task == "multi-label" else model.in_units(outputs)
