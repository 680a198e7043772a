"""What happens where a way to differentiate cannot follow the network, or gives something else than gradients do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules import module as _modules

from maxl.hypergradients._dual_kernels import NoForwardFormula, of_torch
from maxl.hypergradients._finite_difference import FiniteDifference
from maxl.hypergradients._forward import Forward
from maxl.hypergradients._inputs import Inputs
from maxl.hypergradients._out_of_memory import is_out_of_memory
from maxl.hypergradients._problem import Problem, Signals
from maxl.hypergradients._reverse import Reverse
from maxl.hypergradients._update_rule import UpdateRule
from maxl.hypergradients._verify import compare
from maxl.hypergradients._way import Way

Check = Literal["first", "never"] | int


class OrReverse:
    """A way, and reverse mode in its place once that way cannot follow the network.

    Forward mode cannot where an operator has no formula, and no way but reverse mode can where hooks change gradients
    inside the network. Whatever else may be wrong is looked for by comparing with ordinary gradients.

    Args:
        way: What to differentiate with.
        check: When to compare: "first" time, "never", or at every k-th meta step. It costs two gradients of L_in. A
            comparison of nothing with nothing, as where the learning rate starts at 0, is made again.

    Attributes:
        way: What is differentiated with now.
        count: Meta steps so far, which the owner counts.

    Raises:
        ValueError: if ``check`` is something else.
    """

    def __init__(self, way: Way, check: Check = "never") -> None:
        if not (check in ("first", "never") or (type(check) is int and check >= 1)):
            raise ValueError(
                f'check needs to be "first", "never" or a number of meta steps from 1; got {check!r}'
            )
        self.way = way
        self.check: Check = check
        self.count = 0
        self._seen = False  # whether a comparison has had something to go by

    def along(self, problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
        """As ``Way.along``.

        Raises:
            ValueError: if the comparison shows that no way is right on this network.
        """
        found = self._try(problem, signals, u)
        return self._compared(problem, signals, u, found) if self.is_due() else found

    def through(
        self, problem: Problem, signals: Signals, rule: UpdateRule, x: Inputs, y: Tensor
    ) -> tuple[Tensor, Signals]:
        """As ``Way.through``."""
        own = type(self.way).through is not Way.through
        if (
            own
            and not self.is_due()
            and (isinstance(self.way, Reverse) or not gradient_hook(problem.network))
        ):
            return self.way.through(problem, signals, rule, x, y)
        outer, u = problem.direction(signals, rule, x, y)
        return outer, self.along(problem, signals, u)

    def is_due(self) -> bool:
        """Whether this meta step is one to compare."""
        if self.check == "never":
            return False
        return not self._seen or (isinstance(self.check, int) and self.count % self.check == 0)

    def _compared(
        self, problem: Problem, signals: Signals, u: Sequence[Tensor | None], found: Signals
    ) -> Signals:
        if problem.recording is not None:
            problem.recording.forget()  # its memory is that of the passes to come
        seen = compare(problem, signals, u, found)
        self._seen = self._seen or seen.says
        if seen.agrees(self.way.tolerance(problem.rounding())):
            return found
        if not isinstance(self.way, Reverse):
            name, problem.passes = type(self.way).__name__, None
            try:
                found = Reverse().along(problem, signals, u)
            except (RuntimeError, NotImplementedError) as error:
                raise ValueError(
                    f"the hypergradient needs to agree with ordinary gradients; {name} gives {seen} along a direction "
                    f"of the signals, and reverse mode cannot follow this network ({str(error).splitlines()[0]}): "
                    'check="never" trains anyway'
                ) from error
            again = compare(problem, signals, u, found)
            if again.agrees(Reverse().tolerance(problem.rounding())):
                self._fall_back(problem, f"{name} gives {seen} along a direction of the signals")
                return found
            seen = again
        raise ValueError(
            f"the hypergradient needs to agree with ordinary gradients; reverse mode gives {seen} along a direction of "
            "the signals: maxl.check_hypergradient names what in the network hides its derivative; "
            'check="never" trains anyway'
        )

    def _try(self, problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
        if isinstance(self.way, Reverse):
            return self.way.along(problem, signals, u)
        found, failed = None, None
        hook = gradient_hook(problem.network)
        if not hook and problem.recording is not None and problem.recording.hooked:
            hook = "a hook on the gradient of a tensor in the network"
        free = problem.every(not hook)  # all processes take the same way
        try:
            if not free:
                raise NoForwardFormula(hook or "a hook in another process")
            found = self.way.along(problem, signals, u)
        except RuntimeError as error:
            if not _may_be_followed_by_reverse(self.way, error):
                raise
            failed = error
        if problem.every(found is not None) and found is not None:
            return found
        problem.recording = problem.passes = None
        try:
            found = Reverse().along(problem, signals, u)
        except RuntimeError as error:
            if failed is None or "once_differentiable" in str(error):
                raise
            if (what := missing_forward_formula(failed)) and "is not implemented" in str(error):
                raise NotImplementedError(
                    f"{what} has no forward-mode formula in PyTorch, and the network no double backward ({error}): pass "
                    'hypergradient="finite-difference", which is approximate'
                ) from error
            raise failed from error
        self._fall_back(problem, _reason(failed))
        return found

    def _fall_back(self, problem: Problem, why: str) -> None:
        warnings.warn(
            f"{why}: the hypergradient falls back to reverse mode, which is exact too but slower; pass "
            'hypergradient="reverse" to choose it without this warning',
            stacklevel=6,
        )
        self.way, problem.passes = Reverse(), None


def _may_be_followed_by_reverse(way: Way, error: RuntimeError) -> bool:
    """Whether an error says that a way cannot follow a network; ways from elsewhere may have their own mistakes."""
    if isinstance(error, NoForwardFormula):
        return True
    return isinstance(way, (Forward, FiniteDifference)) and not is_out_of_memory(error)


def _reason(error: Exception | None) -> str:
    if error is None:
        return "another process cannot follow the network"
    if what := missing_forward_formula(error):
        return f"{what} has no forward-mode formula in PyTorch"
    return f"the network cannot be followed without a double backward ({str(error).splitlines()[0]})"


def missing_forward_formula(error: Exception) -> str | None:
    """What has no forward-mode formula, if that is what the error says."""
    if isinstance(error, NoForwardFormula):
        return error.what
    if found := re.search(r"forward AD with (\S+) that", str(error)):
        return found.group(1)
    return "a custom autograd.Function without jvp" if "implement the jvp function" in str(error) else None


def gradient_hook(network: nn.Module) -> str | None:
    """The first module with a hook on gradients, which only a backward pass calls; or that all modules have one."""
    everyones = (*_modules._global_backward_hooks.values(), *_modules._global_backward_pre_hooks.values())
    if not all(of_torch(hook) for hook in everyones):
        return "a backward hook of all modules"
    for name, module in network.named_modules():
        hooks = (*module._backward_hooks.values(), *module._backward_pre_hooks.values())
        if not all(of_torch(hook) for hook in hooks):
            return f"a backward hook of {name or type(module).__name__}"
    return None
