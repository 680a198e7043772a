"""Random numbers that are drawn a second time, so that dropout masks of two passes agree."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The state of the random number generators, so that they can draw again.

    They are torch's, the CPU's and a device's, Python's, and NumPy's where something has imported NumPy.
    """

    cpu: Tensor
    accelerator: Tensor | None  # None on the CPU
    device: torch.device
    python: tuple[Any, ...] | None = None  # None leaves it as it is
    numpy: dict[str, Any] | None = None

    @classmethod
    def capture(cls, device: torch.device) -> RandomState:
        accelerator = None
        if device.type == "cuda":
            accelerator = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            accelerator = torch.mps.get_rng_state()
        numpy = _numpy()
        drawn = None if numpy is None else numpy.get_state(legacy=False)
        return cls(torch.get_rng_state(), accelerator, device, random.getstate(), drawn)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors, numbers and words."""
        state: dict[str, Any] = {"cpu": self.cpu, "accelerator": self.accelerator, "device": self.device.type}
        if self.python is not None:
            version, words, gauss = self.python
            state["python"] = {"version": version, "words": torch.tensor(words), "gauss": gauss}
        if self.numpy is not None and self.numpy["bit_generator"] == "MT19937":
            words, position = self.numpy["state"]["key"].tolist(), int(self.numpy["state"]["pos"])
            gauss = [int(self.numpy["has_gauss"]), float(self.numpy["gauss"])]
            state["numpy"] = {"words": torch.tensor(words), "position": position, "gauss": gauss}
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> RandomState:
        """What ``state`` gave, for a device of the same type; of another type the CPU's part alone."""
        kept = state["accelerator"] if state["device"] == device.type else None
        python = numpy = None
        if (saved := state.get("python")) is not None:  # older checkpoints have torch's alone
            python = saved["version"], tuple(saved["words"].tolist()), saved["gauss"]
        if (saved := state.get("numpy")) is not None:
            mersenne = {"key": saved["words"].tolist(), "pos": saved["position"]}
            has, gauss = saved["gauss"]
            numpy = {"bit_generator": "MT19937", "state": mersenne, "has_gauss": has, "gauss": gauss}
        return cls(state["cpu"].cpu(), None if kept is None else kept.cpu(), device, python, numpy)

    def restore(self) -> None:
        """Sets the generators."""
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.accelerator, self.device)
        elif self.accelerator is not None:
            torch.mps.set_rng_state(self.accelerator)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None and (numpy := _numpy()) is not None:
            numpy.set_state(self.numpy)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Within: the captured state. After: the state from before the replay."""
        before = RandomState.capture(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()


def _numpy() -> Any:
    """NumPy's global generator, if anything has imported NumPy: a network that draws from it has."""
    numpy = sys.modules.get("numpy")
    return getattr(numpy, "random", None)
