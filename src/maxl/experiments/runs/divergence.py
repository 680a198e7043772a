"""Whether a run still is one: losses and weights that are finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maxl.experiments.runs.build import Setup
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.hypergradients import all_finite

_LOSSES = {"train_loss": "training", "validation_loss": "validation", "test_loss": "test"}


@contextmanager
def recorded_divergence(folder: RunFolder | None, epoch: int) -> Iterator[None]:
    """Within: if the epoch diverges, the folder says so, where there is one.

    Raises:
        FloatingPointError: as within; also where PyTorch refuses a number of a step that float32 does not hold.
    """
    try:
        try:
            yield
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise FloatingPointError(
                f"a step needs numbers that float32 holds; a rate, a weight or their product does not: {_ADVICE}"
            ) from error
    except FloatingPointError as error:
        if folder is not None:
            folder.write_divergence(epoch, str(error))
        raise


@contextmanager
def recorded_preparation(folder: RunFolder, config: RunConfig, *, writes: bool) -> Iterator[None]:
    """Within: if networks that are trained before a run diverge, its folder says so, as of a run that did.

    Args:
        folder: Of the run.
        config: Of the run.
        writes: Whether this process writes.

    Raises:
        FloatingPointError: as within.
    """
    try:
        yield
    except FloatingPointError as error:
        if writes:
            folder.create(config)
            folder.write_divergence(0, str(error))
        raise


def require_finite(row: dict[str, Any], setup: Setup) -> None:
    """Checks the end of an epoch, on every device.

    Args:
        row: Its metrics.
        setup: Network and generator after it.

    Raises:
        FloatingPointError: if a loss or a weight is not finite.
    """
    for name, word in _LOSSES.items():
        value = row.get(name)
        if value is not None and not abs(value) < float("inf"):
            raise FloatingPointError(f"the {word} loss needs to be finite; got {value}: {_ADVICE}")
    for module, word in ((setup.network, "network"), (setup.generator, "label generator")):
        if module is None:
            continue
        if not all_finite(module.state_dict().values()):
            raise FloatingPointError(f"the weights of the {word} need to be finite; some are not: {_ADVICE}")


_ADVICE = "lower --learning-rate"
