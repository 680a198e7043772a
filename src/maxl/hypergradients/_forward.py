"""Forward mode: the exact double gradient without a double backward."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from maxl.hypergradients._dual_kernels import DualKernels, NoForwardFormula, Recording
from maxl.hypergradients._inputs import device_of, map_tensors
from maxl.hypergradients._problem import Outputs, Problem, Signals
from maxl.hypergradients._purity import differentiable_kernels
from maxl.hypergradients._way import Way

_LEVEL = threading.Lock()  # PyTorch has one level of dual numbers for all threads of a process


@dataclass(frozen=True)
class Forward(Way):
    """One forward-mode pass of the network along u; exact and fast. Beyond the paper.

    Signals meet the weights only where they meet the network's outputs z. The pass gives z and its tangent ż;
    ⟨u, ∇_θ₁ L_in⟩ = ⟨∂L_in/∂z, ż⟩ is then differentiated with respect to t, among tensors of the outputs' size.
    """

    reuses_outputs: ClassVar[bool] = True

    def along(self, problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
        """As ``Way.along``.

        Raises:
            NotImplementedError: if an operator of the network has no forward-mode formula.
            ValueError: if the network does not repeat its training pass.
        """
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            compiled = problem.compiled_tangent(u)
        if compiled is not None:
            problem.check_repeated(compiled[0])
            return contract(problem, signals, *compiled)
        _load_decompositions()
        try:
            outputs, tangents, fits = _tangent(problem, u, problem.recording)
        except Exception as error:
            if not type(error).__module__.startswith("torch._dynamo"):
                raise
            # Control flow such as torch.cond compiles itself, which dual numbers do not survive.
            raise NoForwardFormula("an operator that compiles itself, such as torch.cond,") from error
        if problem.recording is not None and not problem.every(fits and problem.repeats(outputs)):
            # Kept layer outputs are told apart by their order, which this pass may have changed.
            outputs, tangents, _ = _tangent(problem, u, None)
        problem.check_repeated(outputs)
        return contract(problem, signals, outputs, tangents)


def _tangent(
    problem: Problem, u: Sequence[Tensor | None], recording: Recording | None
) -> tuple[Outputs, tuple[Tensor | None, ...], bool]:
    """Outputs, their tangents along u, and whether the recording is one of this pass."""
    kernels = DualKernels(recording)
    with (
        _LEVEL,
        torch.enable_grad(),  # no tensor here asks for a gradient; what the network hides from autograd is hidden here too
        problem.random.replay(),
        forward_ad.dual_level(),
        kernels,
        differentiable_kernels(problem.network, device_of(problem.x).type),
    ):
        duals = {
            name: p.detach() if u_p is None else forward_ad.make_dual(p.detach(), u_p.detach())  # type: ignore[no-untyped-call]
            for (name, p), u_p in zip(problem.weights.items(), u, strict=True)
        }
        halves = [
            forward_ad.unpack_dual(o)  # type: ignore[no-untyped-call]
            for o in problem.outputs(duals, map_tensors(Tensor.detach, problem.x), problem.buffers)
        ]
        outputs, tangents = tuple(h.primal.detach() for h in halves), tuple(h.tangent for h in halves)
    return outputs, tangents, recording is None or kernels.fits(problem.rounding())


def contract(
    problem: Problem, signals: Signals, outputs: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> Signals:
    """−d/dt ⟨∂L_in(z, y, t)/∂z, ż⟩; an output without a tangent does not depend on any weight that moves."""
    with torch.enable_grad():
        leaves = tuple(s.detach().requires_grad_() for s in signals)
        z = tuple(o.detach().requires_grad_() for o in outputs)
        moving = [(o, dz.detach()) for o, dz in zip(z, tangents, strict=True) if dz is not None]
        if not moving:
            return tuple(torch.zeros_like(s) for s in signals)
        loss = problem.loss(z, leaves)
        slopes = torch.autograd.grad(loss, [o for o, _ in moving], create_graph=True, allow_unused=True)
        terms = [
            (slope * dz).sum()
            for slope, (_, dz) in zip(slopes, moving, strict=True)
            if slope is not None and slope.requires_grad
        ]
    if not terms:
        return tuple(torch.zeros_like(s) for s in signals)
    derivative = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
    gradients = torch.autograd.grad(derivative, leaves, allow_unused=True)
    return tuple(torch.zeros_like(s) if g is None else -g for s, g in zip(signals, gradients, strict=True))


@cache
def _load_decompositions() -> None:
    """PyTorch loads these at the first dual number, with a warning about its own code."""
    with _LEVEL, warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))  # type: ignore[no-untyped-call]
