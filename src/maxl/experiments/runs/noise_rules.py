"""Which settings go together where given labels are partly wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxl.experiments.runs.methods import JUDGED_METHODS, NOISE_METHODS
from maxl.experiments.runs.values import flag

if TYPE_CHECKING:
    from maxl.experiments.runs.config import RunConfig


def check_noise(config: RunConfig) -> None:
    """ValueError if a value is outside its range, or a method lacks what it judges by."""
    for name in ("effective_samples", "confidence"):
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{flag(name)} needs to be above 0 and below 1; got {getattr(config, name)}")
    if not 0 < config.keep_part <= 1:
        raise ValueError(f"--keep-part needs to be above 0 and at most 1; got {config.keep_part}")
    if config.trusted_epochs is not None and config.trusted_epochs < 0:
        raise ValueError(f"--trusted-epochs needs to be at least 0; got {config.trusted_epochs}")
    if config.method not in NOISE_METHODS:
        return
    method, alone = config.method, config.epochs_on_trusted
    if config.trusted is None and method in ("trusted-only", "fine-tuned"):
        raise ValueError(
            f"--method {method} trains on samples whose labels are right: name the column that says which, with --trusted"
        )
    if method == "fine-tuned" and not alone:
        raise ValueError(
            "--method fine-tuned ends on trusted samples: use it without --trusted-epochs 0, or single"
        )
    if method != "trusted-only" and alone >= config.epochs:
        raise ValueError(
            f"--trusted-epochs needs to leave epochs for all samples; got {alone} of {config.epochs}: use --method "
            "trusted-only, or more --epochs"
        )
    if alone and config.patience is not None and method != "trusted-only":
        raise ValueError(
            f"--method {method} ends on trusted samples, which --patience would keep it from: add --trusted-epochs 0"
        )
    if alone and config.warmup >= config.epochs - alone and method != "trusted-only":
        raise ValueError(
            f"--warmup needs to end before the epochs on trusted samples, at {config.epochs - alone}; got {config.warmup:g}"
        )
    if method in JUDGED_METHODS:
        _check_judged(config)


def _check_judged(config: RunConfig) -> None:
    method = config.method
    if config.trusted is None and config.evaluate not in ("held-out", "rotating"):
        raise ValueError(
            f"--method {method} is judged by other samples than it trains on: name trusted ones with --trusted, or use "
            "--evaluate held-out or rotating"
        )
    if config.trusted is not None and config.evaluate != "same":
        raise ValueError(
            f"--method {method} is judged by the trusted samples: drop --evaluate {config.evaluate}, or --trusted"
        )
    if config.schedule != "iteration" or config.cache_labels:
        other = "--cache-labels" if config.cache_labels else f"--schedule {config.schedule}"
        raise ValueError(f"--method {method} takes a meta step after each step: drop {other}")
