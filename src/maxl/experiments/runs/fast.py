"""``--fast``: what is faster on the device of a run and safe there, and what it gains."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.launch import launched
from maxl.experiments.runs.rules import against_compiling
from maxl.learning import MetaAuxiliaryLearner
from maxl.networks import LabelGenerator, MultiTaskNetwork


def fast_settings(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """Settings of a run that make it faster on its device, and change its results by rounding alone.

    | device | precision | compile |
    |---|---|---|
    | a GPU of NVIDIA with bfloat16 of its own (compute capability 8.0) | bf16, with losses in float32 | yes |
    | an older one | as it is | yes |
    | others | as it is | as it is |

    Compilation is left out where the method cannot be compiled, and of several processes. Channels-last layout is the default everywhere.

    Args:
        config: The run.
        device: Where it will be.

    Returns:
        Names and values of ``RunConfig``, none where nothing is known to be both faster and safe.
    """
    if device.type != "cuda":
        return {}
    settings: dict[str, Any] = {"channels_last": True}
    if torch.cuda.is_bf16_supported(including_emulation=False):
        settings["precision"] = "bf16"
    if against_compiling(config) is None and launched() == 1:
        settings["compile"] = True
    return settings


def told(settings: Mapping[str, Any], device: torch.device) -> str:
    """What ``--fast`` does, in a line."""
    if not settings:
        return f"--fast: nothing is both faster and safe on every {device.type}; docs/speed.md says what may be worth a try"
    return f"--fast: {_listed(settings)}"


def slower(config: RunConfig, device: torch.device) -> str:
    """That the precision of a run makes it slower on its device, in a line; empty where it does not, or nobody knows."""
    if config.precision != "bf16" or device.type != "cpu":
        return ""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not known or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    return "--precision bf16: this processor has no bfloat16 of its own and imitates it, which takes longer than float32"


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


@dataclass(frozen=True)
class FastGain:
    """An exact iteration as it is and with ``fast_settings``.

    Attributes:
        settings: Those that were tried.
        seconds, fast_seconds: Medians of an iteration, once all is compiled.
        compile_seconds: What the first iteration takes longer.
        difference: ‖ψ' − ψ‖ / ‖Δψ‖: how much farther apart an iteration leaves the generator's weights than it moves them.
    """

    settings: Mapping[str, Any]
    seconds: float
    fast_seconds: float
    compile_seconds: float
    difference: float

    def __str__(self) -> str:
        return (
            f"--fast             {_listed(self.settings)}: {self.fast_seconds:.4f} s an exact iteration instead of {self.seconds:.4f}, "
            f"{self.seconds / self.fast_seconds:.2f} times as fast, after {self.compile_seconds:.0f} s to compile; the step of the "
            f"generator differs by {self.difference:.1e} of its length"
        )


def fast_gain(
    network: MultiTaskNetwork,
    generator: LabelGenerator,
    x: Tensor,
    y: Tensor,
    settings: Mapping[str, Any],
    *,
    learning_rate: float,
    repeats: int,
) -> FastGain:
    """Measures iterations of copies of two networks; changes nothing.

    Args:
        network, generator: As a run has them.
        x, y: A batch.
        settings: As ``fast_settings`` gives them.
        learning_rate: Of SGD, for both.
        repeats: Timed iterations of each; they take turns, since a busy machine hits both alike.
    """
    plain, fast = (_Trial(network, generator, chosen, learning_rate) for chosen in ({}, settings))
    first_plain, first_fast = plain.step(x, y), fast.step(x, y)
    moved = plain.moved()
    difference = torch.linalg.vector_norm(fast.moved() - moved) / torch.linalg.vector_norm(moved)
    times: Sequence[tuple[float, float]] = [(plain.step(x, y), fast.step(x, y)) for _ in range(repeats)]
    seconds, fast_seconds = (statistics.median(each) for each in zip(*times, strict=True))
    return FastGain(
        dict(settings), seconds, fast_seconds, max(0.0, first_fast - first_plain), float(difference)
    )


class _Trial:
    """Copies of two networks, which learn."""

    def __init__(
        self,
        network: MultiTaskNetwork,
        generator: LabelGenerator,
        settings: Mapping[str, Any],
        learning_rate: float,
    ) -> None:
        network, self.generator = copy.deepcopy((network, generator))
        layout = torch.channels_last if settings.get("channels_last") else torch.preserve_format
        network.to(memory_format=layout)
        self.generator.to(memory_format=layout)
        self.before = self._weights()
        self.learner = MetaAuxiliaryLearner(
            network,
            self.generator,
            torch.optim.SGD(network.parameters(), learning_rate),
            torch.optim.SGD(self.generator.parameters(), learning_rate),
            autocast=torch.bfloat16 if settings.get("precision") == "bf16" else None,
            compile=bool(settings.get("compile")),
        )

    def step(self, x: Tensor, y: Tensor) -> float:
        """Seconds of an iteration."""
        _wait(x.device)
        start = time.perf_counter()
        self.learner.step(x, y)
        _wait(x.device)
        return time.perf_counter() - start

    def moved(self) -> Tensor:
        """How far the generator's weights have come, float64."""
        return self._weights() - self.before

    def _weights(self) -> Tensor:
        return torch.cat([p.detach().flatten().double().cpu() for p in self.generator.parameters()])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
