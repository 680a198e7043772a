"""The last label of every training sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from maxl.hypergradients import Signals
from maxl.supervision._mapped import mapped_zeros

MOST_BYTES = 256 << 20


class LabelCache:
    """Keeps the generator's last output for each training sample.

    In memory, on the device where it was made; in a temporary file, mapped into memory, where it takes more than ``most``.

    Args:
        size: Number of training samples.
        most: Bytes that are held in memory, of each signal.
    """

    def __init__(self, size: int, most: int = MOST_BYTES) -> None:
        self.size, self.most = size, most
        self._kept: Signals | None = None
        self._known: Tensor | None = None
        self._complete = False

    def write(self, index: Tensor, signals: Signals) -> None:
        """Keeps ``signals`` (each of shape (N, ...)) for the samples at ``index``, int64 of shape (N,).

        Raises:
            OSError: at the first call, if the disk has no room for what goes into a file.
        """
        if self._kept is None or self._known is None:
            self._kept = tuple(self._room(s) for s in signals)
            self._known = torch.zeros(self.size, dtype=torch.bool, device=index.device)
        for kept, fresh in zip(self._kept, signals, strict=True):
            kept[index.to(kept.device)] = fresh.detach().to(kept.device)
        self._known[index] = True

    def read(self, index: Tensor) -> Signals | None:
        """The labels kept for ``index``, on its device; None if a sample of the batch has none yet."""
        if self._kept is None or self._known is None:
            return None
        if not self._complete:  # asking waits for a GPU, so stop asking once all are known
            if not bool(self._known[index].all()):
                return None
            self._complete = bool(self._known.all())
        return tuple(kept[index.to(kept.device)].to(index.device) for kept in self._kept)

    def state_dict(self) -> dict[str, object]:
        """Tensors alone, for a checkpoint."""
        return {"kept": self._kept, "known": self._known, "complete": self._complete}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave; copies it.

        Raises:
            ValueError: if it is of another number of samples.
        """
        kept, known = state["kept"], state["known"]
        if known is not None and len(known) != self.size:
            raise ValueError(f"kept labels need to be of {self.size} samples; got those of {len(known)}")
        self._kept = None if kept is None else tuple(self._room(s).copy_(s) for s in kept)
        self._known = None if known is None else known.clone()
        self._complete = bool(state["complete"])

    def _room(self, like: Tensor) -> Tensor:
        shape = (self.size, *like.shape[1:])
        if math.prod(shape) * like.element_size() <= self.most:
            return like.new_zeros(shape)
        return mapped_zeros(shape, like.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which have files of their own."""
        return {"size": self.size, "most": self.most, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.size, self.most = state["size"], state["most"]
        self.load_state_dict(state["state"])
