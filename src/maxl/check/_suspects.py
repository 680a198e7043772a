"""What in a network may hide a derivative, by name, and what becomes of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.function import BackwardCFunction, Function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from maxl.check._case import Case
from maxl.hypergradients import as_tuple, graph_nodes, in_float
from maxl.learning import check_mean


def suspects(network: nn.Module, case: Case) -> list[str]:
    """One line each; empty for a network of plain layers.

    Args:
        network: The user's own, whose hooks a copy would not have.
        case: Copies to try things on.
    """
    with case.random.replay():
        return [*_hooks(network), *_of_a_pass(case.copied()), *_of_losses(case.copied())]


def _hooks(network: nn.Module) -> Iterator[str]:
    for name, p in network.named_parameters():
        if p.requires_grad and (p._backward_hooks or p._post_accumulate_grad_hooks):
            yield f"{name} has a hook on its gradient: a learner refuses it, since the update would be another one"
    for name, m in network.named_modules():
        label = name or type(m).__name__
        if m._backward_hooks or m._backward_pre_hooks:
            yield f"{label} has a backward hook: only reverse mode sees it, and takes over"
        if isinstance(m, _BatchNorm) and type(m).forward is not _BatchNorm.forward:
            yield f"{label} is BatchNorm with code of its own: its buffers are copied for every pass of a meta step"


class _Watch(TorchFunctionMode):
    """Within: notes calls that gradients do not pass as values do."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: dict[str, None] = {}
        self.hidden: dict[str, None] = {}
        self.hooks = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if isinstance(func, (OpOverload, OpOverloadPacket)) and not str(func).startswith(("aten.", "prims.")):
            self.operators[str(func)] = None
        if func in (Tensor.detach, torch.detach) or func is Tensor.data.__get__:  # type: ignore[attr-defined]
            self.hidden["detach"] = None
        if not torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            self.hidden["torch.no_grad"] = None
        self.hooks |= func is Tensor.register_hook
        return func(*args, **(kwargs or {}))


def _of_a_pass(case: Case) -> Iterator[str]:
    network = case.network
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    watch = _Watch()
    try:
        with torch.enable_grad(), case.random.replay():
            started = random.getstate(), _drawn(numpy)
            with watch:
                outputs = as_tuple(network(case.x))
            ended = random.getstate(), _drawn(numpy)
    except Exception:  # the report's rows say what stands in the way of a pass
        return
    for operator in watch.operators:
        yield f"{operator} is an operator from elsewhere: reverse mode takes over, as it may drop tangents silently"
    if watch.hooks:
        yield "a tensor inside the network gets a hook on its gradient: only reverse mode sees it, and takes over"
    for what in watch.hidden:
        yield f"{what} hides values from gradients: forward and reverse mode honour it, finite differences cannot"
    for name in _functions(outputs):
        yield name
    for which, before, after in zip(("Python's random", "numpy.random"), started, ended, strict=True):
        if before != after:
            yield f"the network draws from {which}: its global generator is replayed, others cannot be"
    own = {
        id(b)
        for m in network.modules()
        if isinstance(m, _BatchNorm) and type(m).forward is _BatchNorm.forward
        for b in m.buffers(recurse=False)
    }
    moved = [n for n, b in network.named_buffers() if id(b) not in own and not torch.equal(b, buffers[n])]
    if moved:
        yield f"a training pass moves the buffers {', '.join(moved)}: a meta step starts from where they were"
    with torch.no_grad(), case.random.replay():
        for name, b in network.named_buffers():
            b.copy_(buffers[name])
        again = as_tuple(network(case.x))
    gap = max(float((a.detach() - b).abs().max()) for a, b in zip(outputs, again, strict=True))
    size = max(float(o.detach().abs().max()) for o in outputs)
    if gap > case.epsilon**0.5 * size:
        yield (
            f"a pass with the same random numbers and buffers gives other outputs (by {gap:.1e}): a learner refuses it; "
            "draw by torch, random or numpy's global generator, and keep what changes in buffers"
        )


def _drawn(numpy: Any) -> tuple[Any, ...] | None:
    """NumPy's global state as something that can be compared."""
    if numpy is None:
        return None
    state = numpy.get_state(legacy=False)
    return state["state"]["pos"], state["state"]["key"].tobytes(), state["has_gauss"]


def _functions(outputs: Sequence[Tensor]) -> Iterator[str]:
    """Custom autograd functions in the graph of a pass."""
    named = set()
    for node in graph_nodes(outputs):
        if isinstance(node, BackwardCFunction):
            kind = node._forward_cls  # type: ignore[attr-defined]
            if kind.__name__ == "CheckpointFunction":
                named.add("a reentrant activation checkpoint: refused; use_reentrant=False works")
            elif kind.jvp is Function.jvp:
                named.add(f"{kind.__name__} has no jvp: reverse mode takes over")
            else:
                named.add(
                    f"{kind.__name__} brings its own derivatives: compared with gradients at the first meta step"
                )
    yield from sorted(named)


def _of_losses(case: Case) -> Iterator[str]:
    def both(outputs: tuple[Tensor, ...], y: Tensor, signals: tuple[Tensor, ...]) -> Tensor:
        return case.primary_loss(outputs[0], y) + case.auxiliary_loss(outputs[1], *signals)

    try:
        signals = as_tuple(case.generator(case.x, case.y))
        outputs = in_float(case.network(case.x))
    except Exception:  # as above
        return
    try:
        check_mean(both, outputs, case.y, signals)
    except ValueError:
        yield "the losses are no means over samples: refused for a batch in parts and in several processes"
