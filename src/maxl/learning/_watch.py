"""What happens to gradients between ``backward`` and the optimizer's step, and when that step is taken."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
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
