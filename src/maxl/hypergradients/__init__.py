"""The double gradient: how a generator's signals change the loss after the network's next step.

``hypergradient`` is the pure function; ``Forward``, ``Reverse`` and ``FiniteDifference`` are the ways to
differentiate. All share the direction u of ``Problem.direction`` and differ in how they differentiate along it.
"""

from maxl.hypergradients._api import WAYS, as_way, hypergradient
from maxl.hypergradients._compiled import Compiled, CompiledPasses, WithFeatures
from maxl.hypergradients._dual_kernels import DualKernels, NoForwardFormula, Recording
from maxl.hypergradients._fallback import Check, OrReverse, gradient_hook, missing_forward_formula
from maxl.hypergradients._finite import all_finite
from maxl.hypergradients._finite_difference import FiniteDifference
from maxl.hypergradients._forward import Forward
from maxl.hypergradients._graph import graph_nodes
from maxl.hypergradients._inputs import (
    Inputs,
    as_inputs,
    device_of,
    map_tensors,
    parts_of,
    same_tensors,
    some_of,
    tensors_of,
    versions_of,
)
from maxl.hypergradients._out_of_memory import is_out_of_memory
from maxl.hypergradients._problem import (
    OuterLoss,
    Outputs,
    Problem,
    Signals,
    TrainingLoss,
    alike,
    as_tuple,
    copied,
    in_float,
    leaves_of,
    rounding_of,
    scale,
)
from maxl.hypergradients._purity import differentiable_kernels, pure_call, purely, spare_buffers, untracked
from maxl.hypergradients._random_state import RandomState
from maxl.hypergradients._reverse import Reverse
from maxl.hypergradients._signals import logit_gradient, pull_back, slopes
from maxl.hypergradients._update_rule import Factor, UpdateRule
from maxl.hypergradients._way import Way

__all__ = [
    "WAYS",
    "Check",
    "Compiled",
    "CompiledPasses",
    "DualKernels",
    "Factor",
    "FiniteDifference",
    "Forward",
    "Inputs",
    "NoForwardFormula",
    "OrReverse",
    "OuterLoss",
    "Outputs",
    "Problem",
    "RandomState",
    "Recording",
    "Reverse",
    "Signals",
    "TrainingLoss",
    "UpdateRule",
    "Way",
    "WithFeatures",
    "alike",
    "all_finite",
    "as_inputs",
    "as_tuple",
    "as_way",
    "copied",
    "device_of",
    "differentiable_kernels",
    "gradient_hook",
    "graph_nodes",
    "hypergradient",
    "in_float",
    "is_out_of_memory",
    "leaves_of",
    "logit_gradient",
    "map_tensors",
    "missing_forward_formula",
    "parts_of",
    "pull_back",
    "pure_call",
    "purely",
    "rounding_of",
    "same_tensors",
    "scale",
    "slopes",
    "some_of",
    "spare_buffers",
    "tensors_of",
    "untracked",
    "versions_of",
]
