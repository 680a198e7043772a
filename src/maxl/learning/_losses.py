"""What the two losses need to be, for the hypergradient to be theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients import Outputs, Signals, TrainingLoss
from maxl.supervision import Losses, Supervision

TOLERANCE = 1e-3  # relative; rounding in float32 stays far below, a wrong normalisation far above


@contextmanager
def gradients(*, wanted_anyway: bool = False) -> Iterator[None]:
    """A region in which autograd is at work.

    Args:
        wanted_anyway: Whether the caller may have switched it off by ``torch.no_grad()``, to log for instance.

    Raises:
        ValueError: if it is switched off for good.
    """
    if torch.is_inference_mode_enabled() or not (wanted_anyway or torch.is_grad_enabled()):
        where = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
        raise ValueError(f"a step needs gradients; got one within torch.{where}(): call it outside")
    with torch.enable_grad():
        yield


@torch.no_grad()
def check_mean(loss: TrainingLoss, outputs: Outputs, y: Tensor, signals: Signals) -> None:
    """Compares the loss with that of two halves, which costs passes over the outputs alone.

    Raises:
        ValueError: if the loss of all samples is not the mean of both halves' losses by their number of samples.
    """
    total = len(y)
    half = total // 2
    if half == 0:
        return
    # By target, so that halves differ in whatever hangs on it; and moved, as an untrained network's outputs are alike.
    order = y.reshape(total, -1)[:, 0].argsort()
    moved = tuple(_moved(o.detach()) for o in outputs)
    weighed = tuple(_weighed(s.detach()) for s in signals)  # a generator's first ones are alike, too

    def of(start: int, end: int) -> Tensor:
        rows = order[start:end]
        return loss(tuple(o[rows] for o in moved), y[rows], tuple(s[rows] for s in weighed))

    whole = of(0, total)
    parts = (half * of(0, half) + (total - half) * of(half, total)) / total
    if bool((whole - parts).abs() > TOLERANCE * whole.abs().clamp_min(1e-6)):
        raise ValueError(
            "a step on parts of a batch needs losses that are means over samples; got one that is "
            f"{whole.item():.6g} on all and {parts.item():.6g} by halves: use no sum, class weights or ignore_index "
            "there (weigh each sample's loss and take the mean instead)"
        )


def check_within(losses: Losses, network: nn.Module, optimizer: Optimizer) -> None:
    """Looks through the graph of the losses for what is trained and not the network's, such as a temperature.

    A meta step would take it as a constant, and with the value that it has then.

    Raises:
        ValueError: if there is a parameter, or another tensor that the optimizer holds.
    """
    known = {id(p) for p in network.parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    pending = [losses.total().grad_fn]
    seen = set(pending)
    while pending:
        node = pending.pop()
        leaf = getattr(node, "variable", None)
        if (
            leaf is not None
            and id(leaf) not in known
            and (id(leaf) in held or isinstance(leaf, nn.Parameter))
        ):
            raise ValueError(
                "the network needs to hold all that its losses train; got a loss that depends on another tensor of shape "
                f"{tuple(leaf.shape)} that is trained: make it a parameter of the network and its use a part of the "
                "pass, or a constant (requires_grad_(False))"
            )
        fresh = {parent for parent, _ in node.next_functions if parent is not None} - seen if node else set()
        seen |= fresh
        pending += fresh


def check_gate(losses: Losses, gated: bool, supervision: Supervision) -> None:
    """A gate scales the gradient of the auxiliary loss, and so its part of the hypergradient.

    Raises:
        ValueError: if the primary loss, which is not scaled, depends on the signals too.
    """
    if gated and losses.auxiliary is not None and not supervision.trains_on_outer_loss:
        raise ValueError(
            "a gate needs signals that the auxiliary loss alone depends on; got "
            f"{type(supervision).__name__}, whose primary loss takes them too: train without the gate"
        )


def joined(
    one: tuple[Outputs, Tensor, Signals], other: tuple[Outputs, Tensor, Signals]
) -> tuple[Outputs, Tensor, Signals]:
    """The rows of both, where they fit together; else those of the other."""
    ours, theirs = ([*outputs, y, *signals] for outputs, y, signals in (one, other))
    count = len(one[0])
    if count != len(other[0]) or [t.shape[1:] for t in ours] != [t.shape[1:] for t in theirs]:
        return other
    rows = [torch.cat(pair) for pair in zip(ours, theirs, strict=True)]
    return tuple(rows[:count]), rows[count], tuple(rows[count + 1 :])


def _weighed(signals: Tensor) -> Tensor:
    """Other signals, of the same sign and no larger, by a factor that differs from row to row; classes as they are."""
    if not signals.is_floating_point():
        return signals
    steps = torch.arange(len(signals), dtype=signals.dtype, device=signals.device)
    return signals * (0.75 + 0.25 * steps.sin()).view(-1, *[1] * (signals.dim() - 1))


def _moved(outputs: Tensor) -> Tensor:
    """Other outputs than these, different from row to row, without drawing random numbers."""
    steps = torch.arange(outputs.numel(), dtype=outputs.dtype, device=outputs.device)
    return outputs + steps.sin().view(outputs.shape)
