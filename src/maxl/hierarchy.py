"""The hierarchy ψ: which auxiliary classes belong to which primary class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Hierarchy:
    """ψ[c] auxiliary classes for primary class c; K = Σψ in all (paper, section 3.2).

    Auxiliary classes are numbered block after block: with ``psi = [2, 2, 1]`` primary class 0 owns
    auxiliary classes 0 and 1, class 1 owns 2 and 3, class 2 owns 4. ``from_labels`` keeps the numbers that they have.

    Args:
        psi: Auxiliary classes per primary class, C whole numbers of at least 1.

    Attributes:
        psi: Auxiliary classes per primary class, C numbers.
        owner: The primary class of each auxiliary class, int64 of shape (K,).
        num_primary: C, the number of primary classes (1 for a flat hierarchy).
        num_auxiliary: K, the number of auxiliary classes.
        mask: Bool tensor of shape (C, K); row c is True on the block of class c.

    Raises:
        ValueError: if ψ is empty or has an entry that is not a whole number of at least 1.

    Example:
        >>> Hierarchy([2, 2, 1]).mask.int().tolist()
        [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    """

    def __init__(self, psi: Sequence[int]) -> None:
        psi = list(psi)
        if not psi:
            raise ValueError("psi needs one entry per primary class; got an empty list")
        for c, count in enumerate(psi):
            if not _is_count(count):
                raise ValueError(
                    f"psi needs whole numbers of at least 1; got {count!r} for primary class {c}"
                )
        self.psi: tuple[int, ...] = tuple(int(count) for count in psi)
        owner = torch.repeat_interleave(torch.arange(len(psi)), torch.tensor(self.psi))
        self._set_owner(owner, len(self.psi))

    def _set_owner(self, owner: Tensor, num_primary: int) -> None:
        self.owner = owner  # (K,): the primary class that each auxiliary class belongs to
        self.num_primary = num_primary
        self.num_auxiliary = len(owner)
        self.mask = owner.unsqueeze(0) == torch.arange(num_primary).unsqueeze(1)

    @classmethod
    def uniform(cls, num_primary: int, k: int) -> Hierarchy:
        """``k`` auxiliary classes for each of ``num_primary`` primary classes."""
        return cls([k] * num_primary)

    @classmethod
    def flat(cls, k: int) -> Hierarchy:
        """One row, nothing masked: for tasks without primary classes, such as regression."""
        return cls([k])

    @classmethod
    def from_labels(cls, primary: Tensor, auxiliary: Tensor) -> Hierarchy:
        """The hierarchy that a human-made finer labelling implies; auxiliary ids keep their meaning.

        Args:
            primary: Primary labels, int64 of shape (N,).
            auxiliary: Finer labels of the same samples, int64 of shape (N,).

        Raises:
            ValueError: if the shapes differ, a label is no whole number or negative, an id below the largest
                never occurs (its owner would be unknown), or an auxiliary class occurs under two primary classes.
        """
        if primary.shape != auxiliary.shape or primary.dim() != 1 or not len(primary):
            raise ValueError(
                "primary and auxiliary labels need the same shape (N,) with N >= 1; "
                f"got {tuple(primary.shape)} and {tuple(auxiliary.shape)}"
            )
        if any(labels.is_floating_point() or labels.is_complex() for labels in (primary, auxiliary)):
            raise ValueError(f"labels need whole numbers; got {primary.dtype} and {auxiliary.dtype}")
        # As many rows as auxiliary classes, however large a number stands for one.
        pairs = torch.stack((auxiliary.cpu().long(), primary.cpu().long()), dim=1)
        pairs = torch.unique(pairs, dim=0)
        if int(pairs.min()) < 0:
            raise ValueError("labels need to be at least 0; got a negative one")
        ids, owner = pairs.unbind(1)
        twice = ids[1:][ids[1:] == ids[:-1]]
        for problem, found in (
            ("occurs in no sample", _first_gap(ids)),
            ("has several primary classes", int(twice[0]) if len(twice) else None),
        ):
            if found is not None:
                raise ValueError(
                    "each auxiliary class needs exactly one primary class; "
                    f"auxiliary class {found} {problem}: relabel it or drop it"
                )
        if (empty := _first_gap(owner)) is not None:
            raise ValueError(
                f"each primary class needs an auxiliary class; primary class {empty} occurs in no sample: relabel it"
            )
        psi = torch.bincount(owner)
        hierarchy = cls(psi.tolist())
        hierarchy._set_owner(owner, len(psi))
        return hierarchy

    def rows(self, y: Tensor) -> Tensor:
        """The mask of each sample: bool of shape (N, K).

        Args:
            y: Primary labels, int64 of shape (N,) in [0, C). A flat hierarchy accepts targets of any kind
                and uses only how many there are.
        """
        return rows_of(self.mask.to(y.device), y)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Hierarchy)
            and self.num_primary == other.num_primary
            and torch.equal(self.owner, other.owner)
        )

    def __hash__(self) -> int:
        return hash((self.num_primary, tuple(self.owner.tolist())))

    def __repr__(self) -> str:
        if self == Hierarchy(self.psi):
            return f"Hierarchy({list(self.psi)})"
        return (
            f"Hierarchy.from_labels(torch.tensor({self.owner.tolist()}), torch.arange({self.num_auxiliary}))"
        )


def _is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1, of whichever type."""
    try:
        return not isinstance(value, bool) and bool(int(value) == value and value >= 1)
    except (TypeError, ValueError, OverflowError):  # no number, NaN, infinite
        return False


def _first_gap(labels: Tensor) -> int | None:
    """The least number from 0 on that labels of at least 0, shape (N,), lack below their largest; or None."""
    found = torch.unique(labels)
    gaps = found != torch.arange(len(found))
    return int(gaps.nonzero()[0]) if gaps.any() else None


def rows_of(mask: Tensor, y: Tensor) -> Tensor:
    """The row of a mask that each target selects, shape (N, K); of a single row that one, whatever the targets.

    Args:
        mask: Bool, shape (C, K), on the device of the targets.
        y: Primary labels, int64 of shape (N,) in [0, C). A negative one, which indexing would take for a class counted
            from the end, may use no auxiliary class, so that whatever is made of its row is nan.
    """
    return mask.expand(len(y), -1) if len(mask) == 1 else mask[y] & (y >= 0).unsqueeze(1)
