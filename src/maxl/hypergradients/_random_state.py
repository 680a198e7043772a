"""Random numbers that are drawn a second time, so that dropout masks of two passes agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The state of torch's random number generators, the CPU's and a device's, so that they can draw again."""

    cpu: Tensor
    accelerator: Tensor | None  # None on the CPU
    device: torch.device

    @classmethod
    def capture(cls, device: torch.device) -> RandomState:
        accelerator = None
        if device.type == "cuda":
            accelerator = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            accelerator = torch.mps.get_rng_state()
        return cls(torch.get_rng_state(), accelerator, device)

    def state(self) -> dict[str, Tensor | str | None]:
        """For a checkpoint."""
        return {"cpu": self.cpu, "accelerator": self.accelerator, "device": self.device.type}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> RandomState:
        """What ``state`` gave, for a device of the same type; of another type the CPU's part alone."""
        kept = state["accelerator"] if state["device"] == device.type else None
        return cls(state["cpu"].cpu(), None if kept is None else kept.cpu(), device)

    def restore(self) -> None:
        """Sets the generators."""
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.accelerator, self.device)
        elif self.accelerator is not None:
            torch.mps.set_rng_state(self.accelerator)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Within: the captured state. After: the state from before the replay."""
        before = RandomState.capture(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()
