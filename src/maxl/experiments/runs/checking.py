"""``maxl check``: the double gradient on networks that a trunk's name builds, and what faster settings gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from maxl.check import HypergradientReport, check_hypergradient
from maxl.experiments.runs.fast import FastGain, fast_gain
from maxl.experiments.runs.trunks import build, random_inputs
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState
from maxl.networks import LabelGenerator, MultiTaskNetwork

_MOST = 10**6  # of classes and the like
_NUMBERS = 2**31  # in one sample; with 10^6 samples their size in bytes still is a number
_SEEDS = 2**32  # as for runs

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Case:
    """Freshly built networks and random inputs.

    Attributes:
        trunk: A name that ``trunks.build`` knows, for both networks: the generator has a trunk of its own, the harder case.
        input_shape: Shape of one sample, (channels, height, width) for images, (tokens,) for texts.
        num_classes: Primary classes C.
        psi: Auxiliary classes per primary class: one number for all, or C of them.
        batch_size: Samples in the batch.
        learning_rate: α of the lookahead.
        device: Where to run.
        seed: For weights and inputs; torch's own generator is left as it was.

    Raises:
        ValueError: if ψ does not fit the number of classes, or a number is out of its range.
    """

    trunk: str
    input_shape: Sequence[int]
    num_classes: int
    psi: int | Sequence[int]
    batch_size: int
    learning_rate: float = 0.01
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (
            ("--shape", self.input_shape),
            ("--classes", [self.num_classes]),
            ("--psi", [self.psi] if isinstance(self.psi, int) else self.psi),
            ("--batch-size", [self.batch_size]),
        ):
            if wrong := [value for value in values if not 1 <= value <= _MOST]:
                raise ValueError(f"{name} needs whole numbers from 1 to {_MOST}; got {wrong[0]}")
        if math.prod(self.input_shape) > _NUMBERS:
            raise ValueError(
                f"--shape needs at most {_NUMBERS} numbers in a sample; got {math.prod(self.input_shape)}"
            )
        if not 0 <= self.seed < _SEEDS:
            raise ValueError(f"--seed needs to be at least 0 and below {_SEEDS}; got {self.seed}")
        if not isinstance(self.psi, int) and len(self.psi) != self.num_classes:
            raise ValueError(
                f"psi needs one entry per primary class; got {len(self.psi)} for {self.num_classes}"
            )

    def on(self, do: Callable[[MultiTaskNetwork, LabelGenerator, Tensor, Tensor], _Result]) -> _Result:
        """What ``do`` gives for network, generator, inputs and their classes.

        Raises:
            ValueError: if the trunk is unknown.
            MemoryError, RuntimeError: if memory runs out.
        """
        psi = [self.psi] * self.num_classes if isinstance(self.psi, int) else self.psi
        hierarchy = Hierarchy(psi)
        place = torch.device(self.device)
        with RandomState.capture(place).replay():
            torch.manual_seed(self.seed)
            network = MultiTaskNetwork(build(self.trunk, self.input_shape), hierarchy).to(place)
            generator = LabelGenerator(build(self.trunk, self.input_shape), hierarchy).to(place)
            x = random_inputs(network.trunk, self.batch_size, self.input_shape).to(place)
            y = torch.randint(0, self.num_classes, (self.batch_size,)).to(place)
            return do(network, generator, x, y)


def run_check(case: Case, *, repeats: int = 3, directions: int = 1) -> HypergradientReport:
    """``check_hypergradient`` on freshly built networks and random inputs.

    Args:
        case: The networks.
        repeats, directions: As for ``check_hypergradient``.

    Raises:
        ValueError, MemoryError, RuntimeError: as ``Case.on``.
    """

    def check(
        network: MultiTaskNetwork, generator: LabelGenerator, x: Tensor, y: Tensor
    ) -> HypergradientReport:
        rate = case.learning_rate
        return check_hypergradient(
            network, generator, x, y, learning_rate=rate, repeats=repeats, directions=directions
        )

    return case.on(check)


def run_gain(case: Case, settings: Mapping[str, Any], *, repeats: int = 5) -> FastGain:
    """``fast_gain`` of some settings on freshly built networks and random inputs; arguments and errors as above."""

    def gain(network: MultiTaskNetwork, generator: LabelGenerator, x: Tensor, y: Tensor) -> FastGain:
        rate = case.learning_rate
        return fast_gain(network, generator, x, y, settings, learning_rate=rate, repeats=repeats)

    return case.on(gain)
