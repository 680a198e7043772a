"""Inputs as the weights that a run starts from take them: size, colours and normalisation, or columns of a table."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from maxl.experiments.data import (
    Columns,
    DataSet,
    Features,
    MixedShape,
    Split,
    StreamedSamples,
    TextFeatures,
    Tokens,
    image_shape,
)
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inputs import as_channels, column_features, text_features
from maxl.experiments.runs.libraries import OwnInputs, own_inputs
from maxl.experiments.runs.names import is_code, library_of
from maxl.experiments.runs.summary import require_model, shape_of
from maxl.experiments.runs.trunks import AUTO, NAMES

Like = Features | TextFeatures | Columns | Tokens


def begins_elsewhere(config: RunConfig) -> bool:
    """Whether a run starts from weights of others, or takes inputs as they do."""
    return bool(config.pretrained or config.weights or config.from_run or config.normalisation == "model")


def finished_run(config: RunConfig) -> RunFolder:
    """The folder of the run that another starts from.

    Raises:
        ValueError: if it holds no finished run.
    """
    folder = RunFolder(Path(str(config.from_run)))
    if not folder.finished:
        state = (
            f"is not: continue it with maxl train --resume {folder.path}" if folder.started else "holds none"
        )
        raise ValueError(f"--from needs the folder of a finished run; {folder.path} {state}")
    return folder


def settled(config: RunConfig, *, trust: bool = False) -> RunConfig:
    """The config with the trunk of the run that it starts from, where it leaves the trunk open.

    Args:
        config: Of the new run.
        trust: Take a trunk ``module:function``, which runs code, from the other run's folder.

    Raises:
        ValueError: if there is no such run, or its trunk is code and is not trusted.
    """
    if config.from_run is None or config.trunk != AUTO:
        return config
    folder = finished_run(config)
    stored, summary = folder.read_config(trust=trust), folder.read_summary()
    return dataclasses.replace(
        config, trunk=summary["trunk"], trunk_output=stored.trunk_output, trunk_pool=stored.trunk_pool
    )


def inputs_of_run(folder: RunFolder) -> tuple[OwnInputs | None, Like | None]:
    """Images as a finished run takes them, and how it makes features of columns; None for what it has none of.

    Raises:
        ValueError: if its summary or what makes its features is damaged.
    """
    summary = folder.read_summary()
    require_model(summary, folder.summary)
    shape, features = shape_of(summary), summary.get("features")
    if features:
        return None, Features(tuple(features["names"]), tuple(features["mean"]), tuple(features["std"]))
    if (image := image_shape(shape)) is not None:
        side = image[1] if image[1] == image[2] else None
        images = OwnInputs(image[0], side, tuple(summary["mean"]), tuple(summary["std"]))
        return images, column_features(folder, shape.columns) if isinstance(shape, MixedShape) else None
    if folder.columns.is_file():
        return None, column_features(folder, shape[0])
    return None, text_features(folder, shape[0]) if folder.text.is_file() else None


def inputs_of_start(
    config: RunConfig, finished: RunFolder | None = None
) -> tuple[OwnInputs | None, Like | None]:
    """The same of what a run starts from; None for images that are to be normalised as the data says.

    Args:
        config: Of the run.
        finished: The run's own folder where it is finished: it says the same, and what it started from is not needed.

    Raises:
        ValueError: if a model's own inputs are asked for and not known.
    """
    if config.from_run is not None:
        images, like = inputs_of_run(finished or finished_run(config))
        return (None if config.normalisation == "data" else images), like
    library, name = library_of(config.trunk)
    if library is None and (config.trunk in (AUTO, *NAMES) or is_code(config.trunk)):
        asked = {"--pretrained": config.pretrained, "--normalisation model": config.normalisation == "model"}
        if flags := [flag for flag, given in asked.items() if given]:
            raise ValueError(
                f"{flags[0]} needs a model that comes with weights: --trunk timm:NAME, torchvision:NAME or hf:NAME; got "
                f"--trunk {config.trunk}"
            )
        return None, None
    if config.normalisation == "data":
        return None, None
    return (own_inputs(library, name) if finished is None else inputs_of_run(finished)[0]), None


def require_same_kind(config: RunConfig, data: DataSet, finished: RunFolder | None = None) -> None:
    """ValueError if the run that another starts from takes columns beside images and the other does not, or vice versa."""
    if config.from_run is None:
        return
    before = shape_of((finished or finished_run(config)).read_summary())
    takes, given = (isinstance(shape, MixedShape) for shape in (before, data.input_shape))
    if takes != given:
        words = {True: "columns beside images", False: "no columns beside images"}
        raise ValueError(
            f"--from {config.from_run} takes {words[takes]}; {config.data} has {words[given]} as inputs: --types names "
            "those that are"
        )


def as_taken(data: DataSet, own: OwnInputs, *, by: str) -> DataSet:
    """A data set of images with the channels and the normalisation that a model takes.

    Args:
        data: Of images in the size they are to have; grey ones are repeated, colours made grey.
        own: What the model takes.
        by: What errors call it.

    Raises:
        ValueError: if the samples are no images, or have other channels.
    """
    if data.image_shape is None:
        raise ValueError(f"{by} takes images; {data.name} has samples of shape {data.input_shape}: drop it")
    channels, *size = data.image_shape
    if channels != own.channels and {channels, own.channels} != {1, 3}:
        raise ValueError(
            f"{by} takes images of {own.channels} channels; those of {data.name} have {channels}"
        )

    def converted(split: Split) -> Split:
        x = split.x
        if channels == own.channels:
            return split
        change = partial(as_channels, channels=own.channels)
        shape = (own.channels, *x.shape[2:])
        changed = x.changed(change, shape) if isinstance(x, StreamedSamples) else change(x)
        return dataclasses.replace(split, x=changed)

    shape = "x".join(map(str, (own.channels, *size)))
    numbers = "; ".join(
        f"{word} {', '.join(f'{value:g}' for value in values)}"
        for word, values in (("mean", own.mean), ("std", own.std))
    )
    return dataclasses.replace(
        data,
        train=converted(data.train),
        validation=None if data.validation is None else converted(data.validation),
        test=converted(data.test),
        mean=own.mean,
        std=own.std,
        saw=f"{data.saw}\nimages as {by} takes them: {shape}, {numbers}".strip(),
    )
