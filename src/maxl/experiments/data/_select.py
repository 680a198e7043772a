"""Which rows to keep: balanced subsets, validation parts, and test parts where none is published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from maxl.experiments.data._source import IntArray

TEST_SHARE = 0.2
_STARTS = 1  # of a generator beside that of the order
TEST_SEED = 0  # fixed, so that the test part never depends on the seed of a run


def balanced_order(primary: IntArray, human: IntArray | None, seed: int) -> IntArray:
    """An order of all rows of which every prefix is as balanced as it can be.

    Classes take turns in giving one random row each until they run out, and inside a primary class its human
    classes take turns in the same way. A larger subset of one seed therefore contains the smaller ones.

    Args:
        primary, human: Labels, shape (N,).
        seed: Selects the order.

    Returns: a permutation of 0..N-1, shape (N,).
    """
    return _ordered(primary, human, seed, lambda turns, sizes, classes: turns)


def proportional_order(primary: IntArray, human: IntArray | None, seed: int) -> IntArray:
    """An order of all rows of which every stretch holds the classes in proportion to their sizes, as nearly as it can.

    The rows of a class come at equal distances after a start that is drawn (systematic sampling), or rare classes of one
    size would all come together. The same as ``balanced_order`` where all classes, and all human ones, are of one size.

    Args:
        primary, human: Labels, shape (N,).
        seed: Selects the order.

    Returns: a permutation of 0..N-1, shape (N,).
    """
    drawn = np.random.default_rng((seed, _STARTS))

    def place(turns: IntArray, sizes: IntArray, classes: IntArray) -> npt.NDArray[Any]:
        if (sizes == sizes[0]).all():  # where no start matters
            starts: npt.NDArray[Any] = np.full(len(turns), 0.5)
        else:
            starts = drawn.random(int(classes.max()) + 1)[classes]
        places: npt.NDArray[Any] = (turns + starts) / sizes
        return places

    return _ordered(primary, human, seed, place)


def order_to_set_aside(primary: IntArray, human: IntArray | None, seed: int) -> IntArray:
    """``proportional_order`` with the last row of each class at its end, so that a prefix before these takes all of none.

    Args:
        primary, human, seed: As there; of human classes each keeps one, where there are such.
    """
    order, labels = proportional_order(primary, human, seed), primary if human is None else human
    _, from_end = np.unique(labels[order][::-1], return_index=True)
    last = np.zeros(len(order), dtype=np.bool_)
    last[len(order) - 1 - from_end] = True
    return np.concatenate([order[~last], order[last]])


def _ordered(
    primary: IntArray,
    human: IntArray | None,
    seed: int,
    place: Callable[[IntArray, IntArray, IntArray], npt.NDArray[Any]],
) -> IntArray:
    """All rows at random, then by their places, those of one class among themselves as they were; ``place`` has their turns
    in their classes, from 0, the sizes of these, and the classes."""
    order = np.random.default_rng(seed).permutation(len(primary)).astype(np.int64)
    for labels in (primary,) if human is None else (human, primary):
        ordered = labels[order]
        by_class = np.argsort(ordered, kind="stable")
        grouped = ordered[by_class]
        starts, ends = (np.searchsorted(grouped, grouped, side) for side in ("left", "right"))
        places = np.empty(len(order))
        places[by_class] = place(np.arange(len(order)) - starts, ends - starts, grouped)
        order = order[np.argsort(places, kind="stable")]
    return order


def resolve_size(size: int | float, total: int, what: str) -> int:
    """A count of rows from a count or a fraction.

    Args:
        size: A count (int, 0..total) or a fraction (float in [0, 1]).
        total: Rows available.
        what: Name of the argument, for messages.

    Raises:
        ValueError: if the size is negative, NaN, or more than there is.
    """
    if isinstance(size, float):
        if not 0 <= size <= 1:
            raise ValueError(
                f"{what} as a fraction must lie in [0, 1]; got {size}: give a whole number for a count"
            )
        return round(size * total)
    if not 0 <= size <= total:
        raise ValueError(f"{what} must lie between 0 and the {total} samples there are; got {size}")
    return size


def draw(
    primary: IntArray,
    human: IntArray | None,
    size: int | float | None,
    num_classes: int,
    seed: int,
    first: npt.NDArray[np.bool_] | None = None,
) -> IntArray:
    """Rows of a balanced training subset, sorted, shape (size,). None keeps every row.

    Args:
        primary, human: Labels, shape (N,).
        size: A count or a fraction.
        num_classes: Of which one sample each is needed.
        seed: Selects the rows.
        first: Rows that are kept before others, shape (N,); none by default.

    Raises:
        ValueError: if the size is larger than the data or smaller than the number of classes.
    """
    if size is None:
        return np.arange(len(primary), dtype=np.int64)
    count = resolve_size(size, len(primary), "train_size")
    if count < num_classes:
        raise ValueError(
            f"train_size must keep at least one sample of each of the {num_classes} primary classes; "
            f"got {size}, which is {count} samples"
        )
    return np.sort(with_first(balanced_order(primary, human, seed), first)[:count])


def with_first(order: IntArray, first: npt.NDArray[np.bool_] | None) -> IntArray:
    """An order of rows in which some come before the others; the same where none do."""
    return order if first is None else order[np.argsort(~first[order], kind="stable")]


def cut_test(labels: IntArray, names: tuple[str, ...], count: int | None = None) -> tuple[IntArray, IntArray]:
    """Cut a stratified test part with a fixed seed from data that is published in one piece.

    Args:
        labels: Primary labels, shape (N,).
        count: Size of the test part; one fifth by default.

    Returns: training rows and test rows, each sorted.

    Raises:
        ValueError: naming a class that has a single sample and so cannot be in both parts.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels, minlength=len(names))
    single = np.flatnonzero(counts == 1)
    if len(single):
        raise ValueError(
            f"a test part is cut from every class, so each needs 2 samples; class '{names[single[0]]}'"
            " has 1: add samples, or provide train and test parts"
        )
    rows = np.arange(len(labels), dtype=np.int64)
    size = max(round(TEST_SHARE * len(labels)), len(names)) if count is None else count
    train, test = train_test_split(rows, test_size=size, stratify=labels, random_state=TEST_SEED)
    return np.sort(train), np.sort(test)
