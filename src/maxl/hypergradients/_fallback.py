"""What happens where an operator of the network has no forward-mode formula."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from maxl.hypergradients._forward import Forward
from maxl.hypergradients._problem import Problem, Signals
from maxl.hypergradients._reverse import Reverse
from maxl.hypergradients._update_rule import UpdateRule
from maxl.hypergradients._way import Way

_Result = TypeVar("_Result")


class OrReverse:
    """A way, and reverse mode in its place once forward mode has met an operator without a formula.

    Args:
        way: What to differentiate with.

    Attributes:
        way: What is differentiated with now.
    """

    def __init__(self, way: Way) -> None:
        self.way = way

    def along(self, problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
        """As ``Way.along``."""
        return self._try(problem, lambda way: way.along(problem, signals, u))

    def through(
        self, problem: Problem, signals: Signals, rule: UpdateRule, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Signals]:
        """As ``Way.through``."""
        return self._try(problem, lambda way: way.through(problem, signals, rule, x, y))

    def _try(self, problem: Problem, compute: Callable[[Way], _Result]) -> _Result:
        try:
            return compute(self.way)
        except NotImplementedError as error:
            operator = missing_forward_formula(error)
            if operator is None or not isinstance(self.way, Forward):
                raise
            warnings.warn(
                f"{operator} has no forward-mode formula in PyTorch: the hypergradient falls back to reverse "
                'mode, which is exact too but slower; pass hypergradient="reverse" to choose it without this warning',
                stacklevel=4,
            )
            self.way, problem.passes = Reverse(), None
            return compute(self.way)


def missing_forward_formula(error: Exception) -> str | None:
    """The operator that has no forward-mode formula, if that is what the error says."""
    if found := re.search(r"forward AD with (\S+) that", str(error)):
        return found.group(1)
    return "a custom autograd.Function without jvp" if "implement the jvp function" in str(error) else None
