"""Weights & Biases, online or offline as its own environment variables say."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.tracking._folder import read_id, run_name, scalars, write_id

if TYPE_CHECKING:
    from wandb import Run

_logger = logging.getLogger(__name__)


class WandB:
    """Logs to project ``WANDB_PROJECT`` or "maxl"; ``WANDB_MODE=offline`` writes files for ``wandb sync`` alone.

    These files lie in ``RUN/wandb`` unless ``WANDB_DIR`` says otherwise. The run's id is kept in ``RUN/tracking/wandb.id``:
    a run that goes on is continued there. Runs of a study are a group of their own.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run: Run | None = None
        self._last = 0  # epoch that the server has already

    def start(self, config: Mapping[str, Any]) -> None:
        """Opens a run, or the one that was interrupted.

        Raises:
            RuntimeError: where nobody is logged in and the mode is not offline: nobody is asked in the middle of a run.
            wandb.errors.Error: if the server cannot be reached.
        """
        import wandb

        settings = wandb.Settings(console="off", silent=True)
        offline = os.environ.get("WANDB_MODE", "online") != "online"
        if not offline and wandb.api.api_key is None:
            raise RuntimeError("nobody is logged in: call `wandb login` first, or set WANDB_MODE=offline")
        kept = read_id(self.folder, "wandb")
        if kept is None:
            write_id(self.folder, "wandb", kept := os.urandom(6).hex())
        name, group = run_name(self.folder)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "maxl"),
            id=kept,
            resume="allow",
            name=name,
            group=group,
            dir=os.environ.get("WANDB_DIR", str(self.folder)),
            config=dict(config),
            reinit="create_new",
            settings=settings,
        )
        if not offline:  # where files alone are written, nobody knows what a server has of the run
            self._last = max(0, int(self._run.step) - 1)
            _logger.info("Weights & Biases: %s", self._run.url)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of an epoch, which is the step; one that the server has already is left as it is."""
        assert self._run is not None  # start comes first
        if step > self._last:
            self._run.log({**metrics, "epoch": step}, step=step)
            self._last = step

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """The summary's numbers and texts, and the end of the run: marked as failed where it stopped before its end."""
        assert self._run is not None  # start comes first
        if summary is not None:
            self._run.summary.update(scalars(summary))
        self._run.finish(exit_code=0 if summary is not None else 1)
