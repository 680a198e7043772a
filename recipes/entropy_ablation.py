"""Accuracy against the number of auxiliary classes, with and without the entropy term (CIFAR-100, 20 classes).

    python recipes/entropy_ablation.py --data-dir DIR --out entropy
    python recipes/entropy_ablation.py --data-dir DIR --out entropy-fast --fast
    python recipes/entropy_ablation.py --data-dir DIR --psi 5 20 --entropy-weights 0 0.2 1

One study in OUT/cifar100; its report shows beside the accuracies how many labels are in use, that is, whether
the generator has collapsed onto few classes.

expected, test accuracy         figure    source
  maxl, entropy weight 0.2      77.4 %    abstract of WAMAL, OpenReview sRDCzh6gVw: VGG-16; ψ not stated
  without the term              none      labels collapse, most of all with a large ψ, and there is a best ψ:
                                          the paper's finding, in words

Where this departs from the paper: the values of ψ are our choice, and uniform labels a control of ours. Meta
steps as in cifar100_hierarchy.py. --fast: 1000 images, 10 epochs, a small network, Adam, ψ 2 and 10.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from _common import add_psi_flag, base_config, main, recipe_parser, seeds

from maxl.experiments.cli import Parser
from maxl.experiments.studies.study import Study

METHODS = ("single", "uniform", "maxl")
PSI, FAST_PSI = (2, 3, 5, 10, 20), (2, 10)
WEIGHTS = (0.0, 0.2)


def parser() -> Parser:
    """The recipe's flags."""
    fixed = ("data", "primary", "human", "psi", "entropy_weight")
    flags = recipe_parser(__doc__, "entropy-ablation", fixed=fixed)
    add_psi_flag(flags, PSI, FAST_PSI)
    flags.add_argument(
        "--entropy-weights",
        type=float,
        nargs="+",
        default=WEIGHTS,
        metavar="X",
        help="of the entropy term (0 0.2)",
    )
    return flags


def plan(options: argparse.Namespace) -> Mapping[str, Study]:
    """One study with a grid over ψ and the entropy weight."""
    psi = options.psi_values or (FAST_PSI if options.fast else PSI)
    base = base_config(options, data="cifar100", primary="coarse_label", trunk="vgg16")
    return {
        "cifar100": Study(
            base, METHODS, seeds(options), {"psi": psi, "entropy_weight": options.entropy_weights}
        )
    }


if __name__ == "__main__":
    sys.exit(main(parser(), plan))
