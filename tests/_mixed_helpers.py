"""Tables of images and other columns, in which a row's number stands in each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from _data_helpers import write_image
from maxl.experiments.runs.config import RunConfig

TYPES = {"age": "number", "colour": "category"}


def table(count: int = 60, **changed: list[Any]) -> pd.DataFrame:
    """Paths of images beside columns; ``age`` is the row, and missing in none."""
    rows = range(count)
    columns: dict[str, list[Any]] = {
        "image": [f"images/{i}.png" for i in rows],
        "age": [float(i) for i in rows],
        "colour": [["red", "green", "blue"][i % 3] for i in rows],
        "leak": [["no", "yes"][i // 2 % 2] for i in rows],
        "kind": [["no", "yes"][i // 2 % 2] for i in rows],
    }
    return pd.DataFrame({**columns, **changed})


def write(
    folder: Path, frame: pd.DataFrame, image: Callable[[int], np.ndarray] | None = None, name: str = "t.csv"
) -> str:
    """A CSV file and its images, grey of 4x4 by default, all pixels of row i at 2 i."""
    image = image or (lambda i: np.full((4, 4, 1), 2 * i, np.uint8))
    for i in range(len(frame)):
        if not (file := folder / "images" / f"{i}.png").exists():
            write_image(file, image(i))
    frame.to_csv(folder / name, index=False)
    return str(folder / name)


def config(file: str, **changes: Any) -> RunConfig:
    """A run on such a table that takes a moment."""
    values = {
        "data": file,
        "primary": "kind",
        "types": [f"{n}={k}" for n, k in TYPES.items()],
        "trunk": "mlp",
    }
    small = {"psi": [2], "epochs": 2, "batch_size": 20, "tensorboard": False, "device": "cpu"}
    return RunConfig.from_dict({**values, **small, **changes})


def own_trunk(input_shape: tuple[int, ...]) -> nn.Module:
    """As a user's function makes it: of the shape of images alone."""
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 7))
