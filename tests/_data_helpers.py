"""Small data sets written to disk in the layouts in which the real ones are published."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maxl.experiments.data import Split

COARSE_NAMES = tuple(f"coarse{i:02d}" for i in range(20))
FINE_NAMES = tuple(f"fine{i:02d}" for i in range(100))


def pixels(count: int, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random images, uint8, shape (N, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    """One image (H, W, C) as a PNG file."""
    stream = BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(stream, format="png")
    return stream.getvalue()


def write_image(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(image))


def write_parquet(
    file: Path,
    image_column: str,
    images: np.ndarray,
    labels: Mapping[str, Sequence[int]],
    names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """A parquet file in the hub's layout: images as {bytes, path}, class names in the metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, Any] = {
        image_column: pa.array([{"bytes": png(image), "path": None} for image in images], type=kind)
    }
    columns |= {name: pa.array(list(values), type=pa.int64()) for name, values in labels.items()}
    features: dict[str, Any] = {image_column: {"_type": "Image"}}
    for name in labels:
        known = (names or {}).get(name)
        features[name] = (
            {"names": list(known), "_type": "ClassLabel"} if known else {"dtype": "int64", "_type": "Value"}
        )
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), file)


def write_cifar100_parquet(folder: Path, per_fine_class: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-100 in the hub's layout, two training shards; fine class f has the superclass f // 5.

    Returns: training images (N, H, W, C) and their fine labels (N,).
    """
    fine = np.random.default_rng(1).permutation(np.repeat(np.arange(100), per_fine_class))
    images = pixels(len(fine))
    names = {"fine_label": FINE_NAMES, "coarse_label": COARSE_NAMES}
    half = len(fine) // 2
    for i, rows in enumerate((slice(None, half), slice(half, None))):
        write_parquet(
            folder / f"train-0000{i}-of-00002.parquet",
            "img",
            images[rows],
            {"fine_label": fine[rows], "coarse_label": fine[rows] // 5},
            names,
        )
    test = np.arange(100)
    write_parquet(
        folder / "test.parquet",
        "img",
        pixels(100, seed=2),
        {"fine_label": test, "coarse_label": test // 5},
        names,
    )
    return images, fine


def write_pickle(file: Path, content: Any) -> None:
    """A pickle of protocol 2, as Python 2 wrote the published batches."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol=2))


def rows_of_bytes(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) as rows of red, green and blue planes, shape (N, C·H·W)."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_idx(file: Path, content: np.ndarray) -> None:
    """An idx file of unsigned bytes, as MNIST's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, content.ndim) + struct.pack(f">{content.ndim}I", *content.shape)
    file.write_bytes(head + content.astype(np.uint8).tobytes())


def write_folder(
    root: Path, classes: tuple[str, ...], count: int = 5, size: tuple[int, int] = (6, 6)
) -> None:
    for seed, name in enumerate(classes):
        for i, image in enumerate(pixels(count, *size, seed=seed)):
            write_image(root / name / f"{i}.png", image)


def write_csv(file: Path, rows: int = 20, **columns: list[Any]) -> Path:
    values = np.random.default_rng(0).normal(3, 2, (rows, 2)).round(4)
    table = {
        "a": values[:, 0].tolist(),
        "b": values[:, 1].tolist(),
        "label": ["no", "yes"] * (rows // 2),
    } | columns
    lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    file.write_text("\n".join(lines))
    return file


def row_set(split: Split) -> set[bytes]:
    """The samples of a split as a set, to compare parts by content."""
    return {row.numpy().tobytes() for row in split.x}
