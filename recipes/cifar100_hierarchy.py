"""Every method on every pair of levels of CIFAR-100's hierarchy of classes, 3 → 10 → 20 → 100.

    python recipes/cifar100_hierarchy.py --data-dir DIR --out hierarchy
    python recipes/cifar100_hierarchy.py --data-dir DIR --out hierarchy-fast --fast
    python recipes/cifar100_hierarchy.py --data-dir DIR --pairs 20-100 --seeds 0

The primary task is one level, the human labels are a finer one; random, k-means and MAXL labels get as many
auxiliary classes in each primary class as the human ones. Each pair is a study in OUT/C-K with a report of its
own (learning curves, gradient cosine, what the labels look like); OUT/results.md has all of them.

expected, test accuracy         figure    source
  20-100, human                 74.6 %    abstract of WAMAL, OpenReview sRDCzh6gVw: VGG-16
  20-100, maxl                  77.4 %    the same
  all others                    none      MAXL above single, random and k-means, about level with human: the
                                          paper's finding, in words

Where this departs from the paper: without --authors the meta step is taken in every iteration through the
update just made (the authors alternate whole epochs and take a virtual step); BatchNorm's statistics are not
moved by meta steps; uniform and frozen labels are controls of ours; how prototypes are made is partly our choice
(maxl.experiments.runs.prototypes). --fast shows that all of it works and no more: 1000 images, 10 epochs, a small network, Adam.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import combinations

from _common import base_config, main, recipe_parser, seeds

from maxl.experiments.cli import Parser
from maxl.experiments.data import LEVEL_3_OF_LEVEL_10, LEVEL_10_OF_COARSE, LEVELS
from maxl.experiments.studies.study import Study

METHODS = ("single", "uniform", "frozen", "random", "kmeans", "prototypical", "human", "maxl")
SIZES = (3, 10, 20, 100)  # classes of each level, from coarse to fine
# The parent of each class of a finer level. The order of the 100 fine classes does not matter here: each of
# the 20 superclasses has 5.
PARENTS = (LEVEL_3_OF_LEVEL_10, LEVEL_10_OF_COARSE, tuple(fine // 5 for fine in range(100)))
PAIRS = {f"{SIZES[i]}-{SIZES[j]}": (i, j) for i, j in combinations(range(len(SIZES)), 2)}
FAST_PAIRS = ("20-100",)


def human_psi(primary: int, auxiliary: int) -> tuple[int, ...]:
    """How many classes of level ``auxiliary`` lie in each class of level ``primary``, both counted from 0."""
    owner = list(range(SIZES[primary]))
    for parents in PARENTS[primary:auxiliary]:
        owner = [owner[parent] for parent in parents]
    return tuple(owner.count(c) for c in range(SIZES[primary]))


def parser() -> Parser:
    """The recipe's flags."""
    flags = recipe_parser(__doc__, "cifar100-hierarchy", fixed=("data", "primary", "human", "psi"))
    flags.add_argument(
        "--pairs", nargs="+", choices=PAIRS, metavar="C-K", help="primary-auxiliary (all; with --fast 20-100)"
    )
    return flags


def plan(options: argparse.Namespace) -> Mapping[str, Study]:
    """A study for each pair of levels."""
    studies = {}
    for name in options.pairs or (FAST_PAIRS if options.fast else PAIRS):
        primary, auxiliary = PAIRS[name]
        base = base_config(
            options,
            data="cifar100",
            primary=LEVELS[primary],
            human=LEVELS[auxiliary],
            psi=human_psi(primary, auxiliary),
            trunk="vgg16",
        )
        studies[name] = Study(base, METHODS, seeds(options))
    return studies


if __name__ == "__main__":
    sys.exit(main(parser(), plan))
