"""The last label of every training sample."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.hypergradients import Signals


class LabelCache:
    """Keeps the generator's last output for each training sample, on the device where it was made.

    Args:
        size: Number of training samples.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: Signals | None = None
        self._known: Tensor | None = None
        self._complete = False

    def write(self, index: Tensor, signals: Signals) -> None:
        """Keeps ``signals`` (each of shape (N, ...)) for the samples at ``index``, int64 of shape (N,)."""
        if self._kept is None or self._known is None:
            self._kept = tuple(s.new_zeros((self.size, *s.shape[1:])) for s in signals)
            self._known = torch.zeros(self.size, dtype=torch.bool, device=index.device)
        for kept, fresh in zip(self._kept, signals, strict=True):
            kept[index] = fresh.detach()
        self._known[index] = True

    def read(self, index: Tensor) -> Signals | None:
        """The labels kept for ``index``; None if a sample of the batch has none yet."""
        if self._kept is None or self._known is None:
            return None
        if not self._complete:  # asking waits for a GPU, so stop asking once all are known
            if not bool(self._known[index].all()):
                return None
            self._complete = bool(self._known.all())
        return tuple(kept[index] for kept in self._kept)

    def state_dict(self) -> dict[str, object]:
        """Tensors alone, for a checkpoint."""
        return {"kept": self._kept, "known": self._known, "complete": self._complete}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores what ``state_dict`` gave."""
        self._kept = state["kept"]  # type: ignore[assignment]
        self._known = state["known"]  # type: ignore[assignment]
        self._complete = bool(state["complete"])
