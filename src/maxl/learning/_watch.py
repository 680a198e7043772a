"""What happens to gradients between ``backward`` and the optimizer's step, and when that step is taken."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class StepWatch:
    """Calls an owner right before and right after an optimizer's step, whoever takes it.

    A closure given to the step, such as trainers give, is called once, before all else.

    A copy watches nothing until it is set itself.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._stepping = False

    def set(self, optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Watches from now on; set again, the callbacks come after hooks that were added in between.

        Args:
            optimizer: Whose steps.
            before, after: Methods of the owner, which is not kept alive.
        """
        if self._stepping:  # a closure of the very step
            return
        for handle in self._handles:
            handle.remove()
        owned = weakref.WeakMethod(before), weakref.WeakMethod(after)

        def call_before(
            _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if (callback := owned[0]()) is None:
                return None
            closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
            if closure is None:
                callback()
                return None
            if isinstance(optimizer, torch.optim.LBFGS):
                raise ValueError(
                    "an optimizer needs to take one gradient a step, from learner.backward; got LBFGS, which calls its "
                    "closure several times: train with another"
                )
            self._stepping = True
            try:
                with torch.enable_grad():
                    value = closure()  # now, so that the gradients are there when they are looked at
            finally:
                self._stepping = False
            callback()
            return args[:1], {**kwargs, "closure": lambda: value}

        def call_after(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if (callback := owned[1]()) is not None:
                callback()

        self._handles = [
            optimizer.register_step_pre_hook(call_before),
            optimizer.register_step_post_hook(call_after),
        ]

    def __deepcopy__(self, memo: dict[int, Any]) -> StepWatch:
        return StepWatch()

    def __reduce__(self) -> tuple[type[StepWatch], tuple[()]]:
        return StepWatch, ()


class Fingerprint:
    """Enough of the gradients to tell later by which common factor they have been multiplied.

    Args:
        gradients: Of θ₁, as ``backward`` left them.
    """

    def __init__(self, gradients: Sequence[Tensor | None]) -> None:
        self._there = [g is not None for g in gradients]
        self._measures = _measures([g for g in gradients if g is not None])

    def factors(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The factor on each gradient, a scalar tensor; None where there is no gradient.

        Clipping by norm and a gradient scaler multiply whole tensors; the factor is then a constant of the step.

        Raises:
            ValueError: if a gradient has been changed in another way.
        """
        if [g is not None for g in gradients] != self._there:
            raise ValueError(
                "the gradients need to be those of learner.backward when optimizer.step() is called; got some that "
                "are new and some that are gone: call zero_grad() before backward, or not at all"
            )
        kept = [g for g in gradients if g is not None]
        if not kept:
            return [None for _ in gradients]
        old, new = self._measures, _measures(kept)
        close = old.new_tensor([torch.finfo(g.dtype).eps ** 0.5 for g in kept])
        moved = old[0] > 0
        factor = torch.where(moved, new[0] / torch.where(moved, old[0], 1.0), 1.0)
        # A gradient that is zero tells nothing; it is taken to have met what the others met.
        common = factor[moved].mean() if bool(moved.any()) else torch.ones_like(factor[0])
        factor = torch.where(moved, factor, common)
        gap = (new - factor * old).abs()
        if bool((gap > close * (factor.abs() * old[0] + new[0])).any()):
            raise ValueError(
                "gradients may be multiplied by a factor between learner.backward and optimizer.step() (clipping by "
                "norm, a gradient scaler); got another change, through which the hypergradient cannot follow: add "
                "other losses before learner.backward, and leave value clipping and noise out"
            )
        each = iter(factor.unbind())
        return [next(each) if there else None for there in self._there]


def _measures(gradients: Sequence[Tensor]) -> Tensor:
    """Four numbers of each gradient, shape (4, number of gradients): see ``_measure``."""
    if not gradients:
        return torch.zeros(4, 0)
    return torch.stack([_measure(_flat(g)) for g in gradients], 1)


def _flat(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient).detach().flatten()


def _measure(g: Tensor) -> Tensor:
    """Norm, largest entry, and projections on a constant and on a ramp, which also tells entries that changed places."""
    if not g.numel():
        return g.new_zeros(4, dtype=torch.promote_types(g.dtype, torch.float32))
    ramp = torch.linspace(-1, 1, len(g), dtype=g.dtype, device=g.device)
    numbers = torch.stack([g.norm(), g.abs().max(), g.sum() / len(g) ** 0.5, g.dot(ramp) / len(g) ** 0.5])
    return numbers.to(torch.promote_types(g.dtype, torch.float32))
