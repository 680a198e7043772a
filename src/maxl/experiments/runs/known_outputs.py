"""What a trained network gives for two fixed inputs, kept with its run: a trunk that is built otherwise later gives something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maxl.experiments.runs.evaluation import evaluating
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.experiments.runs.token_trunk import TokenTrunk
from maxl.hypergradients import RandomState

_INPUTS, _KEPT = 2, 8  # inputs, and outputs of each that are kept
_CLOSE = 1e-3  # of the largest output: what other machines round otherwise
_CLOSE_ROUNDED = 3e-2  # the same where TF32 was allowed


def known_outputs(
    trunk: nn.Module, primary_head: nn.Module, input_shape: Sequence[int], device: torch.device
) -> list[float] | None:
    """Some outputs in eval mode for inputs that are the same wherever they are made.

    Args:
        trunk: From normalised inputs, or tokens, to features.
        primary_head: From features to outputs.
        input_shape: Of one input.
        device: Of both.

    Returns:
        At most eight of the outputs of each input; None where the network says nothing certain of such inputs: it fails, or
        gives no finite numbers, or others from call to call.
    """
    try:
        with RandomState.capture(device).replay():
            first, second = (_outputs(trunk, primary_head, input_shape, device, seed) for seed in (0, 1))
    except Exception:  # whatever a user's own trunk raises for inputs that are none of its data
        return None
    finite = bool(first.isfinite().all())
    return first.tolist() if finite and _differ(first, second) <= _CLOSE else None


def require_known(
    trunk: nn.Module, primary_head: nn.Module, input_shape: Sequence[int], told: Mapping[str, Any], run: Path
) -> None:
    """ValueError unless a network that was built again, on the CPU, is the one that was trained.

    Args:
        trunk, primary_head, input_shape: As for ``known_outputs``, with the weights of the run.
        told: The run's summary; an older version's says nothing, and nothing is compared.
        run: Its folder, for the message.
    """
    expected = told.get("known_outputs")
    if expected is None:
        return
    cpu, why = torch.device("cpu"), ""
    try:
        with RandomState.capture(cpu).replay():
            found = _outputs(trunk, primary_head, input_shape, cpu, 0)
    except Exception as error:  # as above
        if is_out_of_memory(error):
            raise
        why = f"it fails with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    else:
        then = torch.tensor(expected, dtype=torch.float64)
        apart = _differ(found, then) if found.shape == then.shape else math.inf
        if apart <= (_CLOSE if told.get("precision", "float32") == "float32" else _CLOSE_ROUNDED):
            return
        why = f"on two fixed inputs its outputs differ by {apart:.2g} of the largest"
    raise ValueError(
        f"the trunk of {run} is not what was trained: {why}; its code has changed since, or it holds numbers that are no "
        "parameters or buffers of its state: put the code back, or train the run again"
    )


def _outputs(
    trunk: nn.Module, primary_head: nn.Module, shape: Sequence[int], device: torch.device, seed: int
) -> Tensor:
    """A few, float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(trunk, TokenTrunk):
        x = trunk.random_tokens(_INPUTS, generator)
    else:
        # Uniform draws are alike on all machines.
        x = 4 * torch.rand(_INPUTS, *shape, generator=generator) - 2
    torch.manual_seed(seed)  # of a trunk that draws at inference
    with evaluating(trunk, primary_head):
        outputs = primary_head(trunk(x.to(device)).movedim(1, -1)).flatten(1)  # of pixels, too
    some = torch.linspace(0, outputs.shape[1] - 1, min(_KEPT, outputs.shape[1])).long()
    kept: Tensor = outputs.float().cpu()[:, some].flatten().double()
    return kept


def _differ(one: Tensor, other: Tensor) -> float:
    """By how much, as a share of the largest output, or of 1; infinity where there is none."""
    apart = float((one - other).abs().max() / other.abs().max().clamp_min(1))
    return math.inf if math.isnan(apart) else apart
