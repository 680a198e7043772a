"""Weights and settings for runs that start from something, and keep their best epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from _run_helpers import digits, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.data import DataSet
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import Trainer


def trunk_of(run: Path) -> dict[str, torch.Tensor]:
    return {n.removeprefix("trunk."): t for n, t in model(run).items() if n.startswith("trunk.")}


def write_weights(file: Path, *, before: str = "", **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights of an mlp trunk in a file, and returned."""
    torch.manual_seed(7)
    weights = Trainer(
        tiny(method="single", seed=9), RunFolder(file.parent / "none"), digits()
    ).setup.network.trunk
    state = {name: t + 0.01 for name, t in weights.state_dict().items()}
    save_file({**{before + name: t for name, t in state.items()}, **more}, file)
    return state


def with_validation(**changes: Any) -> tuple[RunConfig, DataSet]:
    config = tiny(validation_size=60, **changes)
    return config, load_data(config)
