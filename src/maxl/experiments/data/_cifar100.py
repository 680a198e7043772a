"""The four levels of CIFAR-100's classes: 3 → 10 → 20 → 100, after the paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maxl.experiments.data._labels import check_column
from maxl.experiments.data._source import Column, Part, Source

# Index of the group of ten that each of the 20 superclasses (in the published order) belongs to.
LEVEL_10_OF_COARSE = (1, 2, 5, 6, 5, 6, 6, 3, 0, 7, 8, 0, 1, 3, 4, 0, 2, 5, 9, 9)
# Index of the group of three that each of the ten belongs to.
LEVEL_3_OF_LEVEL_10 = (0, 0, 0, 0, 0, 1, 2, 2, 2, 2)

LEVEL_10_NAMES = (
    "large animals",
    "medium animals",
    "small animals",
    "invertebrates",
    "people",
    "plants",
    "household objects",
    "constructions",
    "natural scenes",
    "vehicles",
)
LEVEL_3_NAMES = ("animals", "plants", "objects and scenes")
LEVELS = ("level_3", "level_10", "coarse_label", "fine_label")  # from coarse to fine


def with_levels(source: Source, primary: str | None) -> Source:
    """Add the columns level_10 and level_3, made from coarse_label.

    Args:
        primary: The column chosen, which decides the default human labels: the finest there are, unless the
            primary ones are that fine already.
    """
    primary = primary or "coarse_label"
    return replace(
        source,
        train=_part(source.train),
        test=None if source.test is None else _part(source.test),
        primary=primary,
        human="fine_label" if primary in LEVELS[:-1] else None,
    )


def _part(part: Part) -> Part:
    check_column(part.columns, "coarse_label", "primary")
    coarse = part.columns["coarse_label"].values
    if len(coarse) and not 0 <= coarse.min() <= coarse.max() < len(LEVEL_10_OF_COARSE):
        raise ValueError(f"coarse_label must lie in 0..19; got {coarse.min()}..{coarse.max()}")
    level_10 = np.array(LEVEL_10_OF_COARSE)[coarse]
    level_3 = np.array(LEVEL_3_OF_LEVEL_10)[level_10]
    columns = {"level_3": Column(level_3, LEVEL_3_NAMES), "level_10": Column(level_10, LEVEL_10_NAMES)}
    return replace(part, columns=columns | part.columns)
