"""What the library asks of a supervision: the training loss as a function of outputs, targets and signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor

from maxl.hypergradients import Outputs, Signals, TrainingLoss
from maxl.tasks import Task


class Losses(NamedTuple):
    """The two parts of the training loss, scalars."""

    primary: Tensor  # on the primary outputs
    auxiliary: Tensor | None  # on the auxiliary ones; None without

    def total(self) -> Tensor:
        """L_in."""
        return self.primary if self.auxiliary is None else self.primary + self.auxiliary


class Supervision(ABC):
    """What a generator's signals do to the training loss; an object with settings and no state.

    The double gradient is exact for any such loss, as signals meet the weights in the outputs alone.

    Attributes:
        signals: Names of what the generator gives, in order.
        trains_on_outer_loss: Whether the primary part is the task's own loss, whatever the signals: then its gradient
            on a batch judges one update and trains the next.
    """

    signals: ClassVar[tuple[str, ...]]
    trains_on_outer_loss: ClassVar[bool]

    @abstractmethod
    def losses(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Losses:
        """The training loss of a batch.

        Args:
            task: Gives the primary loss.
            outputs: Of the network: (primary,) or (primary, auxiliary).
            y: Targets of the primary task.
            signals: As the generator gives them; empty where there are none.
        """

    def penalty(self, signals: Signals, y: Tensor) -> Tensor | None:
        """What is added to the outer loss for the signals alone, a scalar, or None."""
        return None

    def bind(self, task: Task) -> TrainingLoss:
        """L_in of a task: (outputs, y, signals) → scalar."""
        return partial(self._total, task)

    def _total(self, task: Task, outputs: Outputs, y: Tensor, signals: Signals) -> Tensor:
        return self.losses(task, outputs, y, signals).total()

    def check_signals(self, signals: Signals) -> Signals:
        """The signals, if there are as many as there are names.

        Raises:
            ValueError: otherwise.
        """
        if len(signals) != len(self.signals):
            raise ValueError(
                f"{type(self).__name__} needs a generator that gives {' and '.join(self.signals)}; got "
                f"{len(signals)} tensor{'s' * (len(signals) != 1)}: choose the supervision that fits the generator"
            )
        return signals
