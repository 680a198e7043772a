"""The folder of one run: what it holds, written so that an interruption leaves nothing half-done."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maxl.experiments.runs.config import RunConfig


class RunFolder:
    """Paths and files of a run.

    | file | what |
    |---|---|
    | config.yaml | everything needed to repeat the run |
    | metrics.jsonl | one line an epoch |
    | summary.json | the result; its presence means that the run is finished |
    | checkpoint/state.pt | resumable state, loads with ``weights_only=True`` |
    | model.safetensors | trunk and primary head |
    | text.safetensors | of a run on text: how features are made of it |
    | snapshot.npz | features and gallery for the report |
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.checkpoint = path / "checkpoint" / "state.pt"
        self.model = path / "model.safetensors"
        self.text = path / "text.safetensors"
        self.snapshot = path / "snapshot.npz"
        self.tensorboard = path / "tensorboard"

    @property
    def started(self) -> bool:
        """Whether a run has begun to write here."""
        return self.config.exists() or self.metrics.exists() or self.summary.exists()

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.summary.exists()

    def require_free(self) -> None:
        """ValueError if the folder holds a run already or cannot be one."""
        if self.started:
            raise ValueError(
                f"--out needs a folder without a run; {self.path} holds one: "
                f"choose another, or continue it with --resume {self.path}"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out needs a folder; {self.path} is a file")

    def create(self, config: RunConfig) -> None:
        """Makes the folder and writes its config."""
        self.path.mkdir(parents=True, exist_ok=True)
        config.write(self.config)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """One line; NaN is written as null, which JSON knows."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(_plain(row)) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines so far; one that an interruption cut off in the middle does not count."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_metrics(self, epochs: int) -> None:
        """Drops lines after ``epochs``: what was written after the last checkpoint will be written again."""
        rows = [row for row in self.read_metrics() if row["epoch"] <= epochs]
        write_at_once(self.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The result, at once or not at all."""
        write_at_once(self.summary, (json.dumps(_plain(summary), indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any]:
        """The result."""
        result: dict[str, Any] = json.loads(self.summary.read_text())
        return result

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """The state after an epoch, at once or not at all."""
        self.checkpoint.parent.mkdir(exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(dict(state), partial)
        os.replace(partial, self.checkpoint)

    def load_checkpoint(self, device: torch.device) -> dict[str, Any]:
        """The last state; executes no code from the file."""
        if not self.checkpoint.exists():
            raise ValueError(
                f"--resume needs a checkpoint; {self.checkpoint} does not exist: start again in a new --out"
            )
        state: dict[str, Any] = torch.load(self.checkpoint, map_location=device, weights_only=True)
        return state

    def save_model(self, tensors: Mapping[str, Tensor]) -> None:
        """What inference needs and no more."""
        from safetensors.torch import save

        write_at_once(self.model, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))


def require_no_run_file(path: Path) -> None:
    """ValueError if writing to a path would replace a file that a run consists of."""
    place = path.resolve()
    for folder in (place.parent, place.parent.parent):  # the checkpoint lies one level deeper
        run = RunFolder(folder)
        files = (run.config, run.metrics, run.summary, run.checkpoint, run.model, run.text, run.snapshot)
        if run.started and any(
            place == file or (place.exists() and file.exists() and place.samefile(file)) for file in files
        ):
            raise ValueError(f"--out would replace a file of the run {run.path}: {path}; choose another name")


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import maxl

    return {
        "maxl": maxl.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def write_at_once(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
