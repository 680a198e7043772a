"""Does the double gradient come out right on these networks, by which method, and at what cost?

Everything is tried on copies. Three yardsticks that share no code with one another are used: the other
methods, a float64 reference, and central differences of the loss after a step of the real optimizer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.check import _yardsticks as yardsticks
from maxl.check._case import (
    AttentionDropout,
    Case,
    Gradient,
    explain,
    norm,
    relative_difference,
)
from maxl.check._suspects import suspects
from maxl.hypergradients import WAYS, Inputs, OuterLoss, RandomState, as_inputs, device_of, tensors_of
from maxl.losses import AuxiliaryLoss, focal_loss

_EXACT = ("forward", "reverse")
_STEP = "single-task step"
_DISAGREEMENT = 0.05  # relative; beyond it two gradients are different things


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method on one pair of networks.

    Attributes:
        method: As ``maxl.hypergradient`` takes it.
        works: It gave finite gradients.
        relative_error: ‖h − h*‖ / ‖h*‖ to the reference h*, over all of θ₂; None if unknown.
        seconds: Median time of one hypergradient; None if it does not work.
        step_ratio: ``seconds`` over those of a plain single-task training step.
        note: What stands in its way, or empty.
    """

    method: str
    works: bool
    relative_error: float | None = None
    seconds: float | None = None
    step_ratio: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class HypergradientReport:
    """What ``check_hypergradient`` found; ``str`` of it is a short table.

    Attributes:
        rows: One per method.
        recommended: The method to pass as ``hypergradient=``; None if none can be trusted here.
        reference: How the reference h* was computed; None if it could not be.
        reference_norm: ‖h*‖.
        central_difference_error: Relative difference between h* and central differences of the loss after
            the real optimizer's step, along random directions of θ₂; None if it could not be computed.
        sensitivity: Relative change of h* when the network's weights move until its outputs change as
            much as rounding in the networks' own precision changes them: no method can be expected to be
            more exact than that, and nor can the plain gradient.
        step_seconds: Median time of a plain single-task training step; None if it fails.
        suspects: What in the network may hide a derivative, by name, and what becomes of it.
        notes: What a user should know about these networks.
    """

    rows: tuple[MethodResult, ...]
    recommended: str | None
    reference: str | None
    reference_norm: float | None
    central_difference_error: float | None
    sensitivity: float | None
    step_seconds: float | None
    notes: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'method':<18} {'works':<6} {'rel. error':>10} {'seconds':>9} {'x step':>7}  note"]
        lines += [
            f"{row.method:<18} {'yes' if row.works else 'no':<6} {_number(row.relative_error, '.1e'):>10} "
            f"{_number(row.seconds, '.4f'):>9} {_number(row.step_ratio, '.2f'):>7}  {row.note}".rstrip()
            for row in self.rows
        ]
        lines.append("")
        lines.append(f"recommended        {self.recommended or 'none: see the notes'}")
        lines.append(
            f"reference          {self.reference or 'none'}, norm {_number(self.reference_norm, '.2e')}; "
            f"central differences of a real step differ by {_number(self.central_difference_error, '.1e')}"
        )
        lines.append(
            f"sensitivity        {_number(self.sensitivity, '.1e')} to rounding of the network's outputs"
        )
        lines.append(f"single-task step   {_number(self.step_seconds, '.4f')} s")
        lines += [f"suspect: {suspect}" for suspect in self.suspects]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def check_hypergradient(
    network: nn.Module,
    generator: nn.Module,
    x: Inputs,
    y: Tensor,
    *,
    learning_rate: float = 0.01,
    optimizer: Optimizer | None = None,
    primary_loss: OuterLoss = focal_loss,
    auxiliary_loss: AuxiliaryLoss = focal_loss,
    repeats: int = 3,
    directions: int = 1,
) -> HypergradientReport:
    """Compares the hypergradient methods on one's own networks, and recommends one; changes nothing.

    Args:
        network: Maps x to (primary, auxiliary) logits.
        generator: Maps (x, y) to labels of shape (N, K), or to (labels, weights).
        x: A training batch, as the networks take it.
        y: Its primary labels.
        learning_rate: α of the lookahead; not used when ``optimizer`` is given.
        optimizer: Look ahead with this optimizer's next step (SGD, Adam or AdamW).
        primary_loss, auxiliary_loss: As for ``maxl.hypergradient``.
        repeats: Timed runs of each method, at least 1; the median counts.
        directions: Random directions for central differences; 0 leaves them out.

    Raises:
        ValueError: if the networks cannot be copied, or ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats needs to be at least 1; got {repeats}")
    if optimizer is None:
        weights = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=learning_rate)
    case = Case(
        network=network,
        generator=generator,
        optimizer=optimizer,
        x=as_inputs(x),
        y=y,
        primary_loss=primary_loss,
        auxiliary_loss=auxiliary_loss,
        random=RandomState.capture(device_of(x)),
    ).copied()
    named = suspects(network, case)
    notes = _observe(case)
    precise, rounding = yardsticks.precise(case)
    if rounding is None:
        notes.append(
            "the outputs in float64 differ by more than rounding (random numbers drawn per precision, or an "
            "operator of fixed precision): the reference is in the networks' own precision"
        )
    by, exact = yardsticks.reference(precise)
    if exact is not None and norm(exact) == 0.0:
        notes.append(
            "the hypergradient is exactly zero: in one step the labels do not reach the primary loss"
        )
        exact = None
    differences = sensitivity = None
    if by is not None and exact is not None:
        if directions:
            differences = yardsticks.central_difference_error(precise, exact, directions)
        if rounding is not None:
            sensitivity = yardsticks.sensitivity(precise, by, exact, max(rounding, case.epsilon / 2))
    rows, step_seconds = _compare(case, exact, repeats)
    if differences is not None and differences > _DISAGREEMENT:
        notes.append("central differences of a real step disagree with the reference: trust no method here")
    if sensitivity is not None and sensitivity > math.sqrt(case.epsilon):
        notes.append(
            f"rounding alone moves the hypergradient by about {sensitivity:.0e}, as kinks of ReLU and max "
            "pooling do in deep networks: errors of that size are no fault of a method"
        )
    precision = str(precise.theta()[0].dtype).removeprefix("torch.")
    return HypergradientReport(
        rows=tuple(rows),
        recommended=_recommend(rows, case.epsilon, sensitivity, differences),
        reference=None if by is None else f"{by} in {precision}",
        reference_norm=None if exact is None else norm(exact),
        central_difference_error=differences,
        sensitivity=sensitivity,
        step_seconds=step_seconds,
        notes=tuple(notes),
        suspects=tuple(named),
    )


def _observe(case: Case) -> list[str]:
    """What a user should know before any derivative is taken."""
    notes = []
    fixed = {str(x.dtype): None for x in tensors_of(case.x) if not x.is_floating_point()}
    if fixed:
        notes.append(f"inputs of {' and '.join(fixed)} are passed on as they are")
    try:
        with AttentionDropout() as attention:
            first = case.outputs()
        second = case.outputs()
    except Exception as error:
        return [*notes, f"the networks refuse this batch: {explain(error)}"]
    if any(not torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        notes.append("two passes with the same random numbers differ: expect errors of that size")
    if attention.seen and device_of(case.x).type == "cuda":
        notes.append(
            "attention with dropout: fused kernels of the training step draw other masks than the meta step "
            "with its math kernel; run training under sdpa_kernel(SDPBackend.MATH) to be exact"
        )
    return notes


def _compare(case: Case, exact: Gradient | None, repeats: int) -> tuple[list[MethodResult], float | None]:
    """Each method once for its result, then all in turn for the times: a busy machine hits them alike."""
    rows: dict[str, MethodResult] = {}
    runs: dict[str, Callable[[], object]] = {}
    for method in WAYS:
        rows[method] = _try(case, method, exact)
        if rows[method].works:
            runs[method] = partial(case.hypergradient, method)
    trial = case.copied()
    try:
        trial.single_task_step()  # once to warm up
    except Exception:  # _observe noted it, and every row says the same
        return list(rows.values()), None
    runs[_STEP] = trial.single_task_step
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(_seconds(run, device_of(case.x)))
    step = statistics.median(times[_STEP])
    for method in rows.keys() & times.keys():
        seconds = statistics.median(times[method])
        rows[method] = replace(rows[method], seconds=seconds, step_ratio=seconds / step)
    return list(rows.values()), step


def _try(case: Case, method: str, exact: Gradient | None) -> MethodResult:
    """One method's result, without its times."""
    before = case.state()
    try:
        found = case.hypergradient(method)
    except Exception as error:
        return MethodResult(method=method, works=False, note=explain(error))
    if not all(bool(h.isfinite().all()) for h in found):
        return MethodResult(method=method, works=False, note="the result is not finite")
    after = case.state()
    changed = [name for name in after if name not in before or not torch.equal(before[name], after[name])]
    note = (
        f"changes {changed[0]}" + (f" and {len(changed) - 1} more" if changed[1:] else "") if changed else ""
    )
    gap = None if exact is None else relative_difference(found, exact)
    return MethodResult(method=method, works=True, relative_error=gap, note=note)


def _recommend(
    rows: Sequence[MethodResult], epsilon: float, sensitivity: float | None, differences: float | None
) -> str | None:
    """The fastest exact method within rounding; failing that, finite differences if they are close."""
    if differences is not None and differences > _DISAGREEMENT:
        return None
    bound = max(math.sqrt(epsilon), 10 * (sensitivity or 0.0))
    for methods, limit in ((_EXACT, bound), (("finite-difference",), _DISAGREEMENT)):
        good = [r for r in rows if r.method in methods and r.works and (r.relative_error or 0.0) <= limit]
        if good:
            return min(good, key=lambda row: row.seconds or math.inf).method
    return None


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
