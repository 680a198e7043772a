"""``maxl check``: the double gradient on networks that a trunk's name builds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from maxl.check import HypergradientReport, check_hypergradient
from maxl.experiments.runs.trunks import build, random_inputs
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.networks import LabelGenerator, MultiTaskNetwork

_MOST = 10**6  # of classes and the like
_NUMBERS = 2**31  # in one sample; with 10^6 samples their size in bytes still is a number
_SEEDS = 2**32  # as for runs


def run_check(
    trunk: str,
    input_shape: Sequence[int],
    num_classes: int,
    psi: int | Sequence[int],
    batch_size: int,
    *,
    learning_rate: float = 0.01,
    device: str = "cpu",
    seed: int = 0,
    repeats: int = 3,
    directions: int = 1,
) -> HypergradientReport:
    """``check_hypergradient`` on freshly built networks and random inputs.

    Args:
        trunk: A name that ``trunks.build`` knows, for both networks.
        input_shape: Shape of one sample, (channels, height, width) for images, (tokens,) for texts.
        num_classes: Primary classes C.
        psi: Auxiliary classes per primary class: one number for all, or C of them.
        batch_size: Samples in the batch.
        learning_rate: α of the lookahead.
        device: Where to run.
        seed: For weights and inputs; torch's own generator is left as it was.
        repeats, directions: As for ``check_hypergradient``.

    Raises:
        ValueError: if the trunk is unknown, ψ does not fit the number of classes, or a number is out of its range.
        MemoryError, RuntimeError: if memory runs out.
    """
    for name, values in (
        ("--shape", input_shape),
        ("--classes", [num_classes]),
        ("--psi", [psi] if isinstance(psi, int) else psi),
        ("--batch-size", [batch_size]),
    ):
        if wrong := [value for value in values if not 1 <= value <= _MOST]:
            raise ValueError(f"{name} needs whole numbers from 1 to {_MOST}; got {wrong[0]}")
    if math.prod(input_shape) > _NUMBERS:
        raise ValueError(
            f"--shape needs at most {_NUMBERS} numbers in a sample; got {math.prod(input_shape)}"
        )
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"--seed needs to be at least 0 and below {_SEEDS}; got {seed}")
    counts = [psi] * num_classes if isinstance(psi, int) else list(psi)
    if len(counts) != num_classes:
        raise ValueError(f"psi needs one entry per primary class; got {len(counts)} for {num_classes}")
    hierarchy = Hierarchy(counts)
    place = torch.device(device)
    with RandomState.capture(place).replay():
        torch.manual_seed(seed)
        network = MultiTaskNetwork(build(trunk, input_shape), hierarchy).to(place)
        generator = LabelGenerator(build(trunk, input_shape), hierarchy).to(place)
        x = random_inputs(network.trunk, batch_size, input_shape).to(place)
        y = torch.randint(0, num_classes, (batch_size,)).to(place)
        return check_hypergradient(
            network, generator, x, y, learning_rate=learning_rate, repeats=repeats, directions=directions
        )
