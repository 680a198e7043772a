"""Published archives, as unpacked: CIFAR pickles, MNIST idx files, SVHN .mat files, ImageNet32 batches."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maxl.experiments.data._images import resize
from maxl.experiments.data._source import Column, Part, Source


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers and refuses everything else, so that no code can run."""

    _allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(
                f"a data file may hold arrays only; this one asks for {module}.{name}"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def unpickle(file: Path) -> dict[str, Any]:
    """One pickled dictionary of arrays and lists, as the CIFAR and ImageNet32 archives hold them.

    Raises:
        ValueError: if the file is no such pickle, or would need any class but NumPy's arrays.
    """
    with file.open("rb") as stream:
        try:
            content = _ArrayUnpickler(stream, encoding="latin1").load()  # written by Python 2
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"'{file}' cannot be read as a pickled batch: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{file}' should hold a dictionary; got {type(content).__name__}")
    return content


def array_part(pixels: np.ndarray, columns: dict[str, Column], image_size: int | None) -> Part:
    """A part whose images are decoded already: uint8, shape (N, C, H, W)."""
    return Part(columns, lambda rows: resize(torch.from_numpy(pixels[rows]), image_size))


def cifar10(folder: Path, image_size: int | None) -> Source | None:
    """CIFAR-10's python archive, if `folder` is or holds `cifar-10-batches-py`; None otherwise."""
    root = _holding(folder, "test_batch", "cifar-10-batches-py")
    if root is None:
        return None
    names = tuple(unpickle(_existing(root / "batches.meta"))["label_names"])
    batches = [_existing(root / f"data_batch_{i}") for i in range(1, 6)]
    return _batches_source(batches, [root / "test_batch"], {"labels": "label"}, {"label": names}, image_size)


def cifar100(folder: Path, image_size: int | None) -> Source | None:
    """CIFAR-100's python archive, if `folder` is or holds `cifar-100-python`; None otherwise."""
    root = _holding(folder, "meta", "cifar-100-python")
    if root is None:
        return None
    meta = unpickle(root / "meta")
    names = {"fine_label": tuple(meta["fine_label_names"]), "coarse_label": tuple(meta["coarse_label_names"])}
    keys = {"fine_labels": "fine_label", "coarse_labels": "coarse_label"}
    return _batches_source([_existing(root / "train")], [_existing(root / "test")], keys, names, image_size)


def imagenet32(folder: Path, image_size: int | None) -> Source | None:
    """Downsampled ImageNet, `train_data_batch_*` and `val_data`, pickled or .npz; None where there is none.

    The published validation images are the test part, as usual for ImageNet.
    """
    train = sorted(folder.glob("train_data_batch_*"))
    if not train:
        return None
    test = sorted(folder.glob("val_data*"))
    if not test:
        raise FileNotFoundError(f"'{folder}' has train_data_batch_* but no val_data or val_data.npz")
    return _batches_source(train, test, {"labels": "label"}, {}, image_size)


def _batches_source(
    train: Sequence[Path],
    test: Sequence[Path],
    keys: Mapping[str, str],
    names: Mapping[str, tuple[str, ...]],
    image_size: int | None,
) -> Source:
    """Batches of rows of 3·S·S bytes; `keys` maps their keys of labels to columns."""

    def part(files: Sequence[Path]) -> Part:
        batches = [_read_batch(file, keys) for file in files]
        data = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
        side = round((data.shape[1] / 3) ** 0.5)
        columns = {
            column: Column(np.concatenate([np.asarray(batch[key]) for batch in batches]), names.get(column))
            for key, column in keys.items()
        }
        return array_part(data.reshape(-1, 3, side, side), columns, image_size)

    return Source(part(train), part(test))


def _read_batch(file: Path, keys: Mapping[str, str]) -> dict[str, Any]:
    batch = dict(np.load(file, allow_pickle=False)) if file.suffix == ".npz" else unpickle(file)
    for key in ("data", *keys):
        if key not in batch:
            raise ValueError(f"'{file}' lacks '{key}'; it holds: {', '.join(map(str, batch))}")
    return batch


def mnist(folder: Path, image_size: int | None) -> Source | None:
    """MNIST's idx files, plain or gzipped, in `folder` or where torchvision puts them; None otherwise."""
    for root in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if any(root.glob("train-images[-.]idx3-ubyte*")):
            break
    else:
        return None

    def part(prefix: str) -> Part:
        images, labels = (
            _read_idx(_idx_file(root, f"{prefix}-{kind}")) for kind in ("images?idx3", "labels?idx1")
        )
        if len(images) != len(labels):
            raise ValueError(f"'{root}': {len(images)} images but {len(labels)} labels in the {prefix} files")
        return array_part(images[:, None], {"label": Column(labels)}, image_size)

    return Source(part("train"), part("t10k"))


def _idx_file(root: Path, pattern: str) -> Path:
    files = sorted(root.glob(f"{pattern}-ubyte")) or sorted(root.glob(f"{pattern}-ubyte.gz"))
    if not files:
        raise FileNotFoundError(f"'{root}' lacks {pattern.replace('?', '-')}-ubyte (or .gz)")
    return files[0]


def _read_idx(file: Path) -> np.ndarray:
    """An idx file of bytes: two zero bytes, type 8, the number of axes, each axis as a big-endian uint32."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    axes = content[3] if len(content) > 3 and content[:3] == b"\x00\x00\x08" else 0
    shape = (
        np.frombuffer(content, dtype=">u4", count=axes, offset=4) if len(content) >= 4 + 4 * axes else None
    )
    if not axes or shape is None or len(content) - 4 - 4 * axes != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"'{file}' is no complete idx file of bytes; fetch it again")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape.astype(np.int64))


def svhn(folder: Path, image_size: int | None) -> Source | None:
    """SVHN's cropped digits, `train_32x32.mat` and `test_32x32.mat`; None where there are none."""
    if not (folder / "train_32x32.mat").exists():
        return None
    from scipy.io import loadmat

    def part(file: Path) -> Part:
        content = loadmat(_existing(file), variable_names=["X", "y"])
        labels = content["y"].ravel().astype(np.int64) % 10  # the file calls the digit zero 10
        return array_part(content["X"].transpose(3, 2, 0, 1), {"label": Column(labels)}, image_size)

    return Source(part(folder / "train_32x32.mat"), part(folder / "test_32x32.mat"))


def digits(image_size: int | None) -> Source:
    """The 1797 handwritten digits of 8x8 pixels that come with scikit-learn: 1000 to train, 797 to test."""
    from sklearn.datasets import load_digits

    from maxl.experiments.data._select import cut_test

    content = load_digits()
    pixels = np.round(content.images * (255 / 16)).astype(np.uint8)[:, None]  # stored as 0..16
    whole = array_part(pixels, {"label": Column(content.target.astype(np.int64))}, image_size)
    train, test = cut_test(content.target, tuple("0123456789"), count=797)
    return Source(whole.rows(train), whole.rows(test))


def _holding(folder: Path, file: str, name: str) -> Path | None:
    return next((root for root in (folder, folder / name) if (root / file).is_file()), None)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' is missing; unpack the whole archive there")
    return file
