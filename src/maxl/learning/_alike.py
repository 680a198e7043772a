"""What each of several processes keeps for itself, and has to keep as the others do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.worlds import World

_EVERY = 100  # steps; sums over all weights cost more than names
_ROUNDING = 1000  # what a million steps add up to as a random walk, in units of the last place
_MOST = 0.01  # of half precision, which rounds more than that


class Alike:
    """Modules and their optimizers, which no message of a step would show to differ between processes.

    What is trained, by which groups, how many steps were taken and how much an optimizer remembers is compared in every
    step (``World.share``); weights and the optimizers' settings in the first two, as a state that was restored in one
    process alone has acted by the second, and in every hundredth. Weights may differ by what machines of other kinds
    round otherwise.

    Args:
        world: The processes.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._held: list[tuple[nn.Module, Optimizer]] = []
        self._checks = 0

    def hold(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Gives a module the weights of the first process, and compares it and its optimizer from now on."""
        self._world.align(module)
        self._held.append((module, optimizer))

    def numbers(self, steps: int) -> dict[str, int] | None:
        """For ``World.share``; ``steps`` is how many were taken."""
        if self._world.alone:
            return None
        names = [[n for n, p in module.named_parameters() if p.requires_grad] for module, _ in self._held]
        optimizers = [optimizer for _, optimizer in self._held]
        groups = [[(len(g["params"]), *sorted(g)) for g in o.param_groups] for o in optimizers]
        state = [sum(len(of_one) for of_one in o.state.values()) for o in optimizers]
        return {
            "trained weights": _digest(names),
            "parameter groups": _digest(groups),
            "states of optimizers": _digest(state),
            "number of steps": _digest(steps),
        }

    def check(self) -> None:
        """In every process, once a step.

        Raises:
            ValueError: in every process, if weights or settings of an optimizer differ.
        """
        if self._world.alone:
            return
        self._checks += 1
        if self._checks > 2 and self._checks % _EVERY:
            return
        device = next(p.device for module, _ in self._held for p in module.parameters())
        rows = [row for module, _ in self._held for row in _measures(module, device)]
        settings = [of_one for _, optimizer in self._held for of_one in _settings(optimizer)]
        mine = torch.tensor([value for _, value in settings], dtype=torch.float64, device=device)
        (everybodys,), _ = self._world.gather(torch.cat([torch.stack([m for _, m, _ in rows]), mine])[None])
        names = [*(name for name, _, _ in rows), *(f"{name} of an optimizer" for name, _ in settings)]
        allowed = [*(a for _, _, a in rows), *(1e-9 * abs(value) for _, value in settings)]
        _compare(names, everybodys.tolist(), allowed)


def _digest(value: object) -> int:
    return crc32(repr(value).encode()) & 0xFFFF


def _measures(module: nn.Module, device: torch.device) -> Iterator[tuple[str, Tensor, float]]:
    """The sum and the norm of all weights, and how far each may be from that of another process."""
    weights = [p.detach() for p in module.parameters() if p.is_floating_point()]
    if not weights:
        return
    sums = torch.stack([w.sum(dtype=torch.float64).to(device) for w in weights]).sum()
    norms = [torch.linalg.vector_norm(w, dtype=torch.float64).to(device) for w in weights]
    norm = torch.stack(norms).norm()
    share = min(_MOST, _ROUNDING * max(torch.finfo(w.dtype).eps for w in weights))
    of = f"weights of {type(module).__name__}"
    yield f"sum of the {of}", sums, share * float(norm)
    yield f"norm of the {of}", norm, share * float(norm)


def _settings(optimizer: Optimizer) -> Iterator[tuple[str, float]]:
    """Numbers alone, such as ``lr``; ``numbers`` compares which ones there are."""
    for group in optimizer.param_groups:
        for name in sorted(group):
            values = group[name] if isinstance(group[name], tuple) else (group[name],)
            for value in values:
                if isinstance(value, int | float):
                    yield name, float(value)


def _compare(names: list[str], everybodys: list[list[float]], allowed: list[float]) -> None:
    first = everybodys[0]
    for rank, row in enumerate(everybodys):
        for name, one, other, most in zip(names, first, row, allowed, strict=True):
            if not (abs(one - other) <= most or one == other or (math.isnan(one) and math.isnan(other))):
                raise ValueError(
                    f"in several processes the {name} needs to be the same in each; got {one:.6g} in the first and {other:.6g} "
                    f"in process {rank}: load weights and states in all of them, and set the same rates"
                )
