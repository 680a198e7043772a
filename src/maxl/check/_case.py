"""Copies of a user's networks on which a hypergradient can be tried, and what to compare it with."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from maxl.hypergradients import (
    Inputs,
    OuterLoss,
    RandomState,
    as_tuple,
    hypergradient,
    map_tensors,
    pure_call,
)
from maxl.losses import AuxiliaryLoss

Gradient = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One two-level problem: networks, optimizer, batch, losses and the random numbers of its passes."""

    network: nn.Module
    generator: nn.Module
    optimizer: Optimizer
    x: Inputs
    y: Tensor
    primary_loss: OuterLoss
    auxiliary_loss: AuxiliaryLoss
    random: RandomState

    def copied(self, dtype: torch.dtype | None = None) -> Case:
        """A copy that shares nothing with this one, in another precision if given.

        Raises:
            ValueError: if the networks cannot be copied.
        """
        try:  # one call, so that the optimizer's copy holds the copied weights, and ties stay ties
            network, generator, optimizer = copy.deepcopy((self.network, self.generator, self.optimizer))
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the networks need to be deep-copyable, since the check works on copies; got: {error}"
            ) from error
        if dtype is None:
            return replace(self, network=network, generator=generator, optimizer=optimizer)
        network.to(dtype)
        generator.to(dtype)
        for state in optimizer.state.values():
            state.update({key: _cast(value, dtype) for key, value in state.items() if key != "step"})
        x, y = map_tensors(lambda t: _cast(t, dtype), self.x), _cast(self.y, dtype)
        return replace(self, network=network, generator=generator, optimizer=optimizer, x=x, y=y)

    def hypergradient(self, method: str) -> Gradient:
        """By the named method, with the case's random numbers; a fall-back to another method is an error."""
        with self.random.replay(), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*falls back to reverse mode")
            return hypergradient(
                self.network,
                self.generator,
                self.x,
                self.y,
                method=method,
                optimizer=self.optimizer,
                primary_loss=self.primary_loss,
                auxiliary_loss=self.auxiliary_loss,
                check="never",  # what is compared here with more than that
            )

    def outputs(self) -> tuple[Tensor, ...]:
        """Labels and logits, without a graph; changes nothing."""
        with torch.no_grad(), self.random.replay():
            signals = as_tuple(pure_call(self.generator, {}, self.x, self.y))
            with self.random.replay():
                return (*signals, *pure_call(self.network, {}, self.x))

    def loss_after_step(self, shift: Sequence[Tensor]) -> float:
        """L_pri after a step of the real optimizer on a copy, the generator's weights moved by ``shift``.

        The passes draw the same random numbers as ``hypergradient``'s, whatever the shift.
        """
        trial = self.copied()
        trial.optimizer.zero_grad(set_to_none=True)
        with self.random.replay():
            with torch.no_grad():
                for p, d in zip(trial.theta(), shift, strict=True):
                    p.add_(d)
                signals = as_tuple(pure_call(trial.generator, {}, self.x, self.y))
            with torch.enable_grad(), self.random.replay():
                primary, auxiliary = pure_call(trial.network, {}, self.x)
                loss = self.primary_loss(primary, self.y) + self.auxiliary_loss(auxiliary, *signals)
                loss.backward()  # type: ignore[no-untyped-call]
            trial.optimizer.step()
            with torch.no_grad():
                return self.primary_loss(pure_call(trial.network, {}, self.x)[0], self.y).item()

    def single_task_step(self) -> None:
        """A plain training step on the primary task, which changes this case."""
        predict: Callable[[Inputs], Tensor] = getattr(self.network, "predict", lambda x: self.network(x)[0])
        self.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), self.random.replay():
            self.primary_loss(predict(self.x), self.y).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def theta(self) -> list[nn.Parameter]:
        """θ₂: the generator's trainable weights."""
        return [p for p in self.generator.parameters() if p.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """Every weight, buffer and gradient of both networks, copied."""
        kept = {}
        for which, module in (("network", self.network), ("generator", self.generator)):
            for name, p in module.named_parameters():
                kept[f"{which}.{name}"] = p.detach().clone()
                if p.grad is not None:
                    kept[f"gradient of {which}.{name}"] = p.grad.clone()
            kept |= {f"{which}.{name}": buffer.clone() for name, buffer in module.named_buffers()}
        return kept

    @property
    def epsilon(self) -> float:
        """One rounding in the precision of the generator's weights."""
        return torch.finfo(self.theta()[0].dtype).eps


class AttentionDropout(TorchFunctionMode):
    """Within: notices scaled dot-product attention with dropout."""

    seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen |= (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0.0
        return func(*args, **kwargs)


def explain(error: Exception) -> str:
    """What stands in the way, named in a few words."""
    text = str(error)
    if found := re.search(r"(.+) has no forward-mode formula", text):
        return f"no forward-mode formula: {found[1]}"
    if "implement the jvp function" in text:
        return "no forward-mode formula: a custom autograd.Function without jvp"
    if found := re.search(r"derivative for (?:aten::)?(\S+) is not implemented", text):
        return f"no double backward: {found[1]}"
    if found := re.search(r"no double backward: (.+?);", text):
        return f"no double backward: {found[1]}"
    if "more than 1 value per channel" in text:
        return "BatchNorm in training mode needs more than one value per channel: use a larger batch"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def relative_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together, in float64."""
    gap = [f.detach().double() - e.detach().double() for f, e in zip(found, expected, strict=True)]
    return norm(gap) / norm(expected)


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm over all tensors together, in float64."""
    return float(torch.stack([t.detach().double().norm() for t in tensors]).norm())


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value
