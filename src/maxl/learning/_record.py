"""A training step, remembered so that a meta step can differentiate through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from maxl.hypergradients import (
    Factor,
    Inputs,
    Problem,
    RandomState,
    Signals,
    as_inputs,
    device_of,
    same_tensors,
    some_of,
    versions_of,
)
from maxl.learning._outer import OuterBatch
from maxl.learning._unmoved import Unmoved


@dataclass
class Batch:
    """What ``backward`` was given.

    Attributes:
        x, y: Inputs and targets.
        index: Positions of the samples in the training set, or None.
        labels: Labels that the caller gives, or None.
        share: Share of the samples in those that this process has of the whole step.
        scale: Factor on the loss of a gradient scaler, or None.
        outer: (x, y) that judges the step, or None.
        due: Whether a meta step is due for it.
        problem: The batch as a two-level problem, from before the network's pass.
        label_random: State of the random generators before the signals were made.
        graph: The signals with the generator's graph, where that is kept.
        label_buffers: The generator's buffers before the signals were made.
        features: Of a trunk that the generator shares, in the network's pass; None for a trunk of its own.
        rows: Samples that teach, and samples that judge them, or None for all.
        part: Share of the samples in those that all processes have of the whole step.
        weights: θ₁ by name, looked up once: large networks have many modules.
    """

    x: Inputs
    y: Tensor
    index: Tensor | None = None
    labels: Tensor | None = None
    share: float = 1.0
    scale: Tensor | None = None
    outer: tuple[Inputs, Tensor] | None = None
    due: bool = False
    problem: Problem = field(init=False)
    label_random: RandomState = field(init=False)
    graph: Signals | None = None
    features: Tensor | None = None
    label_buffers: Mapping[str, Tensor] | None = None
    rows: tuple[Tensor, Tensor] | None = None
    part: float = 1.0
    weights: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.x = as_inputs(self.x)

    @property
    def count(self) -> int:
        """Samples that this process has of the whole step, more than these where it comes in parts."""
        return round(len(self.y) / self.share)


@dataclass
class MicroBatch:
    """A batch of a training step, the whole of it unless gradients were accumulated.

    Attributes:
        problem: The batch as a two-level problem.
        signals: What was trained on, constant.
        graph: The same with the generator's graph, or None to make it again when it is needed.
        label_random: State of the random generators before the signals were made.
        share: Share of the samples in those that this process has of the whole step.
        features: As for ``Batch``: those that the signals were made of, as the trunk has moved on.
        given: (x, y) of the whole, where these are some of its samples.
        label_buffers: The generator's buffers before the signals were made.
    """

    problem: Problem
    signals: Signals
    graph: Signals | None
    label_random: RandomState
    share: float = 1.0
    features: Tensor | None = None
    given: tuple[Inputs, Tensor] | None = None
    label_buffers: Mapping[str, Tensor] | None = None
    versions: tuple[int, ...] = field(init=False)
    training: bool = field(init=False)

    @classmethod
    def of(cls, batch: Batch, signals: Signals) -> MicroBatch:
        """What a meta step needs of a batch that was trained on with ``signals``."""
        buffers = batch.label_buffers
        if batch.rows is None:
            made = batch.graph, batch.label_random, batch.share, batch.features
            return cls(batch.problem, signals, *made, label_buffers=buffers)
        (rows, _), whole = batch.rows, batch.problem
        problem = replace(
            whole, x=some_of(batch.x, rows, len(batch.y)), y=batch.y[rows], expected=None, recording=None
        )
        some = tuple(s[rows] for s in signals)
        features = None if batch.features is None else batch.features[rows]
        given = batch.x, batch.y
        return cls(problem, some, None, batch.label_random, batch.share, features, given, buffers)

    def __post_init__(self) -> None:
        self.versions = self._versions()
        self.training = self.problem.network.training

    def __getstate__(self) -> dict[str, Any]:
        """For copies: the generator's graph stays behind, as the signals can be made again."""
        return {**self.__dict__, "graph": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def _versions(self) -> tuple[int, ...]:
        signals = (s._version for s in self.signals)  # those of the step's result
        return *versions_of(self.problem.x), self.problem.y._version, *signals

    def check_unchanged(self) -> None:
        """The batch, and what it was trained with, are needed a second time, as they were.

        Raises:
            ValueError: if their tensors have been written to since.
        """
        _require_same(self._versions(), self.versions)

    def is_of(self, x: Inputs, y: Tensor) -> bool:
        """Whether this is the very batch; the same inputs with other targets are not."""
        return is_same_batch(self.given or (self.problem.x, self.problem.y), x, y)


def is_same_batch(known: tuple[Inputs, Tensor], x: Inputs, y: Tensor) -> bool:
    """Whether these are the very inputs of a known batch, and its targets or equal ones."""
    own_x, own_y = known
    return same_tensors(own_x, x) and (own_y is y or own_y.equal(y))


def _versions_of(batch: tuple[Inputs, Tensor]) -> tuple[int, ...]:
    return *versions_of(batch[0]), batch[1]._version


def _require_same(now: tuple[int, ...], before: tuple[int, ...]) -> None:
    if now != before:
        raise ValueError(
            "a batch, the one that judges it, and the labels and weights in its result need to stay as they are until its meta "
            "step; got one that was written to in place: give backward a tensor of its own (x.clone()), do not reuse the "
            "buffer, and change copies of results"
        )


@dataclass
class Update:
    """What the meta step needs of a training step.

    Attributes:
        parts: Its batches.
        outer: (x, y) that judges it, or None for its own batches.
        outer_versions: How often its tensors had been written to, or None where that does not matter.
        outer_count: Number of samples that those of ``outer`` stand for.
        scale: Factor on the loss of a gradient scaler, or None.
        weights: θ₁ before the step, once it has been taken and is differentiated through.
        factor: −∂U/∂∇ of the step, likewise.
        gated: Factor on the auxiliary gradient by weight; None for all 1.
        unmoved: θ₁ as the step left it; None where that is not known, as after a restart.
        predicted: θ₁ as the optimizer's rule says that the step leaves it; None where that is not asked.
    """

    parts: list[MicroBatch] = field(default_factory=list)
    outer: tuple[Inputs, Tensor] | None = None
    outer_versions: tuple[int, ...] | None = None
    outer_count: int | None = None
    scale: Tensor | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    factor: list[Factor] = field(default_factory=list)
    gated: list[Tensor | None] | None = None
    unmoved: Unmoved | None = None
    predicted: Mapping[str, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose tensors are others."""
        return {**self.__dict__, "unmoved": None, "outer_versions": None}

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler was at work."""
        return self.scale is not None

    @classmethod
    def restored(cls, state: dict[str, Any], problem: Callable[..., Problem]) -> Update:
        """What ``state_dict`` gave, with problems made anew of (x, y, random=, share=, buffers=, expected=)."""
        parts = []
        for saved in state.get(
            "parts", [state]
        ):  # before there were parts, one batch stood in the update itself
            device = device_of(saved["x"])
            random, label_random = (
                RandomState.from_state(saved[name], device) for name in ("random", "label_random")
            )
            share = saved.get("share", 1.0)
            kept = {name: saved.get(name) for name in ("buffers", "expected")}
            made = problem(saved["x"], saved["y"], random=random, share=saved.get("part", share), **kept)
            features, buffers = saved.get("features"), saved.get("label_buffers")
            parts.append(
                MicroBatch(made, saved["signals"], None, label_random, share, features, label_buffers=buffers)
            )
        update = cls(parts, factor=state["factor"])
        update.set_weights(state["weights"])
        return update

    def outer_batches(self, share_of: Callable[[int, Tensor], float]) -> list[OuterBatch]:
        """What judges it, in parts.

        Args:
            share_of: The share of a number of samples in those of all processes, from it and from targets like theirs.

        Raises:
            ValueError: if a batch that judges has been written to since it was given.
        """
        if self.outer is not None:
            if self.outer_versions is not None:
                _require_same(_versions_of(self.outer), self.outer_versions)
            return [(*self.outer, share_of(self.outer_count or len(self.outer[1]), self.outer[1]))]
        share = share_of(sum(len(part.problem.y) for part in self.parts), self.parts[0].problem.y)
        whole = sum(part.share for part in self.parts)
        return [(part.problem.x, part.problem.y, share * part.share / whole) for part in self.parts]

    def judge_by(self, outer: tuple[Inputs, Tensor] | None) -> None:
        """Sets what judges it: a batch, or None for its own."""
        self.outer = None if outer is None else (as_inputs(outer[0]), outer[1])
        self.outer_count = None if outer is None else len(outer[1])
        self.outer_versions = None if self.outer is None else _versions_of(self.outer)

    def judge_by_some(self, x: Inputs, y: Tensor, rows: Tensor) -> None:
        """Sets that ``rows`` of a batch judge it in place of the whole."""
        self.outer, self.outer_count = (some_of(x, rows, len(y)), y[rows]), len(y)
        self.outer_versions = None

    def check_unmoved(self, weights: Mapping[str, Tensor]) -> None:
        """The step is judged at the weights that it led to.

        Raises:
            ValueError: if they have been written to since, or are not those of the optimizer's step.
        """
        if self.unmoved is not None:
            self.unmoved.check(
                weights,
                "the optimizer's step and what judges it (meta_step, or with maxl.Next() the next backward)",
                "change them afterwards, or let this step go unjudged with learner.take_update()",
            )
        if self.predicted is not None:
            self._check_predicted(weights, self.predicted)
            self.predicted = None

    def _check_predicted(self, weights: Mapping[str, Tensor], predicted: Mapping[str, Tensor]) -> None:
        gap, step, rounding = 0.0, 0.0, 0.0
        for name, expected in predicted.items():
            if name in weights:
                gap += float((weights[name].detach() - expected).norm()) ** 2
                step += float((expected - self.weights[name]).norm()) ** 2
                rounding += (10 * torch.finfo(expected.dtype).eps * float(expected.norm())) ** 2
        if gap**0.5 > 0.01 * step**0.5 + rounding**0.5:
            raise ValueError(
                "the optimizer needs to take the step that its gradients and settings say; got weights that are off by "
                f"{(gap / max(step, 1e-300)) ** 0.5:.2g} of it: hooks of the optimizer that change gradients or weights, writes to "
                "p.data after the step, and a fused optimizer under a gradient scaler (call scaler.unscale_(optimizer) "
                "before its step) make another"
            )

    def in_order(self, names: Iterable[str], gradients: list[Tensor | None]) -> list[Tensor | None]:
        """The gradients of what the step has moved, in its order.

        Args:
            names: Of the weights whose gradients are given.
            gradients: Emptied.

        Raises:
            ValueError: if one is missing.
        """
        by_name = dict(zip(names, gradients, strict=True))
        gradients.clear()
        if missing := [name for name in self.weights if name not in by_name]:
            raise ValueError(
                f"what a training step has moved needs to be trained still when it is judged; {missing[0]} is frozen now: "
                "freeze it after meta_step, or let this step go unjudged with learner.take_update()"
            )
        return [by_name[name] for name in self.weights]

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """The weights at which all parts are differentiated."""
        self.weights = weights
        for part in self.parts:
            part.problem.weights = weights

    def release(self) -> None:
        """Lets go of old weights and layer outputs, which the generator's backward does not need."""
        self.set_weights({})
        self.factor = []
        for part in self.parts:
            part.problem.recording = part.problem.buffers = part.problem.expected = None

    def drop_graphs(self) -> None:
        """Lets go of the generator's graph; the signals are made again when they are needed."""
        for part in self.parts:
            part.graph = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers alone; without graphs, which can be made again."""
        return {
            "weights": dict(self.weights),
            "factor": self.factor,
            "parts": [
                {
                    "x": part.problem.x,
                    "y": part.problem.y,
                    "random": part.problem.random.state(),
                    "label_random": part.label_random.state(),
                    "signals": part.signals,
                    "share": part.share,
                    "part": part.problem.share,
                    "features": part.features,
                    "label_buffers": part.label_buffers,
                    "buffers": part.problem.buffers,
                    "expected": part.problem.expected,
                }
                for part in self.parts
            ],
        }
