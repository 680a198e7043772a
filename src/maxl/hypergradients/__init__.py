"""The double gradient: how the generator's labels change the loss after the network's next step.

``hypergradient`` is the pure function; ``forward``, ``reverse`` and ``finite_difference`` are the methods.
All share the direction u of ``Problem.direction`` and differ in how they differentiate along it.
"""

from maxl.hypergradients._api import (
    METHODS,
    Regulariser,
    as_signals,
    check_method,
    hypergradient,
    label_gradient,
    logit_gradient,
    missing_forward_formula,
    pull_back,
    regulariser_slope,
    warn_fallback,
)
from maxl.hypergradients._compiled import Compiled, CompiledPasses
from maxl.hypergradients._dual_kernels import DualKernels, Recording
from maxl.hypergradients._finite_difference import finite_difference
from maxl.hypergradients._forward import forward
from maxl.hypergradients._problem import AuxiliaryLoss, PrimaryLoss, Problem, Signals, leaves_of, scale
from maxl.hypergradients._purity import RandomState, differentiable_kernels, pure_call, untracked
from maxl.hypergradients._reverse import reverse, reverse_along
from maxl.hypergradients._update_rules import Factor, Lookahead

__all__ = [
    "METHODS",
    "AuxiliaryLoss",
    "Compiled",
    "CompiledPasses",
    "DualKernels",
    "Factor",
    "Lookahead",
    "PrimaryLoss",
    "Problem",
    "RandomState",
    "Recording",
    "Regulariser",
    "Signals",
    "as_signals",
    "check_method",
    "differentiable_kernels",
    "finite_difference",
    "forward",
    "hypergradient",
    "label_gradient",
    "leaves_of",
    "logit_gradient",
    "missing_forward_formula",
    "pull_back",
    "pure_call",
    "regulariser_slope",
    "reverse",
    "reverse_along",
    "scale",
    "untracked",
    "warn_fallback",
]
