"""What the two losses need to be, for the hypergradient to be theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients import Outputs, Signals, TrainingLoss, graph_nodes
from maxl.supervision import Losses, Supervision
from maxl.tasks import Task

Rows = tuple[Outputs, Tensor, Signals]  # of the same samples: outputs, targets, signals

TOLERANCE = 1e-3  # relative; rounding in float32 stays far below, a wrong normalisation far above
_FEW = 8  # rows that are looked at beside others


def primary_loss(task: Task) -> TrainingLoss:
    """L_pri as a function of what a training loss takes."""
    return lambda outputs, y, _: task.loss(outputs[0], y)


def check_part(losses: Sequence[TrainingLoss], part: Rows, before: Rows | None) -> Rows:
    """``check_mean`` of a part of a batch, beside some rows of the one before: a part may be a single sample, or of one class.

    Args:
        losses: Each of which is to be a mean over samples.
        part: The part, without a graph.
        before: What the call for the part before gave; None for the first.

    Returns:
        Some rows of this part, for the next one.

    Raises:
        ValueError: as ``check_mean``.
    """
    rows = part if before is None else _joined(before, part)
    for loss in losses:
        check_mean(loss, *rows)
    outputs, y, signals = part
    last = slice(-_FEW, None)  # copies, so that the part itself can go
    return tuple(o[last].clone() for o in outputs), y[last].clone(), tuple(s[last].clone() for s in signals)


def check_positions(before: Tensor, y: Tensor, theta: Sequence[Tensor]) -> None:
    """Samples of a dense task have as many positions in each part of a batch, for means over them to be means over samples.

    Args:
        before: Targets of the part before.
        y: Of this one.
        theta: Whose gradients that one has filled; where they have been dropped since, this is another batch.

    Raises:
        ValueError: if there are others.
    """
    one, other = before.shape[1:].numel(), y.shape[1:].numel()
    if one != other and any(p.grad is not None and bool(p.grad.any()) for p in theta):
        raise ValueError(
            "parts of a batch need samples with the same number of positions, since losses are means over them; got "
            f"{one} in a part and {other} in the next: pad all parts of a batch to the same length, with targets that are "
            "ignored, or step between the two"
        )


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
def check_mean(
    loss: TrainingLoss,
    outputs: Outputs,
    y: Tensor,
    signals: Signals,
    what: str = "a step on parts of a batch",
    instead: str = "",
) -> None:
    """Compares the loss with those of two parts, which costs passes over the outputs alone.

    Args:
        loss: A function of outputs, targets and signals.
        outputs, y, signals: Of N samples.
        what: Needs the mean, for the message.
        instead: What else to do, likewise.

    Raises:
        ValueError: if the loss of all samples is not the mean of two parts' losses by their number of samples.
    """
    if len(y) < 2:
        return
    targets = y.reshape(len(y), -1)[:, 0]
    order = targets.argsort()  # so that parts differ in whatever hangs on the target
    looks = [order]
    if len(y) > 2 * _FEW:  # among many samples a rare target makes no difference that is seen
        rows = torch.cat([_spread(order[_first_of_each(targets[order])]), _spread(order)])
        looks.append(rows[targets[rows].argsort()])
    for rows in looks:
        some = tuple(o.detach()[rows] for o in outputs), y[rows], tuple(s.detach()[rows] for s in signals)
        for whole, parts in _in_two(loss, some):
            if bool((whole - parts).abs() > TOLERANCE * whole.abs().clamp_min(1e-6)):
                raise ValueError(
                    f"{what} needs losses that are means over samples; got one that is {whole.item():.6g} on {len(rows)} "
                    f"samples and {parts.item():.6g} on two parts of them: do not sum, and do not divide by class weights, "
                    "sample weights or the samples that ignore_index leaves (weigh each sample's loss and take the mean)"
                    f"{instead}"
                )


def _in_two(loss: TrainingLoss, rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """The loss of all rows, and the mean of the losses of two parts by their number of rows, for each of some cuts."""
    outputs, y, signals = rows
    total = len(y)
    # Moved, as an untrained network's outputs are alike, and so are a generator's first signals.
    moved, weighed = tuple(_moved(o) for o in outputs), tuple(_weighed(s) for s in signals)

    def of(start: int, end: int) -> Tensor:
        at = slice(start, end)
        return loss(tuple(o[at] for o in moved), y[at], tuple(s[at] for s in weighed))

    whole = of(0, total)
    for cut in {total // 2, max(1, total // 3)}:  # halves may have the same share of a target
        yield whole, (cut * of(0, cut) + (total - cut) * of(cut, total)) / total


def _first_of_each(values: Tensor) -> Tensor:
    """Of sorted values, where each of them stands first: bool."""
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return first


def _spread(rows: Tensor) -> Tensor:
    """A few of the rows, evenly, the ends among them."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), _FEW), device=rows.device).round().long()]


def check_within(losses: Losses, network: nn.Module, optimizer: Optimizer) -> None:
    """Looks through the graph of the losses for what is trained and not the network's, such as a temperature.

    A meta step would take it as a constant, and with the value that it has then.

    Raises:
        ValueError: if there is a parameter, or another tensor that the optimizer holds.
    """
    known = {id(p) for p in network.parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for node in graph_nodes([losses.total()]):
        leaf = getattr(node, "variable", None)
        if (
            leaf is not None
            and id(leaf) not in known
            and (id(leaf) in held or isinstance(leaf, nn.Parameter))
        ):
            raise ValueError(
                "the network needs to hold all that its losses train; a loss depends on another trained tensor, of shape "
                f"{tuple(leaf.shape)}: make it a parameter of the network and its use a part of the "
                "pass, or a constant (requires_grad_(False))"
            )


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


def _joined(one: Rows, other: Rows) -> Rows:
    """The rows of both, where they fit together; else those of the other."""
    ours, theirs = ([*outputs, y, *signals] for outputs, y, signals in (one, other))
    count = len(one[0])
    if count != len(other[0]) or [t.shape[1:] for t in ours] != [t.shape[1:] for t in theirs]:
        return other
    rows = [torch.cat(pair) for pair in zip(ours, theirs, strict=True)]
    return tuple(rows[:count]), rows[count], tuple(rows[count + 1 :])


def _weighed(signals: Tensor) -> Tensor:
    """Other signals, of the same sign and no larger, by a factor that falls from row to row; classes as they are."""
    return signals * _falling(signals) if signals.is_floating_point() else signals


def _moved(outputs: Tensor) -> Tensor:
    """Other outputs than these, different from row to row and from part to part, without drawing random numbers."""
    steps = torch.arange(outputs.numel(), dtype=outputs.dtype, device=outputs.device)
    return outputs + _falling(outputs) * steps.sin().view(outputs.shape)


def _falling(like: Tensor) -> Tensor:
    """A factor for each row, from 1 down to 1/4: however many rows there are, two parts then differ."""
    factors = torch.linspace(1.0, 0.25, len(like), dtype=like.dtype, device=like.device)
    return factors.view(-1, *[1] * (like.dim() - 1))
