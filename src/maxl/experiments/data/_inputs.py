"""From undecoded parts to inputs: all in memory, or left on disk until a batch asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data._columns import Columns
from maxl.experiments.data._features import (
    Standardise,
    TextFeatures,
    fit_pieces,
    fit_text,
    piece_rows,
    require_words,
)
from maxl.experiments.data._images import to_channels
from maxl.experiments.data._options import Like, Options
from maxl.experiments.data._source import IntArray, Part, Raw, Source, Transform
from maxl.experiments.data._streamed import Samples, StreamedSamples
from maxl.experiments.data._tokens import Tokens, require_texts, token_inputs
from maxl.experiments.data._types import Features

if TYPE_CHECKING:  # it takes a while to import
    import pandas as pd

_LOOKED_AT = 4096  # files whose headers are read together
_PARTS = ("training", "test", "validation")


@dataclass(frozen=True)
class Inputs:
    """Samples of each part, how they were made of what the source holds, and what is to be said of that."""

    inputs: Sequence[Samples]
    transform: Transform
    saw: str = ""
    beside: Beside | None = None


@dataclass(frozen=True)
class Beside:
    """Features of the columns beside the images of each part, how they were made, and what is to be said of that."""

    features: Sequence[Tensor]
    columns: Columns
    saw: str


def make_inputs(parts: Sequence[Part], source: Source, name: str, options: Options) -> Inputs:
    """The samples of all parts, the training part first: statistics are its own, and all have its shape.

    Raises:
        ValueError: if samples cannot be read, differ in size, or cannot be streamed though they are to be.
    """
    if isinstance(options.like, Tokens):
        require_texts(options.like, source, name)
    made = (_streamed if options.wanted.stream else _held)(parts, source, name, options)
    first = made.inputs[0].shape[2:]
    for x, part in zip(made.inputs, parts, strict=True):
        if x.shape[2:] != first:
            raise ValueError(
                f"images must all have one size; those of {part.origin} are {'x'.join(map(str, x.shape[2:]))}, those of "
                f"{parts[0].origin} {'x'.join(map(str, first))}: pass image_size (--image-size) to scale them"
            )
    if made.inputs[0].ndim != 4:
        return made
    channels = max(x.shape[1] for x in made.inputs)  # grey parts follow coloured ones
    same = [_with_channels(x, channels) for x in made.inputs]
    beside = _beside(parts, source, name, options)
    return Inputs(same, made.transform, "" if beside is None else beside.saw, beside)


def _beside(parts: Sequence[Part], source: Source, name: str, options: Options) -> Beside | None:
    """What stands beside images, its statistics those of the training part."""
    if source.fit_frame is None:
        return None
    frames = [part.frame(np.arange(len(part))) for part in parts if part.frame is not None]
    columns = source.fit_frame(frames[0])
    if options.like is not None:
        before = _like(options.like, columns, source.feature_names or (), name)
        assert isinstance(before, Columns)  # as what it is like
        columns = before
    return Beside([columns(frame) for frame in frames], columns, _said_of(columns, frames, options))


def _said_of(columns: Columns, frames: Iterable[pd.DataFrame], options: Options) -> str:
    """What a user should know of the samples of each part, in lines; the training part first."""
    return _empty(columns) if options.like is None else _unseen(columns, frames)


def _empty(columns: Columns) -> str:
    """Which columns the training samples leave empty, in lines."""
    return "\n".join(
        f"column '{name}' is missing in all training samples, and carries nothing" for name in columns.empty()
    )


def _unseen(columns: Columns, frames: Iterable[pd.DataFrame]) -> str:
    """What samples hold that those have not which features were first made of, in lines; the training part first."""
    lines = [
        f"features are made as before, for the {word} part too: {line}"
        for word, frame in zip(_PARTS, frames, strict=False)
        for line in columns.unseen(frame)
    ]
    return "\n".join(lines)


def _with_channels(x: Samples, channels: int) -> Samples:
    if isinstance(x, Tensor):
        return to_channels(x, channels)
    return x.changed(partial(to_channels, channels=channels), (channels, *x.sample_shape[1:]))


def _held(parts: Sequence[Part], source: Source, name: str, options: Options) -> Inputs:
    """Decoded at once."""
    if isinstance(options.like, Tokens):
        tokens, saw = token_inputs(parts, options.like)
        return Inputs(tokens, options.like, saw)
    raw = parts[0].read(np.arange(len(parts[0])))
    if source.fit is fit_text:
        assert isinstance(raw, list)  # a source of texts
        (column,) = source.feature_names or ("text",)
        require_words(raw, column, "choose another column, or an encoder that reads them, --trunk hf:NAME")
    transform = _as_is if source.fit is None else source.fit(raw)
    if options.like is not None and source.fit_frame is None:
        transform = _like(options.like, transform, source.feature_names or (), name)
    rest = (part.read(np.arange(len(part))) for part in parts[1:])
    if not isinstance(transform, Columns):
        return Inputs([transform(raw), *map(transform, rest)], transform)
    frames: list[Any] = [raw, *rest]
    return Inputs([transform(frame) for frame in frames], transform, _said_of(transform, frames, options))


def _streamed(parts: Sequence[Part], source: Source, name: str, options: Options) -> Inputs:
    """Left where they are."""
    transform: Transform = _as_is
    if any(part.look is None for part in parts):
        raise ValueError(
            f"--stream reads folders of images a class, tables of images or their paths, and parquet files of numbers; '{name}' "
            "is read whole: leave it out"
        )
    if source.fit is not None:
        transform = fit_pieces(_raw_pieces(parts[0], len(source.feature_names or ())))
        if options.like is not None:
            transform = _like(options.like, transform, source.feature_names or (), name)
    return Inputs([_left_on_disk(part, transform, options.workers) for part in parts], transform)


def _left_on_disk(part: Part, transform: Transform, workers: int) -> StreamedSamples:
    assert part.look is not None  # the caller has looked
    every, look, read = np.arange(len(part)), part.look, part.read
    shapes = [look(rows) for rows in np.split(every, range(_LOOKED_AT, len(every), _LOOKED_AT))]
    if len({shape[1:] for shape in shapes}) > 1:
        differing = next(i for i, shape in enumerate(shapes) if shape[1:] != shapes[0][1:])
        look(every[[0, *range(_LOOKED_AT * differing, len(every))]])  # names the image
    shape = (max(shape[0] for shape in shapes), *shapes[0][1:])

    def samples(rows: IntArray) -> Tensor:
        raw = read(rows)
        if isinstance(transform, Standardise):
            return transform.of_rows(raw, rows)
        x = transform(raw)
        return to_channels(x, shape[0]) if x.ndim == 4 else x  # grey ones among coloured ones

    return StreamedSamples(samples, every, shape, workers)


def _raw_pieces(part: Part, width: int) -> Iterator[Tensor]:
    every = np.arange(len(part))
    size = piece_rows(width)
    for rows in np.split(every, range(size, len(every), size)):
        raw = part.read(rows)
        assert isinstance(raw, Tensor)  # the caller knows it of a streamed part
        yield raw


def _like(like: Like, fitted: Transform, columns: Sequence[str], name: str) -> Transform:
    """What makes features as before; ValueError unless they are made of the same columns."""
    if isinstance(like, Features):
        before, now = dict.fromkeys(like.names, "number"), dict.fromkeys(columns, "number")
        same = isinstance(fitted, Standardise)
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (like.mean, like.std))
        transform: Transform = Standardise(mean, std)
    elif isinstance(like, TextFeatures):
        before, now = {like.column: "text"}, dict.fromkeys(columns, "text")
        same, transform = isinstance(fitted, TextFeatures), like
    else:
        assert isinstance(like, Columns)  # tokens are no features
        before, now = like.kinds, fitted.kinds if isinstance(fitted, Columns) else {}
        same, transform = isinstance(fitted, Columns), like
        zones = fitted.zones if isinstance(fitted, Columns) else {}
        if differing := [
            column for column in zones if like.zones.get(column, zones[column]) != zones[column]
        ]:
            raise ValueError(
                f"features can be made as before of dates that have a time zone if those had, and else of none; '{name}' "
                f"differs in '{differing[0]}': write its dates as they were, or choose another start than --from"
            )
    if not same or list(before.items()) != list(now.items()):
        odd = [column for column in (*before, *now) if before.get(column) != now.get(column)]
        raise ValueError(
            f"features can be made as before of the same columns in the same order; '{name}' differs"
            + (f" in {odd[0]!r}" if odd else "")
            + ": choose columns with --drop and --types, or another start than --from"
        )
    return transform


def _as_is(raw: Raw) -> Tensor:
    assert isinstance(raw, Tensor)  # sources of text bring a transform
    return raw
