"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.tracking._folder import scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes ``RUN/tensorboard``; ``tensorboard --logdir RUN`` shows it.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        self._config = ""
        self._writer: SummaryWriter | None = None

    def start(self, config: Mapping[str, Any]) -> None:
        """Takes the settings, which stand under "text" beside the first epoch."""
        self._config = json.dumps(dict(config), indent=2)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Scalars of an epoch; in the viewer they replace those of the same and later epochs from before."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
            self._writer.add_text("config", _code(self._config), step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Closes the file, with the summary as text where there is one."""
        if self._writer is None:
            return
        if summary is not None:
            self._writer.add_text("summary", _code(json.dumps(scalars(summary), indent=2)))
        self._writer.close()


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())  # a block of code in Markdown
