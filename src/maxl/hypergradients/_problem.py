"""The two-level problem that every way to differentiate answers.

Symbols, as in the paper: θ₁ the network's weights, z = f(x; θ₁) its outputs, t = g(x, y; θ₂) the generated
signals, L_in(z, y, t) the training loss, U the optimizer's step, θ₁⁺ = U(θ₁, ∇L_in) the lookahead, L_out(θ₁⁺) the
outer loss. A way returns dL_out(θ₁⁺)/dt, a small tensor for each signal; one ordinary backward through the
generator then gives the gradient for θ₂. Nothing here knows what the signals mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from maxl.hypergradients._dual_kernels import Recording
from maxl.hypergradients._inputs import Inputs, as_inputs, device_of
from maxl.hypergradients._purity import purely
from maxl.hypergradients._random_state import RandomState
from maxl.hypergradients._update_rule import Factor, UpdateRule

Outputs = tuple[Tensor, ...]  # what the network gives: (primary,) or (primary, auxiliary)
Signals = tuple[Tensor, ...]  # what the generator gives, for instance (labels,) or (labels, weights)
TrainingLoss = Callable[[Outputs, Tensor, Signals], Tensor]  # (outputs, y, signals) -> scalar
OuterLoss = Callable[[Tensor, Tensor], Tensor]  # (primary outputs, y) -> scalar
# (tensors or None, tensors like them) -> their sums over all processes
Total = Callable[[Sequence[Tensor | None], Sequence[Tensor]], list[Tensor | None]]
_Result = TypeVar("_Result")


class Passes(Protocol):
    """Passes of a network that replace eager ones: see ``CompiledPasses``."""

    def pure(self, weights: Mapping[str, Tensor], *inputs: Inputs) -> tuple[Tensor, ...] | Tensor: ...

    def tangent(
        self,
        weights: Mapping[str, Tensor],
        u: Mapping[str, Tensor | None],
        x: Inputs,
        buffers: Mapping[str, Tensor] | None,
    ) -> tuple[Outputs, Outputs] | None: ...


@dataclass(kw_only=True)
class Problem:
    """A batch, the two losses and the weights at which the training step is (or was) taken.

    Args:
        network: Maps x to its outputs, the primary ones first.
        weights: Trainable weights θ₁ by name, at which L_in is differentiated.
        x, y: The training batch: inputs, one tensor or several by name, and targets.
        training_loss: L_in, a function of outputs, targets and signals.
        outer_loss: L_out, a function of primary outputs and targets.
        random: State of the generators before the training pass, so that dropout masks agree.
        autocast: Lower precision for the passes of the network, or None.
        buffers: The network's buffers before the training pass, where it has been taken already and may have moved them.
        expected: What the training pass gave, for its repetition to be compared with; kept from the first one if None.
        recording: Outputs of layers in the training pass, for forward mode to reuse, or None.
        passes: The network's compiled passes, or None for eager ones. They cannot be differentiated twice.
        share: Share of this batch in the training step, a factor on L_in: 1 for a whole batch.
        outer_share: Share of the outer batch likewise, a factor on L_out.
        total: Sums gradients over processes that each have a part of the batch, or None for one process.
        every: Whether a flag holds in all of them, so that they take the same path; the flag itself for one process.
        watching: Within: the backward pass that gives v, for the leaves it is given.
    """

    network: nn.Module
    weights: Mapping[str, Tensor]
    x: Inputs
    y: Tensor
    training_loss: TrainingLoss
    outer_loss: OuterLoss
    random: RandomState
    autocast: torch.dtype | None = None
    buffers: Mapping[str, Tensor] | None = None
    expected: Outputs | None = None
    recording: Recording | None = None
    passes: Passes | None = None
    share: float = 1.0
    outer_share: float = 1.0
    total: Total | None = None
    every: Callable[[bool], bool] = bool
    watching: Callable[[Sequence[Tensor]], AbstractContextManager[object]] = nullcontext
    _at: Mapping[str, Tensor] | None = field(default=None, init=False)  # weights in place

    def __post_init__(self) -> None:
        self.x = as_inputs(self.x)

    def precision(self) -> AbstractContextManager[object]:
        """The autocast region of a pass, or nothing."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device_of(self.x).type, self.autocast)

    def within(
        self,
        weights: Mapping[str, Tensor],
        do: Callable[[], _Result],
        buffers: Mapping[str, Tensor] | None = None,
    ) -> _Result:
        """``do()`` with ``weights`` in the network, and nothing changed in it: a pass and what differentiates it.

        Activation checkpointing runs parts of the network again in the backward pass, so that has to be inside.
        """
        if self.passes is not None:  # compiled ones take weights as arguments and keep what they need
            return do()
        before, self._at = self._at, weights
        try:
            return purely(self.network, weights, do, buffers=buffers)
        finally:
            self._at = before

    def outputs(
        self, weights: Mapping[str, Tensor], x: Inputs, buffers: Mapping[str, Tensor] | None = None
    ) -> Outputs:
        """The network's outputs in float32 or better; changes nothing in the network."""
        with self.precision():
            if self.passes is not None:
                start = {name: b.clone() for name, b in (buffers or {}).items()}
                return in_float(self.passes.pure({**start, **weights}, x))
            if self._at is weights:
                return in_float(self.network(x))
            return in_float(purely(self.network, weights, lambda: self.network(x), buffers=buffers))

    def compiled_tangent(self, u: Sequence[Tensor | None]) -> tuple[Outputs, Outputs] | None:
        """Outputs and their tangents along u by a compiled pass; None where there is none."""
        if self.passes is None:
            return None
        along = dict(zip(self.weights, u, strict=True))
        with self.random.replay(), self.precision():
            pair = self.passes.tangent(self.weights, along, self.x, self.buffers)
        return None if pair is None else (in_float(pair[0]), in_float(pair[1]))

    def inner(self, weights: Mapping[str, Tensor], signals: Signals) -> Tensor:
        """L_in at ``weights``, with the random numbers and buffers of the training pass."""
        with self.random.replay():
            outputs = self.outputs(weights, self.x, self.buffers)
        if weights is self._at:
            self.check_repeated(outputs)
        return self.loss(outputs, signals)

    def loss(self, outputs: Outputs, signals: Signals) -> Tensor:
        """L_in of outputs, or this batch's summand of it."""
        loss = self.training_loss(outputs, self.y, signals)
        return loss if self.share == 1.0 else self.share * loss

    def outer(self, weights: Mapping[str, Tensor], x: Inputs, y: Tensor) -> Tensor:
        """L_out at ``weights`` on a batch of one's choice."""
        loss = self.outer_loss(self.outputs(weights, x)[0], y)
        return loss if self.outer_share == 1.0 else self.outer_share * loss

    def training_gradient(self, signals: Signals) -> list[Tensor | None]:
        """∇_θ₁ L_in with the signals held constant."""
        leaves, constant = leaves_of(self.weights), tuple(s.detach() for s in signals)

        def gradient() -> list[Tensor | None]:
            with torch.enable_grad():
                loss = self.inner(leaves, constant)
            return differentiate(loss, leaves, originals)

        originals = self.own_weights()
        return self.within(leaves, gradient, self.buffers)

    def outer_gradient(
        self, weights: Mapping[str, Tensor], x: Inputs, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss and v = ∇L_out at the lookahead ``weights``."""
        leaves = leaves_of(weights)

        def gradient() -> tuple[Tensor, list[Tensor | None]]:
            with torch.enable_grad():
                loss = self.outer(leaves, x, y)
            with self.watching(list(leaves.values())):
                return loss.detach(), differentiate(loss, leaves, originals)

        originals = self.own_weights()
        return self.within(leaves, gradient)

    def own_weights(self) -> dict[str, Tensor]:
        """The network's own, which a pass with others in their place has no business with."""
        own = self.network.named_parameters()
        return {name: p for name, p in own if p.requires_grad and name in self.weights}

    def repeats(self, outputs: Outputs) -> bool:
        """Whether a repetition of the training pass gave what that gave; the first one is what it gave."""
        if self.expected is None:
            self.expected = copied(outputs)
            return True
        return alike(outputs, self.expected, self.rounding)

    def check_repeated(self, outputs: Outputs) -> None:
        """ValueError unless ``repeats``, in this process and in all others."""
        if not self.every(self.repeats(outputs)):
            raise ValueError(
                "the hypergradient repeats the training pass, which needs to give the same outputs; it gave others: draw "
                "random numbers from torch, random or numpy's global generator, and keep what changes from call to call in "
                "buffers (attention with dropout on a GPU needs "
                "torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around training)"
            )

    def rounding(self) -> float:
        """Relative difference of two passes that may be rounding in the coarsest of their precisions."""
        kinds = [p.dtype for p in self.network.parameters()]
        if self.recording is not None:  # a network may have a region of its own
            kinds.extend(self.recording.precisions)
        if self.autocast is not None:
            kinds.append(self.autocast)
        elif torch.is_autocast_enabled(device_of(self.x).type):  # the caller's own region
            kinds.append(torch.get_autocast_dtype(device_of(self.x).type))
        return rounding_of(kinds)

    def step(
        self, gradient: list[Tensor | None], rule: UpdateRule, x: Inputs, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss at θ₁⁺ on (x, y), and u = −(∂U/∂∇)ᵀ v, from ∇_θ₁ L_in; emptied."""
        theta = list(self.weights.values())
        grads = gradient if self.total is None else self.total(gradient, theta)
        with torch.no_grad():
            ahead = dict(zip(self.weights, rule.step(theta, grads), strict=True))
            factor = rule.factor(theta, grads)
        gradient.clear()
        del grads
        loss, v = self.outer_gradient(ahead, x, y)
        if self.total is not None:
            everybodys, *v = self.total([loss, *v], [loss, *theta])
            assert everybodys is not None
            loss = everybodys
        return loss, scale(v, factor)

    def direction(
        self, signals: Signals, rule: UpdateRule, x: Inputs, y: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss at θ₁⁺ on (x, y), and u = −(∂U/∂∇)ᵀ v."""
        with self.recording or nullcontext():
            gradient = self.training_gradient(signals)
        return self.step(gradient, rule, x, y)


def scale(v: list[Tensor | None], factor: Sequence[Factor]) -> list[Tensor | None]:
    """u = factor · v; None where either is: such a weight does not carry the signals' influence.

    Empties v as it goes, so that both are never there as a whole. Not in place: autograd hands out one tensor
    for weights that are added to each other, and views of a single number for expanded ones.
    """
    if len(v) != len(factor):
        raise ValueError(f"each weight needs a gradient and a factor; got {len(v)} and {len(factor)}")
    u: list[Tensor | None] = []
    for i, f in enumerate(factor):
        v_p, v[i] = v[i], None
        u.append(None if v_p is None or f is None else v_p * f)
    v.clear()
    return u


def differentiate(
    loss: Tensor, leaves: Mapping[str, Tensor], own: Mapping[str, Tensor], *, create_graph: bool = False
) -> list[Tensor | None]:
    """∇ of a loss for ``leaves``, which stand in the network in place of its ``own`` weights.

    Raises:
        ValueError: if the loss depends on one of its own weights all the same.
    """
    inputs = [*leaves.values(), *own.values()]
    gradients = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
    for name, g in zip(own, gradients[len(leaves) :], strict=True):
        if g is not None:
            raise ValueError(
                f"a meta step puts other weights in the place of a network's parameters, so that a pass has to read them from "
                f"their modules; this one takes {name} from elsewhere (a list, a closure, a penalty within a loss): call its module, and "
                "leave penalties on weights to the optimizer's weight_decay"
            )
    return list(gradients[: len(leaves)])


def leaves_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values as fresh leaves that gradients can be taken for."""
    return {name: p.detach().requires_grad_() for name, p in weights.items()}


def rounding_of(kinds: Iterable[torch.dtype]) -> float:
    """Relative difference of two passes that may be rounding in the coarsest of these precisions."""
    rounded = [kind for kind in kinds if kind.is_floating_point or kind.is_complex]
    return float(max(torch.finfo(kind).eps for kind in rounded or [torch.float32]) ** 0.5)


def alike(some: Sequence[Tensor], others: Sequence[Tensor], rounding: Callable[[], float]) -> bool:
    """Whether tensors are the same but for rounding, whose relative size is asked for where they are not to the last bit."""
    if all(torch.equal(a, b) for a, b in zip(some, others, strict=True)):
        return True
    gaps = [((a.detach() - b).norm(), b.norm()) for a, b in zip(some, others, strict=True)]
    gap, size = (torch.stack(norms).norm() for norms in zip(*gaps, strict=True))
    return not bool(gap > rounding() * size)  # nan is others' to refuse


def as_tuple(output: Any) -> tuple[Tensor, ...]:
    """What a module gives, one tensor or several, as a tuple.

    Raises:
        ValueError: if it is something else, or not of floating point.
    """
    tensors = (output,) if isinstance(output, Tensor) else output
    if not isinstance(tensors, (tuple, list)):
        raise ValueError(
            f"a network and a generator need to give a tensor or a tuple of them; got {type(output).__name__}: wrap the "
            "module in one whose forward returns the tensors"
        )
    for t in tensors:
        if not isinstance(t, Tensor) or not t.is_floating_point():
            kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"outputs of a network and a generator need to be of floating point; got {kind}")
    return tuple(tensors)


def copied(outputs: Outputs) -> Outputs:
    """Copies, for losses may work in place on what they are given."""
    return tuple(o.detach().clone() for o in outputs)


def in_float(outputs: Any) -> Outputs:
    """Outputs as a tuple, in float32 or better: losses are not taken in half precision."""
    return tuple(o.float() if o.dtype in (torch.float16, torch.bfloat16) else o for o in as_tuple(outputs))
