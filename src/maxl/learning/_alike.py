"""What each of several processes keeps for itself, and has to keep as the others do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.tasks import Task, is_dense
from maxl.worlds import World

Held = Sequence[tuple[nn.Module, Optimizer | None]]  # modules, each with what trains it

_FIRST, _EVERY = 2, 100  # steps: sums over all weights cost more than names
_ROUNDING = 1000  # what a million steps add up to as a random walk, in units of the last place
_MOST = 0.01  # of half precision, which rounds more than that
_CHUNK = 2**20  # entries that are summed at once: sums of other precision make copies
_HOW = ("capturable", "differentiable", "foreach", "fused", "initial_lr")  # not what a step is


def numbers(held: Held, steps: int) -> dict[str, int]:
    """What is the same in every step of every process, for ``World.share``; ``steps`` is how many were taken."""
    weights = [
        [(n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in m.named_parameters()] for m, _ in held
    ]
    optimizers = [optimizer for _, optimizer in held if optimizer is not None]
    groups = [[(len(g["params"]), _kinds(g)) for g in optimizer.param_groups] for optimizer in optimizers]
    return {
        "trained weights": _digest(weights),
        "settings of optimizers": _digest(groups),
        "states of optimizers": _digest([len(optimizer.state) for optimizer in optimizers]),
        "number of steps": steps & 0xFFFF,
    }


def positions(task: Task, y: Tensor) -> dict[str, int]:
    """Likewise, of a batch: the losses of a dense task are means over positions, and so over samples where all have as many."""
    return {"numbers of positions of a sample": _digest(y.shape[1:].numel())} if is_dense(task) else {}


def check(world: World, held: Held, steps: int) -> None:
    """In every process, before a step: weights may differ by what machines of other kinds round otherwise.

    Looks in the first two steps, as a state that was restored in one process alone has acted by the second, and in every
    hundredth.

    Args:
        world: The processes.
        held: As for ``numbers``, which were found alike.
        steps: How many were taken, the same everywhere.

    Raises:
        ValueError: in every process, if a weight or a setting of an optimizer differs.
    """
    if steps >= _FIRST and steps % _EVERY:
        return
    device = next(p.device for module, _ in held for p in module.parameters())
    names, mine, shares = [], [], []
    for module, _ in held:
        for name, p in module.named_parameters():
            if p.is_floating_point() or p.is_complex():
                names.append(f"weight {name} of {type(module).__name__}")
                mine.append(_measures(p.detach()).to(device))
                shares.append(min(_MOST, _ROUNDING * torch.finfo(p.dtype).eps))
    settings = [
        (f"{name} of an optimizer", value) for _, o in held if o is not None for name, value in _settings(o)
    ]
    told = torch.tensor([value for _, value in settings], dtype=torch.float64, device=device)
    (everybodys,), _ = world.gather(torch.cat([*mine, told])[None])
    first, *others = everybodys.tolist()
    # All processes judge by the numbers of the first, so that all of them raise or none.
    of_weights = [share * abs(first[2 * i]) for i, share in enumerate(shares) for _ in range(2)]
    allowed = [*of_weights, *(1e-9 * abs(value) for value in first[len(of_weights) :])]
    of_what = [*(name for name in names for _ in range(2)), *(name for name, _ in settings)]
    for rank, row in enumerate(others, 1):
        for what, one, other, most in zip(of_what, first, row, allowed, strict=True):
            if not _same(one, other, most):
                raise ValueError(
                    f"in several processes the {what} needs to be the same in each; got {one:.6g} in the first and {other:.6g} "
                    f"in process {rank} (of a weight its norm or its sum): load weights and optimizers' states in all of "
                    "them, and set the same learning rates"
                )


def _same(one: float, other: float, most: float) -> bool:
    if math.isfinite(one) and math.isfinite(other):
        return abs(one - other) <= most
    return one == other or (math.isnan(one) and math.isnan(other))


def _measures(weight: Tensor) -> Tensor:
    """Norm and sum."""
    real = torch.view_as_real(weight) if weight.is_complex() else weight
    pieces = torch.split(real.reshape(-1), _CHUNK) if real.numel() else ()
    sums = [piece.sum(dtype=torch.float64) for piece in pieces]
    norms = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in pieces]
    if not sums:
        return weight.new_zeros(2, dtype=torch.float64)
    return torch.stack([torch.stack(norms).norm(), torch.stack(sums).sum()])


def _settings(optimizer: Optimizer) -> Iterator[tuple[str, float]]:
    for group in optimizer.param_groups:
        for name in _names(group):
            for value in _flat(group[name]):
                if _is_number(value):
                    yield name, float(value)  # type: ignore[arg-type]


def _kinds(group: dict[str, object]) -> list[object]:
    """Names of settings, with those that are no numbers."""
    return [(name, [_kind(value) for value in _flat(group[name])]) for name in _names(group)]


def _kind(value: object) -> str:
    if _is_number(value):
        return "number"
    return repr(value) if value is None or isinstance(value, str | bool) else type(value).__name__


def _names(group: dict[str, object]) -> list[str]:
    return sorted(name for name in group if name not in ("params", "param_names", *_HOW))


def _flat(value: object) -> Sequence[object]:
    return value if isinstance(value, tuple | list) else (value,)


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def _digest(value: object) -> int:
    return crc32(repr(value).encode()) & 0xFFFF
