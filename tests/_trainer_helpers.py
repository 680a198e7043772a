"""Trainers of tiny runs on digits with finer classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from _run_helpers import digits, tiny
from maxl.experiments.data import DataSet, Split
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.trainer import Trainer


def with_human(data: DataSet) -> DataSet:
    """Odd and even positions as finer classes, which digits lack."""

    def finer(split: Split) -> Split:
        return Split(split.x, split.primary, split.primary * 2 + torch.arange(len(split)) % 2)

    names = tuple(f"{name}{half}" for name in data.primary_names for half in "ab")
    parts = {"train": finer(data.train), "test": finer(data.test), "human_names": names}
    return DataSet(**{**vars(data), **parts})


DATA = with_human(digits())


def trainer(path: Path, **changes: Any) -> Trainer:
    return Trainer(tiny(**changes), RunFolder(path), DATA)
