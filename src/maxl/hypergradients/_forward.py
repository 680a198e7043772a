"""Forward mode: the exact double gradient without a double backward."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from maxl.hypergradients._dual_kernels import DualKernels
from maxl.hypergradients._problem import Problem, Signals
from maxl.hypergradients._purity import differentiable_kernels


def forward(problem: Problem, signals: Signals, u: Sequence[Tensor | None]) -> Signals:
    """dL_pri(θ₁⁺)/dt = −d/dt ⟨u, ∇_θ₁ L_in(θ₁, t)⟩ by one forward-mode pass of the network along u.

    Only L_aux depends on t, and only through the auxiliary logits z. The pass gives z and its tangent ż;
    ⟨u, ∇L_aux⟩ = ⟨∂L_aux/∂z, ż⟩ is then differentiated with respect to t. Beyond the paper.

    Args:
        problem: The two-level problem, at the weights from which the training step starts.
        signals: The labels t, and the sample weights if the generator gives any.
        u: −(∂U/∂∇)ᵀ v for each weight, None where it is zero.

    Raises:
        NotImplementedError: if an operator of the network has no forward-mode formula.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        compiled = problem.auxiliary_tangent(u)
    if compiled is not None:
        return contract(problem, signals, *compiled)
    _load_decompositions()
    with (
        torch.no_grad(),
        problem.random.replay(),
        forward_ad.dual_level(),
        DualKernels(problem.recording),
        differentiable_kernels(problem.network, problem.x.device.type),
    ):
        duals = {
            name: p.detach() if u_p is None else forward_ad.make_dual(p.detach(), u_p)  # type: ignore[no-untyped-call]
            for (name, p), u_p in zip(problem.weights.items(), u, strict=True)
        }
        z, dz = forward_ad.unpack_dual(problem.logits(duals, problem.x)[1])  # type: ignore[no-untyped-call]
    if dz is None:  # the auxiliary head does not depend on any weight that moves
        return tuple(torch.zeros_like(s) for s in signals)
    return contract(problem, signals, z, dz)


@cache
def _load_decompositions() -> None:
    """PyTorch loads these at the first dual number, with a warning about its own code."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))  # type: ignore[no-untyped-call]


def contract(problem: Problem, signals: Signals, z: Tensor, dz: Tensor) -> Signals:
    """−d/dt ⟨∂L_aux(z, t)/∂z, ż⟩: tensors of shape (N, K) only."""
    with torch.enable_grad():
        leaves = tuple(s.detach().requires_grad_() for s in signals)
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(problem.auxiliary_loss(z, *leaves), z, create_graph=True)
        derivative = (slope * dz.detach()).sum()
    return tuple(-g for g in torch.autograd.grad(derivative, leaves))
