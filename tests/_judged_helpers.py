"""Small data sets with a published test part, for every task and kind of input, and runs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from _data_helpers import pixels, write_folder, write_image
from _run_helpers import tiny
from _target_helpers import LABELS, columns, write_table
from maxl.experiments.runs.config import RunConfig

VOID = 200
CLASSES = ("-dash", "=formula", "cat")


def photographs(root: Path) -> tuple[RunConfig, Path]:
    """Three classes whose names a spreadsheet would take for formulas."""
    for part, count in (("train", 8), ("test", 5)):
        write_folder(root / part, CLASSES, count=count, size=(8, 8))
    return _config(root, trunk="convnet4", image_size=8, epochs=3), root / "test"


def finer(root: Path) -> tuple[RunConfig, Path]:
    """Classes with finer ones, which are to be told apart: two of them have the same name."""
    for part, count in (("train", 6), ("test", 3)):
        for i, name in enumerate(("cat/young", "dog/young", "cat/old", "dog/old")):
            for k, image in enumerate(pixels(count, 6, 6, seed=i)):
                write_image(root / part / name / f"{k}.png", image)
    return _config(root, primary="subclass"), root / "test"


def features(root: Path) -> tuple[RunConfig, Path]:
    """Numbers around a thousand million, as of Unix seconds, and classes that are numbers."""
    for part, rows, seed in (("train", 60, 0), ("test", 30, 1)):
        random = np.random.default_rng(seed)
        y = random.integers(0, 3, rows)
        x = 1.7e9 + 40 * y + random.normal(0, 10, rows)
        table = {"time": [f"{v:.3f}" for v in x], "b": random.normal(size=rows).round(3).tolist()}
        write_table(root / f"{part}.csv", table | {"label": (y * 5).tolist()})
    return _config(root), root / "test.csv"


def prices(root: Path) -> tuple[RunConfig, Path]:
    """Two numbers to predict, on scales that differ a thousandfold."""
    for part, rows, seed in (("train", 60, 0), ("test", 30, 1)):
        table = columns(rows, seed)
        write_table(root / f"{part}.csv", {name: table[name] for name in (*"abcd", "price", "depth")})
    return _config(root, primary=["price", "depth"]), root / "test.csv"


def colours(root: Path) -> tuple[RunConfig, Path]:
    """Three labels."""
    for part, rows, seed in (("train", 60, 0), ("test", 30, 1)):
        table = columns(rows, seed)
        write_table(root / f"{part}.csv", {name: table[name] for name in (*"abcd", *LABELS)})
    return _config(root, primary=list(LABELS)), root / "test.csv"


def tagged(root: Path) -> tuple[RunConfig, Path]:
    """Images of which a table says the paths and labels."""
    for part, count in (("train", 20), ("test", 9)):
        random = np.random.default_rng(count)
        labels = random.integers(0, 2, (count, 2))
        labels[0] = 1
        for i in range(count):
            image = pixels(1, 6, 6, seed=i)[0] // 4 + (labels[i].sum() * 90).astype(np.uint8)
            write_image(root / part / f"{i}.png", image)
        table = {"image": [f"{part}/{i}.png" for i in range(count)]}
        write_table(
            root / f"{part}.csv", table | {n: labels[:, i].tolist() for i, n in enumerate(LABELS[:2])}
        )
    return _config(root, primary=list(LABELS[:2])), root / "test.csv"


def scenes(root: Path) -> tuple[RunConfig, Path]:
    """Images of 10 by 8 pixels, a border of whose masks is to be ignored."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 5)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            mask = random.integers(0, 3, (8, 10)).astype(np.uint8)
            image = np.stack([mask * 100] * 3, 2)
            mask[0] = VOID
            Image.fromarray(image).save(root / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{i}.png")
    return _config(root, trunk="unet", batch_size=3, ignore_index=VOID, psi=[2]), root / "test"


CASES: dict[str, Callable[[Path], tuple[RunConfig, Path]]] = {
    one.__name__: one for one in (photographs, finer, features, prices, colours, tagged, scenes)
}


def _config(root: Path, **changes: object) -> RunConfig:
    return tiny(**{"data": str(root), "train_size": None, "batch_size": 8, "psi": [2], **changes})
