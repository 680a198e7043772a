"""The generator's labels as the steps need them: constant, with their graph, or as kept from earlier."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from maxl.hypergradients import CompiledPasses, Signals, as_signals, pure_call
from maxl.supervision._cache import LabelCache


class LabelSource:
    """Calls a generator, and keeps its last label for each sample if asked to.

    Args:
        generator: Maps (x, y) to labels (N, K), or to (labels, weights).
        cache_size: Number of training samples whose labels are kept; 0 keeps none.
        autocast: Lower precision for the generator's passes, or None.
        passes: The generator's compiled passes, or None for eager ones.
    """

    def __init__(
        self,
        generator: nn.Module,
        cache_size: int,
        autocast: torch.dtype | None,
        passes: CompiledPasses | None = None,
    ) -> None:
        self.generator = generator
        self._call = generator if passes is None else passes.call
        self._pure = partial(pure_call, generator) if passes is None else passes.pure
        self.cache = LabelCache(cache_size) if cache_size else None
        self._autocast = autocast

    def constant(self, x: Tensor, y: Tensor, index: Tensor | None) -> Signals:
        """g(x, y) without a graph; no pass where the cache holds the whole batch."""
        if self.cache is not None and (kept := self.cache.read(_required(index))) is not None:
            return kept
        return self.fresh(x, y, index)

    def fresh(self, x: Tensor, y: Tensor, index: Tensor | None) -> Signals:
        """g(x, y) without a graph, always by a pass of the generator."""
        with torch.no_grad(), self._precision(x):
            signals = as_signals(self._call(x, y))
        self._keep(index, signals)
        return signals

    def with_graph(self, x: Tensor, y: Tensor) -> Signals:
        """g(x, y) with its graph; changes no buffer."""
        with torch.enable_grad(), self._precision(x):
            return as_signals(self._pure({}, x, y))

    def tracked_with_graph(self, x: Tensor, y: Tensor, index: Tensor | None) -> Signals:
        """g(x, y) with its graph, as the label pass of a training step: BatchNorm may keep its statistics."""
        with torch.enable_grad(), self._precision(x):
            signals = as_signals(self._call(x, y))
        self._keep(index, signals)
        return signals

    def _keep(self, index: Tensor | None, signals: Signals) -> None:
        if self.cache is not None:
            self.cache.write(_required(index), signals)

    def _precision(self, x: Tensor) -> AbstractContextManager[object]:
        return nullcontext() if self._autocast is None else torch.autocast(x.device.type, self._autocast)


def _required(index: Tensor | None) -> Tensor:
    if index is None:
        raise ValueError("cache_labels keeps a label for each sample: pass index=, the samples' positions")
    return index
