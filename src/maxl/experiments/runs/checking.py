"""``maxl check``: the double gradient on networks that a trunk's name builds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from maxl.check import HypergradientReport, check_hypergradient
from maxl.experiments.runs.trunks import build
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.networks import LabelGenerator, MultiTaskNetwork


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
        input_shape: Shape of one sample, (channels, height, width) for images.
        num_classes: Primary classes C.
        psi: Auxiliary classes per primary class: one number for all, or C of them.
        batch_size: Samples in the batch.
        learning_rate: α of the lookahead.
        device: Where to run.
        seed: For weights and inputs; torch's own generator is left as it was.
        repeats, directions: As for ``check_hypergradient``.

    Raises:
        ValueError: if the trunk is unknown, or ψ does not fit the number of classes.
    """
    counts = [psi] * num_classes if isinstance(psi, int) else list(psi)
    if len(counts) != num_classes:
        raise ValueError(f"psi needs one entry per primary class; got {len(counts)} for {num_classes}")
    hierarchy = Hierarchy(counts)
    place = torch.device(device)
    with RandomState.capture(place).replay():
        torch.manual_seed(seed)
        network = MultiTaskNetwork(build(trunk, input_shape), hierarchy).to(place)
        generator = LabelGenerator(build(trunk, input_shape), hierarchy).to(place)
        x = torch.randn(batch_size, *input_shape).to(place)
        y = torch.randint(0, num_classes, (batch_size,)).to(place)
        return check_hypergradient(
            network, generator, x, y, learning_rate=learning_rate, repeats=repeats, directions=directions
        )
