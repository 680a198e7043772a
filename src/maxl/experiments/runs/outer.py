"""Which samples a run trains on, and which samples judge the lookahead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maxl.experiments.data import Batch, BatchStream, Split, order_to_set_aside, proportional_order
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.methods import JUDGED_METHODS, LEARNED_METHODS, NOISE_METHODS, PROTOTYPE_METHODS

OuterBatch = tuple[Tensor, Tensor] | None  # None: the training batch, or the next one
# Epoch offset of passes beside training: a meta pass, when whole epochs alternate, and calibration.
META_PASS = 1 << 20
_TAUGHT = (*LEARNED_METHODS, *JUDGED_METHODS)  # by a judge
MakeStream = Callable[[Split, int], BatchStream]  # samples and seed -> batches


class OuterData:
    """Training batches of each epoch, and the outer batch that goes with each.

    | evaluate | training | outer batches |
    |---|---|---|
    | same, next | all samples | left to the learner |
    | augmented | all samples | the same samples, cropped and flipped anew |
    | held-out | all but a part that is set aside for good | that part, over and over |
    | rotating | all but one fold, another in each epoch | that fold |

    Of methods for wrong labels the trusted samples judge where there are some, over and over, and at the end, or
    throughout, training goes on with them alone.

    With "rotating" every sample is trained on in all but one of 1 / ``held_out`` epochs (cross-fitting).

    Args:
        config: The run.
        split: All training samples.
        stream: Makes batches of a split.
        kept: Positions of the samples to train on, in as many steps as all of them would take, where the others' labels are
            taken for wrong.

    Attributes:
        whole: All training samples, those that are set aside for good included.
        train: The samples on which the run trains in one epoch or another, and those that it passes over.
        batches: Batches of ``train``.

    Raises:
        ValueError: if samples are to be augmented anew in a data set that is not augmented at all, or the part
            that is held out would be less than a sample, or all; or if trusted samples are needed and there are none.
    """

    def __init__(
        self, config: RunConfig, split: Split, stream: MakeStream, kept: Tensor | None = None
    ) -> None:
        self._kind = config.evaluate if config.method in _TAUGHT else "same"
        self._seed, self._stream = config.seed, stream
        self.whole = self.train = split
        self._held_out: BatchStream | None = None
        self._folds: list[Tensor] = []
        check_held_out(config, len(split))
        if self._kind == "held-out":
            self.train, held_out = split_off(split, config.held_out, config.seed)
            self._held_out = stream(held_out, config.seed + 1)
        elif self._kind == "rotating":
            self._folds = folds(split, fold_count(config), config.seed)
        self.batches = stream(self.train, config.seed)
        self._kept = None if kept is None else stream(self.train.select(kept), config.seed)
        self._judged = config.method in JUDGED_METHODS
        self._trusted = trusted_stream(config, self.train, stream)
        self._alone_from = config.epochs - config.epochs_on_trusted
        if self._kind == "augmented" and not self.batches.augment and self.batches.transform is None:
            raise ValueError(
                "--evaluate augmented needs images that training crops at random; this data set is not "
                "augmented: use --augment crop or --transform, or --evaluate same, next or held-out"
            )

    @property
    def paid_for(self) -> int:
        """Number of labelled samples used, those held out included."""
        return len(self.train) + (0 if self._held_out is None else len(self._held_out.split))

    def steps(self, epoch: int) -> int:
        """The number of batches of an epoch."""
        if not self._folds:
            return len(self.batches)
        samples = len(self.train) - len(self._folds[epoch % len(self._folds)])
        return samples // min(self.batches.batch_size, samples)

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, OuterBatch]]:
        """The batches of an epoch, counted from 0: a pure function of the seed and the epoch."""
        if self._trusted is not None and self._alone_from <= epoch < META_PASS:
            yield from self._some(self._trusted, epoch)
        elif self._kept is not None:
            yield from self._some(self._kept, epoch)
        elif self._trusted is not None and self._judged:
            judges = _pairs(over_and_over(self._trusted, len(self.batches), epoch))
            yield from zip(self.batches.epoch(epoch), judges, strict=False)
        elif self._kind == "augmented":
            yield from zip(self.batches.epoch(epoch), _pairs(self.batches.epoch(epoch, view=1)), strict=True)
        elif self._kind == "rotating":
            judging = self._folds[epoch % len(self._folds)]
            training = torch.cat([f for f in self._folds if f is not judging]).sort().values
            batches = self._stream(self.train.select(training), self._seed)
            outer = self._stream(self.train.select(judging), self._seed + 1)
            judges = _pairs(over_and_over(outer, len(batches), epoch))
            yield from zip(batches.epoch(epoch), judges, strict=False)
        elif self._held_out is not None:
            outer_batches = _pairs(over_and_over(self._held_out, len(self.batches), epoch))
            yield from zip(self.batches.epoch(epoch), outer_batches, strict=False)
        else:
            yield from ((batch, None) for batch in self.batches.epoch(epoch))

    def _some(self, stream: BatchStream, epoch: int) -> Iterator[tuple[Batch, OuterBatch]]:
        """An epoch's steps on batches of a part of the samples, over and over."""
        batches = over_and_over(stream, len(self.batches), epoch)
        yield from ((batch, None) for batch in itertools.islice(batches, len(self.batches)))


