"""The double gradient: how the generator's labels change the loss after the network's next step.

``hypergradient`` is the pure function; ``forward``, ``reverse`` and ``finite_difference`` are the methods.
All share the direction u of ``Problem.direction`` and differ in how they differentiate along it.
"""

from maxl.hypergradients._api import METHODS, hypergradient, label_gradient, pull_back
from maxl.hypergradients._finite_difference import finite_difference
from maxl.hypergradients._forward import forward
from maxl.hypergradients._problem import Problem, Signals, scale
from maxl.hypergradients._purity import RandomState, pure_call, untracked
from maxl.hypergradients._reverse import reverse, reverse_along

__all__ = [
    "METHODS",
    "Problem",
    "RandomState",
    "Signals",
    "finite_difference",
    "forward",
    "hypergradient",
    "label_gradient",
    "pull_back",
    "pure_call",
    "reverse",
    "reverse_along",
    "scale",
    "untracked",
]
