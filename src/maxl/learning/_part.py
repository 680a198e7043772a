"""Meta steps on a part of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maxl.hypergradients import Outputs, Signals
from maxl.learning._losses import check_mean, primary_loss
from maxl.learning._record import Batch, MicroBatch
from maxl.learning._schedule import Every, Schedule
from maxl.supervision import Supervision
from maxl.tasks import Task


@dataclass(frozen=True)
class Part:
    """At every k-th training step, on random samples of its batch: cheaper, and right on average.

    The training step takes the whole batch. Of its samples, some judge it and others, drawn independently, teach: the
    hypergradient is an unbiased estimate of the whole batch's, for networks and generators whose samples do not interact.
    BatchNorm on batch statistics normalises within those samples instead. A batch that judges by name, or the
    next one with ``maxl.Next()``, does so whole. The penalty is that of the labels that are taught.

    The losses that some samples stand for need to be means over samples: what depends on the signals, and, where samples
    of the batch judge, the primary loss. Others are refused in training, as are two calls of ``backward`` for one step.

    Args:
        q: Share of the samples, in (0, 1]; at least two are drawn.
        k: At least 1.

    Raises:
        ValueError: if one of them is not.
    """

    q: float
    k: int = 1

    def __post_init__(self) -> None:
        Every(self.k)  # or a ValueError
        if not 0 < self.q <= 1:
            raise ValueError(
                f"the q of maxl.Part (teach_part) needs to be above 0 and at most 1; got {self.q}"
            )

    def due(self, step: int) -> bool:
        """As ``Schedule.due``."""
        return Every(self.k).due(step)

    def rows(self, count: int) -> Tensor | None:
        """Positions of some of ``count`` samples, by torch's global generator of random numbers; None for all of them.

        Which of the two hangs on q alone: processes whose parts of a batch differ in size take the same path.
        """
        return None if self.q == 1.0 else torch.randperm(count)[: max(2, round(self.q * count))].sort().values


def drawn(
    schedule: Schedule, batch: Batch, earlier: Sequence[MicroBatch], *, follows: bool
) -> tuple[Tensor, Tensor] | None:
    """Rows of a batch to teach, and rows to judge by, as a schedule draws them; None for all of them.

    Args:
        schedule: Draws them.
        batch: Of which.
        earlier: What the same step has been given before.
        follows: As of a ``Lookahead``.

    Raises:
        ValueError: if there are some, and the step is not one that a part of its batch can stand for.
    """
    draw = getattr(schedule, "rows", None)  # a schedule need not have it
    rows = None if draw is None else (draw(len(batch.y)), draw(len(batch.y)))
    some = rows is not None and rows[0] is not None
    if earlier and (some or any(part.given is not None for part in earlier)):
        raise ValueError(
            "maxl.Part takes samples of one batch a step; backward was called again before optimizer.step(): step between "
            "the two calls, or accumulate with schedule=maxl.Every(k)"
        )
    if rows is None or not some:
        return None
    if not follows:
        raise ValueError(
            "a part of a batch teaches through the step that the whole batch takes: use maxl.Part with maxl.Taken() or "
            "maxl.Next(); a virtual step on a part is one of a smaller batch, passed to meta_step"
        )
    if batch.share != 1.0:
        raise ValueError(
            "maxl.Part takes samples of whole batches; got a part of one: accumulate with schedule=maxl.Every(k)"
        )
    return rows[0].to(batch.y.device), rows[1].to(batch.y.device)


def check_sampled(
    supervision: Supervision, task: Task, outputs: Outputs, y: Tensor, signals: Signals, *, judges: bool
) -> None:
    """Some samples of a batch stand for all of them where its losses are means over samples.

    A primary loss that does not depend on the signals teaches nothing; it matters where it ``judges``.

    Raises:
        ValueError: if one of them is none.
    """

    def taught(outputs: Outputs, y: Tensor, signals: Signals) -> Tensor:
        losses = supervision.losses(task, outputs, y, signals)
        alone = losses.auxiliary if supervision.trains_on_outer_loss else None
        return losses.total() if alone is None else alone

    what, instead = (
        "maxl.Part, by which some samples stand for all,",
        ", or teach by whole batches: maxl.Every(k)",
    )
    check_mean(taught, outputs, y, signals, what, instead)
    if judges:
        instead += "; a batch that is named to backward (outer_batch=) judges whole, by any loss"
        check_mean(primary_loss(task), outputs, y, (), what, instead)
