"""What a hypergradient in a user's precision is measured by: float64, real steps, and what rounding can do."""

from __future__ import annotations

import math

import torch

from maxl.check._case import Case, Gradient, norm, relative_difference

TINY = 1e-300  # against a division by zero


def precise(case: Case) -> tuple[Case, float | None]:
    """The case in float64 and how far its outputs move; the case itself where that is not rounding alone."""
    precise = case.copied(torch.float64)
    try:
        gap = relative_difference(case.outputs(), precise.outputs())
    except Exception:  # an operator of fixed precision, or a batch that no method can take: noted elsewhere
        return case, None
    return (precise, gap) if gap < 10 * math.sqrt(case.epsilon) else (case, None)


def reference(case: Case) -> tuple[str, Gradient] | tuple[None, None]:
    """The most trusted method that works on these networks, and what it gives."""
    for method in ("reverse", "forward", "finite-difference"):
        try:
            return method, case.hypergradient(method)
        except Exception:  # the method's own row, in the networks' precision, names the reason
            continue
    return None, None


def central_difference_error(case: Case, exact: Gradient, directions: int) -> float:
    """Relative difference between ⟨h*, d⟩ and [L(θ₂ + εd) − L(θ₂ − εd)] / 2ε, over random directions d.

    Half of a direction is noise and half is h* with random entries left out, since noise alone would see
    next to nothing of a gradient with millions of entries. Of three steps ε the best one counts: the large
    ones may cross kinks of ReLU, the small ones drown in rounding.
    """
    random = torch.Generator().manual_seed(0)
    size = max(norm(case.theta()), 1.0)
    gaps: list[float] = []
    for _ in range(directions):
        noise = [torch.randn(h.shape, generator=random).to(h) for h in exact]
        kept = [h * (torch.rand(h.shape, generator=random) < 0.5).to(h) for h in exact]
        scales = norm(noise), max(norm(kept), TINY)
        d = [n / scales[0] + k / scales[1] for n, k in zip(noise, kept, strict=True)]
        expected = sum(float((h * d_p).sum()) for h, d_p in zip(exact, d, strict=True))
        found = [
            (case.loss_after_step([e * p for p in d]) - case.loss_after_step([-e * p for p in d])) / (2 * e)
            for e in (1e-4 * size, 1e-6 * size, 1e-8 * size)
        ]
        gaps.append(min(abs(f - expected) for f in found) / max(abs(expected), TINY))
    return max(gaps)


def sensitivity(case: Case, method: str, exact: Gradient, rounding: float, draws: int = 3) -> float:
    """Relative change of h* when the network's weights move until its outputs change by ``rounding``.

    The largest of a few random moves: whether a unit crosses the kink of its ReLU is a matter of luck.
    """
    change = relative_difference(_moved(case, rounding, 0).outputs(), case.outputs())
    scale = rounding * rounding / max(change, TINY)  # outputs change in proportion to it
    return max(
        relative_difference(_moved(case, scale, seed).hypergradient(method), exact) for seed in range(draws)
    )


def _moved(case: Case, scale: float, seed: int) -> Case:
    """A copy whose network's weights differ by up to ``scale``, relatively."""
    random = torch.Generator().manual_seed(seed)
    moved = case.copied()
    with torch.no_grad():
        for p in moved.network.parameters():
            p.mul_(1 + scale * (2 * torch.rand(p.shape, generator=random).to(p) - 1))
    return moved
