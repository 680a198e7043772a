"""The epoch with the best validation result: what a run keeps, and when it stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.measures import main_measure

if TYPE_CHECKING:
    from maxl.experiments.runs.build import Setup


class Best:
    """Watches the validation part by the task's main measure; the test part has no say.

    An epoch is better where its result is strictly better than all before; of equals the first is the best.

    Args:
        config: Says whether the best network is kept, and for how many epochs a better one is awaited.
        data: Of the run.

    Attributes:
        epoch, value: The best so far, 0 and None before the first.
        stopped: Whether the run is to end.

    Raises:
        ValueError: if the data have no validation part.
    """

    def __init__(self, config: RunConfig, data: DataSet) -> None:
        if data.validation is None:
            raise ValueError(
                "--keep best and --patience need a sample to validate by; --validation-size "
                f"{config.validation_size} leaves none: raise it"
            )
        self.measure = main_measure(data.task)
        self.epoch, self.value = 0, None
        self.stopped = False
        self._keep, self._patience = config.keep == "best", config.patience
        self._network: dict[str, Tensor] | None = None
        self._generator: dict[str, Tensor] | None = None

    epoch: int
    value: float | None

    @property
    def key(self) -> str:
        """What it goes by, as in metrics.jsonl."""
        return f"validation_{self.measure.name}"

    def see(self, epoch: int, value: float, setup: Setup) -> None:
        """An epoch's result, from 1 on; copies the networks if they are to be kept and it is the best."""
        better = value == value and (  # NaN is no result
            self.value is None
            or ((value > self.value) == self.measure.higher_is_better and value != self.value)
        )
        if better:
            self.epoch, self.value = epoch, value
            if self._keep:
                self._network = _copied(setup.network)
                self._generator = None if setup.generator is None else _copied(setup.generator)
        self.stopped = self._patience is not None and epoch - self.epoch >= self._patience

    def restore(self, setup: Setup) -> None:
        """Sets the networks to those of the best epoch, where they are kept and there is one."""
        if self._network is not None:
            setup.network.load_state_dict(self._network)
        if self._generator is not None and setup.generator is not None:
            setup.generator.load_state_dict(self._generator)

    def entries(self, last: int) -> dict[str, Any]:
        """For the summary: the epoch that was kept, and why, after ``last`` epochs."""
        kept = self.epoch if self._keep and self.epoch else last
        why = f"--keep best: the best {self.key}" if self._keep and self.epoch else "the last epoch"
        if self.stopped:
            why += f"; ended after epoch {last}, {self._patience} without a better {self.key} than epoch {self.epoch}'s"
        return {"epochs_trained": last, "kept_epoch": kept, "kept_because": why}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text alone."""
        return {
            "epoch": self.epoch,
            "value": self.value,
            "network": self._network,
            "generator": self._generator,
        }

    def load_state_dict(self, state: dict[str, Any], *, stopped: bool) -> None:
        """Restores what ``state_dict`` gave."""
        self.epoch, self.value = state["epoch"], state["value"]
        self._network, self._generator = state["network"], state["generator"]
        self.stopped = stopped


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().to("cpu", copy=True) for name, t in module.state_dict().items()}
