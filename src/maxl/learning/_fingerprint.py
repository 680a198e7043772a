"""Gradients told apart from those of another loss, and by which factor they have been multiplied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = (
    2**16
)  # entries that are looked at together: among more, a few that have changed would be lost in rounding


class Fingerprint:
    """Enough of the gradients to tell later by which common factor they have been multiplied.

    Args:
        gradients: Of θ₁, as ``backward`` left them.
    """

    def __init__(self, gradients: Sequence[Tensor | None]) -> None:
        self._there = [g is not None for g in gradients]
        self._measures = _measures([_flat(g) for g in gradients if g is not None])

    def is_of(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether the gradients are still the same."""
        kept = [_flat(g) for g in gradients if g is not None]
        there = [g is not None for g in gradients] == self._there
        return there and torch.equal(self._measures, _measures(kept).to(self._measures))

    def factors(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The factor on each gradient, a scalar tensor; None where there is no gradient.

        Clipping by norm and a gradient scaler multiply whole tensors; the factor is then a constant of the step.

        Raises:
            ValueError: if a gradient has been changed in another way.
        """
        if [g is not None for g in gradients] != self._there:
            raise ValueError(
                "the gradients need to be those of learner.backward when optimizer.step() is called; some have "
                "appeared or gone since: call zero_grad() before backward alone"
            )
        kept = [_flat(g) for g in gradients if g is not None]
        if not kept:
            return [None for _ in gradients]
        old, new = self._measures, _measures(kept)
        norms, now = (_norms(m[0], kept) for m in (old, new))
        moved = norms > 0
        factor = torch.where(moved, now / torch.where(moved, norms, 1.0), 1.0)
        # A gradient that is zero tells nothing; it is taken to have met what the others met.
        common = factor[moved].mean() if bool(moved.any()) else torch.ones_like(factor[0])
        factor = torch.where(moved, factor, common)
        by_chunk = torch.cat([f.expand(_chunks(g)) for f, g in zip(factor, kept, strict=True)])
        if bool(((new - by_chunk * old).abs() > _rounding(by_chunk.abs() * old + new, kept)).any()):
            raise ValueError(
                "gradients may be multiplied by a factor between learner.backward and optimizer.step() (clipping by "
                "norm, a gradient scaler); got another change, through which the hypergradient cannot follow: add "
                "other losses before learner.backward, and leave value clipping and noise out"
            )
        each = iter(factor.unbind())
        return [next(each) if there else None for there in self._there]


def _rounding(sizes: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """What rounding may change, by chunk: in the sums, and in entries of low precision that were multiplied.

    Args:
        sizes: Measures before and after, added up.
        gradients: Flat, for their precisions.
    """
    own = [torch.finfo(g.dtype).eps for g in gradients for _ in range(_chunks(g))]
    sums = 256 * torch.finfo(sizes.dtype).eps
    return sums * sizes[0] + 2 * sizes.new_tensor(own) * sizes[1]


def _norms(of_chunks: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Norms of whole gradients."""
    counts = [_chunks(g) for g in gradients]
    if len(counts) == len(of_chunks):
        return of_chunks
    return torch.stack([part.norm() for part in torch.split(of_chunks, counts)])


def _chunks(gradient: Tensor) -> int:
    return max(1, -(-len(gradient) // CHUNK))


def _measures(gradients: Sequence[Tensor]) -> Tensor:
    """Four numbers of each chunk of each flat gradient, shape (4, number of chunks)."""
    if not gradients:
        return torch.zeros(4, 0)
    return torch.cat([part for g in gradients for part in _measure(g)], 1)


def _flat(gradient: Tensor) -> Tensor:
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient).detach().flatten()


def _measure(g: Tensor) -> list[Tensor]:
    """Norm, largest entry, and projections on a constant and on a ramp, which also tells entries that changed places."""
    g = g.to(torch.promote_types(g.dtype, torch.float32))
    if not g.numel():
        return [g.new_zeros(4, 1)]
    whole = len(g) // CHUNK * CHUNK
    if not whole:
        return [_of_rows(g[None])]
    full = _of_rows(g[:whole].view(-1, CHUNK))
    return [full] if whole == len(g) else [full, _of_rows(g[None, whole:])]


def _of_rows(rows: Tensor) -> Tensor:
    width = rows.shape[1]
    ramp = torch.linspace(-1, 1, width, dtype=rows.dtype, device=rows.device)
    largest = torch.linalg.vector_norm(rows, float("inf"), dim=1)
    return torch.stack([rows.norm(dim=1), largest, rows.sum(1) / width**0.5, rows.mv(ramp) / width**0.5])
