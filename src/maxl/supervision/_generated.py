"""A generator's signals as the steps need them: constant, or with their graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from maxl.hypergradients import (
    CompiledPasses,
    Inputs,
    Signals,
    WithFeatures,
    as_tuple,
    device_of,
    pure_call,
    purely,
)
from maxl.supervision._label_cache import LabelCache
from maxl.supervision._positions import checked_positions
from maxl.worlds import Alone, World


class Generated:
    """Signals that a generator gives.

    Args:
        generator: Maps (x, y) to one tensor, or to a tuple of them.
        autocast: Lower precision for the generator's passes, or None.
        passes: The generator's compiled passes, or None for eager ones.
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        autocast: torch.dtype | None = None,
        passes: CompiledPasses | None = None,
    ) -> None:
        self.generator = generator
        self._call = generator if passes is None else passes.call
        self._pure = partial(pure_call, generator) if passes is None else passes.pure
        self.autocast = autocast

    @property
    def shares(self) -> bool:
        """Whether the generator reads the network's own features."""
        return getattr(self.generator, "shared", None) is not None

    @contextmanager
    def watching(self, passes: CompiledPasses | None = None) -> Iterator[list[Tensor]]:
        """Within: a training pass of the network whose trunk the generator shares. What is yielded then holds its features.

        It stays empty for a generator with a trunk of its own.

        Args:
            passes: The network's compiled passes, or None for eager ones.

        Raises:
            ValueError: if the pass does not call the trunk once as a module, or changes its features in place; of a compiled
                pass, if the network itself has hooks.
        """
        seen: list[Tensor] = []
        if not self.shares:
            yield seen
            return
        network: Any = self.generator.shared
        if passes is not None and isinstance(passes.call, WithFeatures):
            if network._forward_hooks or network._forward_pre_hooks:
                raise ValueError(
                    "a compiled pass that shares its trunk's features calls no hooks of the network itself; got some: put them "
                    "on its trunk or heads, or drop compile=True"
                )
            yield seen
            seen.append(passes.call.take())
            return

        versions: list[int] = []

        def keep(_: nn.Module, __: tuple[Tensor, ...], features: Tensor) -> None:
            seen.append(features.detach())
            versions.append(features._version)

        handle = network.trunk.register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ValueError(
                f"a network whose trunk a generator shares needs to call it once a pass, as a module; got {len(seen)} calls: "
                "call network.trunk(x) once, or give the generator a trunk of its own"
            )
        _check_unchanged(seen[0], versions[0], "a head of the network")

    def constant(
        self, x: Inputs, y: Tensor, index: Tensor | None = None, features: Tensor | None = None
    ) -> Signals:
        """g(x, y) without a graph; from ``features`` of a shared trunk where there are some."""
        return self.fresh(x, y, index, features)

    def fresh(
        self,
        x: Inputs,
        y: Tensor,
        index: Tensor | None,
        features: Tensor | None = None,
        *,
        graph: bool = False,
    ) -> Signals:
        """g(x, y) by a pass of the generator as in training: its BatchNorm may keep its statistics."""
        with torch.set_grad_enabled(graph), self._precision(x):
            return as_tuple(self._call(x, y) if features is None else self._head(features, y))

    def again(
        self,
        x: Inputs,
        y: Tensor,
        features: Tensor | None = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> Signals:
        """g(x, y) with its graph; changes no buffer.

        Args:
            x, y: Inputs and targets.
            features: Of a shared trunk.
            buffers: Where the generator's start, as ``spare_buffers`` gave them; where they stand by default.
        """
        start = {name: b.clone() for name, b in (buffers or {}).items()}
        with torch.enable_grad(), self._precision(x):
            if features is None:
                return as_tuple(self._pure(start, x, y))
            return as_tuple(purely(self.generator, start, lambda: self._head(features, y)))

    def _head(self, features: Tensor, y: Tensor) -> Any:
        version = features._version
        signals = self.generator.of_features(features, y)  # type: ignore[operator]
        _check_unchanged(features, version, "the generator's head")
        return signals

    def _precision(self, x: Inputs) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(device_of(x).type, self.autocast)

    def state_dict(self) -> dict[str, object] | None:
        """What is remembered from step to step: nothing."""
        return None

    def load_state_dict(self, state: dict[str, object] | None) -> None:
        """Nothing to restore.

        Raises:
            ValueError: if there is something.
        """
        if state is not None:
            raise ValueError("this state has kept labels: restore it into a learner with cache_size=")


class Cached(Generated):
    """The same, and each sample's last signals kept for the steps between meta steps.

    They are as old as the sample's last meta step, and belong to its augmentation at that time.

    Args:
        size: Number of training samples.
        world: Who else labels samples: what one process has made, all of them keep.
        generator, autocast, passes: As for ``Generated``.
    """

    def __init__(
        self,
        generator: nn.Module,
        size: int,
        world: World | None = None,
        *,
        autocast: torch.dtype | None = None,
        passes: CompiledPasses | None = None,
    ) -> None:
        super().__init__(generator, autocast=autocast, passes=passes)
        self.cache = LabelCache(size)
        self.world = world or Alone()

    def constant(
        self, x: Inputs, y: Tensor, index: Tensor | None = None, features: Tensor | None = None
    ) -> Signals:
        """What is kept; a pass of the generator where a sample of the batch has nothing yet.

        Raises:
            ValueError: without the samples' positions.
        """
        kept = self.cache.read(self._positions(index, y))
        if self.world.every(kept is not None) and kept is not None:
            return kept
        return self.fresh(x, y, index, features)

    def fresh(
        self,
        x: Inputs,
        y: Tensor,
        index: Tensor | None,
        features: Tensor | None = None,
        *,
        graph: bool = False,
    ) -> Signals:
        """As ``Generated.fresh``, and kept.

        Raises:
            ValueError: without the samples' positions.
        """
        index = self._positions(index, y)
        signals = super().fresh(x, y, index, features, graph=graph)
        (positions, *everybodys), _ = self.world.gather(index, *signals)
        self.cache.write(positions, tuple(everybodys))
        return signals

    def _positions(self, index: Tensor | None, y: Tensor) -> Tensor:
        return checked_positions(index, len(y), self.cache.size, "a cache keeps the labels of each sample")

    def state_dict(self) -> dict[str, object] | None:
        """Tensors alone, for a checkpoint."""
        return self.cache.state_dict()

    def load_state_dict(self, state: dict[str, object] | None) -> None:
        """Restores what ``state_dict`` gave.

        Raises:
            ValueError: if it is of another number of samples, or of a learner that kept none.
        """
        if state is None:
            raise ValueError("this state has no kept labels: restore it into a learner without cache_size=")
        self.cache.load_state_dict(state)


def generated(
    generator: nn.Module,
    cache_size: int = 0,
    world: World | None = None,
    *,
    autocast: torch.dtype | None = None,
    compile: bool = False,
) -> Generated:
    """A generator's signals.

    Args:
        generator: As for ``Generated``.
        cache_size: Number of training samples whose last signals are kept; 0 keeps none.
        world: As for ``Cached``.
        autocast: Lower precision for the generator's passes, or None.
        compile: Pass through ``torch.compile``.
    """
    shares = getattr(generator, "shared", None) is not None  # then there is a head's pass alone
    passes = CompiledPasses(generator, "generator") if compile and not shares else None
    if cache_size:
        return Cached(generator, cache_size, world, autocast=autocast, passes=passes)
    return Generated(generator, autocast=autocast, passes=passes)


def _check_unchanged(features: Tensor, version: int, head: str) -> None:
    if features._version != version:
        raise ValueError(
            f"features of a shared trunk need to stay as they are, for all heads read them; {head} changes them in place: "
            "let it begin with a layer that does not (inplace=False)"
        )
