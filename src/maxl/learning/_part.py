"""Meta steps on a part of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maxl.learning._record import Batch
from maxl.learning._schedule import Every, Schedule


@dataclass(frozen=True)
class Part(Every):
    """At every k-th training step, on random samples of its batch: cheaper, and right on average.

    The training step takes the whole batch. Of its samples, some judge it and others, drawn independently, teach: the
    hypergradient is an unbiased estimate of the whole batch's, for networks and generators whose samples do not interact.
    BatchNorm on batch statistics normalises within those samples instead. A batch that judges by name, or the
    next one with ``maxl.Next()``, does so whole.

    Args:
        q: Share of the samples, in (0, 1]; at least two are drawn.
        k: At least 1.

    Raises:
        ValueError: if one of them is not.
    """

    q: float = 1.0

    def __init__(self, q: float, k: int = 1) -> None:
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "q", q)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.q <= 1:
            raise ValueError(f"teach_part needs to be above 0 and at most 1; got {self.q}")

    def rows(self, count: int) -> Tensor | None:
        """Positions of some of ``count`` samples, by torch's global generator of random numbers; None for all of them.

        Which of the two hangs on q alone: processes whose parts of a batch differ in size take the same path.
        """
        return None if self.q == 1.0 else torch.randperm(count)[: max(2, round(self.q * count))].sort().values


def drawn(schedule: Schedule, batch: Batch, *, follows: bool) -> tuple[Tensor, Tensor] | None:
    """Rows of a batch to teach, and rows to judge by, as a schedule draws them; None for all of them.

    Raises:
        ValueError: if there are some, and the step is not one that a part of its batch can stand for.
    """
    draw = getattr(schedule, "rows", None)  # a schedule need not have it
    rows = None if draw is None else (draw(len(batch.y)), draw(len(batch.y)))
    if rows is None or rows[0] is None:
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
