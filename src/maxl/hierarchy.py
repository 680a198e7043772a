"""The hierarchy ψ: which auxiliary classes belong to which primary class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Hierarchy:
    """ψ[c] auxiliary classes for primary class c; K = Σψ in all (paper, section 3.2).

    Auxiliary classes are numbered block after block: with ``psi = [2, 2, 1]`` primary class 0 owns
    auxiliary classes 0 and 1, class 1 owns 2 and 3, class 2 owns 4.

    Args:
        psi: Auxiliary classes per primary class, C whole numbers of at least 1.

    Attributes:
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
            if isinstance(count, bool) or int(count) != count or count < 1:
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
            ValueError: if the shapes differ, a label is negative, an id below the largest never occurs
                (its owner would be unknown), or an auxiliary class occurs under two primary classes.
        """
        if primary.shape != auxiliary.shape or primary.dim() != 1 or not len(primary):
            raise ValueError(
                "primary and auxiliary labels need the same shape (N,) with N >= 1; "
                f"got {tuple(primary.shape)} and {tuple(auxiliary.shape)}"
            )
        if min(int(primary.min()), int(auxiliary.min())) < 0:
            raise ValueError("labels need to be at least 0; got a negative one")
        num_primary, num_auxiliary = int(primary.max()) + 1, int(auxiliary.max()) + 1
        counts = torch.zeros(num_primary, num_auxiliary, dtype=torch.long)
        counts.index_put_((primary.cpu(), auxiliary.cpu()), torch.ones((), dtype=torch.long), accumulate=True)
        parents = (counts > 0).sum(0)
        for problem, where in (
            ("occurs in no sample", parents == 0),
            ("has several primary classes", parents > 1),
        ):
            if where.any():
                raise ValueError(
                    "each auxiliary class needs exactly one primary class; "
                    f"auxiliary class {int(where.nonzero()[0])} {problem}: relabel it or drop it"
                )
        owner = counts.argmax(0)
        psi = torch.bincount(owner, minlength=num_primary)
        hierarchy = cls(psi.tolist())
        hierarchy._set_owner(owner, num_primary)
        return hierarchy

    def rows(self, y: Tensor) -> Tensor:
        """The mask of each sample: bool of shape (N, K).

        Args:
            y: Primary labels, int64 of shape (N,) in [0, C). A flat hierarchy takes targets of any kind
                and looks at their number alone.
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
        return f"Hierarchy({list(self.psi)})"


def rows_of(mask: Tensor, y: Tensor) -> Tensor:
    """The row of a mask that each target selects, shape (N, K); of a single row that one, whatever the targets.

    Args:
        mask: Bool, shape (C, K), on the device of the targets.
        y: Primary labels, int64 of shape (N,) in [0, C). A negative one, which indexing would take for a class counted
            from the end, may use no auxiliary class, so that whatever is made of its row is nan.
    """
    return mask.expand(len(y), -1) if len(mask) == 1 else mask[y] & (y >= 0).unsqueeze(1)
