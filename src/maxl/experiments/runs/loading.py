"""The data set of a run."""

from __future__ import annotations

import dataclasses

from maxl.experiments.data import DataSet, MixedShape, load
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.libraries import OwnInputs
from maxl.experiments.runs.machine import threads
from maxl.experiments.runs.memory import needing_memory
from maxl.experiments.runs.own_inputs import (
    Like,
    as_taken,
    begins_elsewhere,
    inputs_of_start,
    require_same_kind,
)
from maxl.experiments.runs.text_encoders import tokens_of
from maxl.experiments.runs.transforms import build_transform
from maxl.experiments.runs.trunks import AUTO, chosen


def load_data(config: RunConfig, finished: RunFolder | None = None) -> DataSet:
    """The data set that a config names, augmented as it says, its inputs as the weights that the run starts from take them.

    Args:
        config: Of the run.
        finished: The run's own folder where it is finished: what it started from is then not needed any more.

    Raises:
        ValueError: as ``data.load``, or if the weights that the run starts from take other inputs.
    """
    own: OwnInputs | None = None
    like: Like | None = tokens_of(config, finished)
    if like is None and begins_elsewhere(config):
        own, like = inputs_of_start(config, finished)
    with (
        threads(config.threads),
        needing_memory(
            "reading the data", "leave it on disk with --stream, or lower --image-size or --train-size"
        ),
    ):
        data = load(
            config.data,
            data_dir=config.data_dir,
            primary=config.primary,
            task=config.task,
            human=config.human,
            probe=config.probe,
            trusted=config.trusted,
            train_size=None if config.train_size is None else _size(config.train_size),
            validation_size=_size(config.validation_size),
            seed=config.seed,
            image_size=config.image_size if config.image_size is not None or own is None else own.side,
            ignore_index=config.ignore_index,
            drop=config.drop or (),
            types=dict(_kind_of(given) for given in config.types or ()),
            like=like,
            stream=config.stream,
            workers=config.workers,
        )
    require_same_kind(config, data, finished)
    if own is not None:
        data = as_taken(
            data, own, by=f"--from {config.from_run}" if config.from_run else f"--trunk {config.trunk}"
        )
    elif like is None and config.from_run is not None and data.image_shape is None:
        raise ValueError(
            f"--from {config.from_run} takes images; {config.data} has samples of shape {data.input_shape}"
        )
    if config.trunk == AUTO:
        taken = chosen(AUTO, data.task, data.input_shape)
        shape = "x".join(map(str, data.image_shape or data.input_shape))
        inputs = f"inputs of shape {shape}"
        if isinstance(data.input_shape, MixedShape):
            inputs = f"images of shape {shape}, beside {data.input_shape.columns} features of columns"
        data = dataclasses.replace(data, saw=f"{data.saw}\n--trunk {taken} for {inputs}".strip())
    if config.transform is not None:
        if data.task == "segmentation":
            raise ValueError("--transform would change images and not their masks: leave it out")
        if data.train.x.ndim != 4:
            raise ValueError(
                f"--transform needs images; {config.data} has features of shape {data.input_shape}: leave it out"
            )
        data = dataclasses.replace(data, transform=build_transform(config.transform))
    if config.augment == "auto":
        return data
    if config.augment != "none" and data.task == "segmentation":
        raise ValueError(f"--augment {config.augment} would move images and not their masks: use none")
    if config.augment != "none" and data.train.x.ndim != 4:
        raise ValueError(
            f"--augment {config.augment} needs images; {config.data} has features of shape {data.input_shape}: "
            "use --augment none"
        )
    return dataclasses.replace(data, augment=config.augment != "none", flip=config.augment == "crop-flip")


def _kind_of(given: str) -> tuple[str, str]:
    column, equals, kind = given.rpartition("=")
    if not equals:
        raise ValueError(f"--types needs COLUMN=KIND, for instance age=number; got {given}")
    return column, kind


def _size(value: float) -> int | float:
    """A fraction below 1 stays one; anything else is a count."""
    return value if 0 < value < 1 or value != int(value) else int(value)
