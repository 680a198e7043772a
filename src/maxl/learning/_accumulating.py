"""Gradient accumulation: a step on a batch that does not fit memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from maxl.hypergradients import Inputs, Problem, parts_of
from maxl.learning._losses import Rows, check_part, primary_loss
from maxl.learning._meta import MetaAuxiliaryLearner
from maxl.learning._outer import OuterBatch
from maxl.learning._record import Batch, Update, is_same_batch
from maxl.learning._result import StepResult

# What working through a batch in parts leaves of the choices.
_FIXED = {"lookahead": "update", "evaluate": "same", "favour": "memory"}


class AccumulatingLearner(MetaAuxiliaryLearner):
    """A learner that works through each batch in parts and updates each network once.

    The update just taken is the lookahead and the batch itself judges it, as with ``PRESETS["exact"]``; memory is
    that of one part. The result is that of the whole batch for losses that are means over samples, and for networks
    whose samples do not interact; BatchNorm on batch statistics normalises within a part instead.

    Args:
        microbatch: Samples in a part.
        args, options: As for ``MetaAuxiliaryLearner``; the lookahead is set here.

    Raises:
        ValueError: if ``microbatch`` is below 1, or another lookahead or a gate is given; in training, if a loss is no mean
            over samples.
    """

    def __init__(self, *args: Any, microbatch: int, **options: Any) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch needs to be at least 1; got {microbatch}")
        for name, value in _FIXED.items():
            if options.get(name) not in (None, value):
                raise ValueError(
                    f"AccumulatingLearner takes {name}={value!r} itself; got {options[name]!r}: drop it, or use "
                    "MetaAuxiliaryLearner"
                )
        super().__init__(*args, **{**options, **_FIXED})
        if self.mix.splits:
            raise ValueError("a gate needs the gradients of a whole batch; use MetaAuxiliaryLearner with it")
        if not self.world.alone:
            raise ValueError(
                "processes need the same number of parts in every step, and a shorter last batch has fewer: call "
                "learner.backward(x, y, share=...) of a MetaAuxiliaryLearner the same number of times in each"
            )
        self.microbatch = microbatch
        self._given: tuple[Inputs, Tensor] | None = None  # the batch whose parts were trained on last
        self._judged: Rows | None = None  # rows of the last part that has judged

    def _backward(self, batch: Batch) -> StepResult:
        self._drop_used_gradients()
        self._drop_left_out(batch.scale)
        with self._whole_or_nothing():
            return self._by_parts(batch)

    def _by_parts(self, batch: Batch) -> StepResult:
        self._given = batch.x, batch.y
        whole = len(batch.y)
        indices = [None] * whole if batch.index is None else torch.split(batch.index, self.microbatch)
        parts = zip(
            parts_of(batch.x, self.microbatch, whole),
            torch.split(batch.y, self.microbatch),
            indices,
            strict=False,
        )
        results = []
        for x, y, index in parts:
            share = batch.share * len(y) / whole
            part = Batch(x, y, index, batch.labels, share, batch.scale, batch.outer)
            results.append((len(y) / whole, super()._backward(part)))
        return _whole(results)

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Where a part fails, those before it leave no trace: neither gradients nor a step in the making."""
        gradients = [
            (p, p.grad, None if p.grad is None else (p.grad.detach().clone(), p.grad._version))
            for p in self._theta()
        ]
        kept = self._filled, self._part, self._given, self._tracker.copied()
        try:
            yield
        except BaseException:
            self._filled, self._part, self._given, self._tracker = kept
            added = False
            for p, gradient, before in gradients:
                p.grad = gradient
                if gradient is not None and before is not None and gradient._version != before[1]:
                    gradient.copy_(before[0])  # in place: others may hold it, too
                    added = True
            if added:
                self._tracker.rewritten()
            raise

    def problem(self, x: Inputs, y: Tensor, weights: dict[str, Tensor] | None = None, **more: Any) -> Problem:
        """As ``MetaAuxiliaryLearner.problem``; a batch that judges in parts needs a loss that is a mean over samples."""
        problem = super().problem(x, y, weights, **more)
        if problem.outer_share != 1.0:
            problem.outer_loss = self._outer_loss
        return problem

    def _outer_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        self._judged = check_part([primary_loss(self.task)], ((outputs.detach(),), y, ()), self._judged)
        return self.task.loss(outputs, y)

    def _aim(self, x: Inputs, y: Tensor, outer_batch: tuple[Inputs, Tensor] | None) -> None:
        """The whole batch may be named, whose parts were trained on."""
        if self.update is None or self._given is None or not is_same_batch(self._given, x, y):
            super()._aim(x, y, outer_batch)
            return
        self.update.judge_by(outer_batch or self.update.outer)
        self._tracker.aim(self.update)

    def _outer_batches(self, update: Update) -> list[OuterBatch]:
        return [
            (x_part, y_part, share * len(y_part) / len(y))
            for x, y, share in super()._outer_batches(update)
            for x_part, y_part in zip(
                parts_of(x, self.microbatch, len(y)), torch.split(y, self.microbatch), strict=True
            )
        ]


def _whole(results: list[tuple[float, StepResult]]) -> StepResult:
    """Losses are means by share, everything else is joined."""
    joined: dict[str, Tensor] = {}
    for name in (f.name for f in fields(StepResult)):
        values = [(share, getattr(result, name)) for share, result in results]
        if any(value is None for _, value in values):
            continue
        if values[0][1].dim() == 0:
            joined[name] = torch.stack([share * value for share, value in values]).sum()
        else:
            joined[name] = torch.cat([value for _, value in values])
    return StepResult(**joined)
