"""Small tables with numbers or labels to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("red", "green", "blue")


def write_table(file: Path, columns: dict[str, Sequence[Any]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    file.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    return file


def columns(rows: int = 80, seed: int = 0) -> dict[str, list[Any]]:
    """Features a to d; prices around 1000 that a and b tell; depths around −5 that c tells; three labels."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4)).round(4)
    noise = random.normal(size=rows)
    price = (1000 + 200 * x[:, 0] + 100 * x[:, 1] + 10 * noise).round(2)
    depth = (-5 + 0.3 * x[:, 2] + 0.01 * noise).round(4)
    labels = (x[:, :3] > 0.4).astype(int)
    table: dict[str, list[Any]] = {name: x[:, i].tolist() for i, name in enumerate("abcd")}
    table |= {"price": price.tolist(), "depth": depth.tolist()}
    return table | {name: labels[:, i].tolist() for i, name in enumerate(LABELS)}


def prices(folder: Path, rows: int = 80, **changes: list[Any]) -> Path:
    """A table with one number to predict, price."""
    every = columns(rows)
    kept = {name: every[name] for name in (*"abcd", "price")}
    return write_table(folder / "prices.csv", kept | changes)


def colours(folder: Path, rows: int = 80, **changes: list[Any]) -> Path:
    """A table with three labels."""
    every = columns(rows)
    kept = {name: every[name] for name in (*"abcd", *LABELS)}
    return write_table(folder / "colours.csv", kept | changes)