def trusted_stream(config: RunConfig, split: Split, stream: MakeStream) -> BatchStream | None:
    """Batches of the trusted samples of a method that uses them.

    Raises:
        ValueError: if there are none.
    """
    if config.method not in NOISE_METHODS or split.trusted is None:
        return None
    rows = split.trusted.nonzero().flatten()
    if not len(rows):
        raise ValueError(
            f"--method {config.method} needs trusted training samples; all of them test or validate: mark more, or lower "
            "--validation-size"
        )
    return stream(split.select(rows), config.seed + 2)


def check_held_out(config: RunConfig, samples: int) -> None:
    """ValueError if a config holds less than one of so many samples out, or all of them."""
    crossed = config.method in PROTOTYPE_METHODS
    judged = config.method in _TAUGHT and config.evaluate in ("held-out", "rotating")
    if (crossed or judged) and config.held_out * samples < 1 - 1e-9:  # 1/49 of 49 is a rounding below 1
        by = f"--method {config.method}" if crossed else f"--evaluate {config.evaluate}"
        raise ValueError(
            f"--held-out needs a share of at least one sample, 1/{samples} with {by}; "
            f"got {config.held_out} of {samples} samples"
        )
    if (
        config.method in _TAUGHT
        and config.evaluate == "held-out"
        and round(config.held_out * samples) >= samples
    ):
        raise ValueError(
            f"--held-out needs to leave a sample to train on; got {config.held_out} of {samples} samples"
        )


def fold_count(config: RunConfig) -> int:
    """Into how many parts samples are cut that judge in turn: the nearest to 1 / ``held_out``, at least 2."""
    return max(2, round(1 / config.held_out))


def folds(split: Split, count: int, seed: int) -> list[Tensor]:
    """Positions of the samples in ``count`` parts with their classes in proportion, each int64 and sorted."""
    order = _ordered(split, seed, proportional_order)
    return [part.sort().values for part in order.tensor_split(count)]


def split_off(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The split without a part of it with its classes in proportion, and that part.

    Raises:
        ValueError: if a class would not be trained on.
    """
    order = _ordered(split, seed, order_to_set_aside)
    count = round(fraction * len(split))
    kept, part = split.select(order[count:].sort().values), split.select(order[:count].sort().values)
    classes, left = (len(set(one.strata.tolist())) for one in (split, kept))
    if left < classes:
        raise ValueError(
            f"--evaluate held-out needs to leave a sample of each class to train on; with --held-out {fraction} "
            f"{classes - left} of {classes} classes would have none: lower it"
        )
    return kept, part


def _ordered(split: Split, seed: int, order: Callable[..., NDArray[np.int64]]) -> Tensor:
    human = None if split.human is None else split.human.cpu().numpy()
    return torch.from_numpy(order(split.strata.cpu().numpy(), human, seed))


def over_and_over(stream: BatchStream, count: int, epoch: int) -> Iterator[Batch]:
    """At least ``count`` batches: as many passes over the stream as that takes."""
    passes = 1 + count // len(stream)
    epochs = (stream.epoch(e) for e in range(epoch * passes, (epoch + 1) * passes))
    return itertools.chain.from_iterable(epochs)


def _pairs(batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((b.x, b.primary) for b in batches)
