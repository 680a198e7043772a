"""Published archives, as unpacked: CIFAR pickles, MNIST idx files, SVHN .mat files, ImageNet32 batches."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from maxl.experiments.data._batches import read_batch, read_names, unpickle
from maxl.experiments.data._files import require_regular
from maxl.experiments.data._images import resize
from maxl.experiments.data._memory import require_memory
from maxl.experiments.data._source import Column, Part, Source

_REMEDY = "free some, or write the data as parquet files, which --stream leaves on disk"
_MOST_BYTES = 1 << 31  # of one idx file: 45 times MNIST
# What loadmat raises for damaged files, beside its own errors.
_DAMAGED_MAT = (
    *(OSError, EOFError, zlib.error, ValueError, TypeError, LookupError, OverflowError),
    *(NotImplementedError, MemoryError, UnboundLocalError),
)


def array_part(pixels: np.ndarray, columns: dict[str, Column], image_size: int | None, origin: str) -> Part:
    """A part whose images are decoded already: uint8, shape (N, C, H, W)."""
    return Part(columns, lambda rows: resize(torch.from_numpy(pixels[rows]), image_size), origin)


def cifar10(folder: Path, image_size: int | None) -> Source | None:
    """CIFAR-10's python archive, if `folder` is or holds `cifar-10-batches-py`; None otherwise."""
    root = _holding(folder, "test_batch", "cifar-10-batches-py")
    if root is None:
        return None
    meta = _existing(root / "batches.meta")
    names = read_names(meta, unpickle(meta), "label_names")
    batches = [_existing(root / f"data_batch_{i}") for i in range(1, 6)]
    return _batches_source(batches, [root / "test_batch"], {"labels": "label"}, {"label": names}, image_size)


def cifar100(folder: Path, image_size: int | None) -> Source | None:
    """CIFAR-100's python archive, if `folder` is or holds `cifar-100-python`; None otherwise."""
    root = _holding(folder, "meta", "cifar-100-python")
    if root is None:
        return None
    meta = unpickle(root / "meta")
    names = {
        "fine_label": read_names(root / "meta", meta, "fine_label_names"),
        "coarse_label": read_names(root / "meta", meta, "coarse_label_names"),
    }
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
    for files in (train, test):
        if len({file.name.removesuffix(".npz") for file in files}) < len(files):
            raise ValueError(
                f"'{folder}' has {files[0].name.removesuffix('.npz')} pickled and as .npz: keep one"
            )
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
        size = sum(require_regular(file).stat().st_size for file in files)  # a compressed one needs more
        several = len(files) > 1  # then they are put together
        require_memory((1 + several) * size, f"'{files[0]}'" + several * " and those beside it", _REMEDY)
        pixels, labels = zip(*(read_batch(file, [*keys]) for file in files), strict=True)
        if other := next((i for i, x in enumerate(pixels) if x.shape[1:] != pixels[0].shape[1:]), None):
            raise ValueError(
                f"images must all have one size; '{files[other]}' has {pixels[other].shape[2:]}, "
                f"'{files[0]}' {pixels[0].shape[2:]}"
            )
        columns = {
            column: Column(np.concatenate([batch[key] for batch in labels]), names.get(column))
            for key, column in keys.items()
        }
        origin = f"'{files[0]}'" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        return array_part(np.concatenate(pixels), columns, image_size, origin)

    return Source(part(train), part(test))


def mnist(folder: Path, image_size: int | None) -> Source | None:
    """MNIST's idx files, plain or gzipped, in `folder` or where torchvision puts them; None otherwise."""
    for root in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if any(root.glob("train-images[-.]idx3-ubyte*")):
            break
    else:
        return None

    def part(prefix: str) -> Part:
        file = _idx_file(root, f"{prefix}-images?idx3")
        images, labels = _read_idx(file, axes=3), _read_idx(_idx_file(root, f"{prefix}-labels?idx1"), axes=1)
        if len(images) != len(labels):
            raise ValueError(f"'{root}': {len(images)} images but {len(labels)} labels in the {prefix} files")
        return array_part(images[:, None], {"label": Column(labels)}, image_size, f"'{file}'")

    return Source(part("train"), part("t10k"))


def _idx_file(root: Path, pattern: str) -> Path:
    files = sorted(root.glob(f"{pattern}-ubyte")) or sorted(root.glob(f"{pattern}-ubyte.gz"))
    if not files:
        raise FileNotFoundError(f"'{root}' lacks {pattern.replace('?', '-')}-ubyte (or .gz)")
    return files[0]


def _read_idx(file: Path, axes: int) -> np.ndarray:
    """An idx file of bytes: two zero bytes, type 8, the number of axes, each axis as a big-endian uint32."""
    require_regular(file)
    head = 4 + 4 * axes
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            start = stream.read(head)
            shape = (
                tuple(np.frombuffer(start, dtype=">u4", count=axes, offset=4).tolist())
                if len(start) == head
                else ()
            )
            whole = start[:4] == bytes((0, 0, 8, axes)) and math.prod(shape) <= _MOST_BYTES
            if whole:
                require_memory(math.prod(shape), f"'{file}'", _REMEDY)
            # No more than the head promises, and one byte: a small file can unpack to anything.
            content = stream.read(math.prod(shape) + 1) if whole else b""
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"'{file}' is damaged ({error}); fetch it again") from error
    if not whole or len(content) != math.prod(shape):
        raise ValueError(f"'{file}' is no complete idx file of bytes with {axes} axes; fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def svhn(folder: Path, image_size: int | None) -> Source | None:
    """SVHN's cropped digits, `train_32x32.mat` and `test_32x32.mat`; None where there are none."""
    if not (folder / "train_32x32.mat").exists():
        return None
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    damaged = (MatReadError, *_DAMAGED_MAT)

    def part(file: Path) -> Part:
        try:
            content = loadmat(require_regular(file), variable_names=["X", "y"])
        except damaged as error:
            raise ValueError(f"'{file}' cannot be read as a MAT file: {error}; fetch it again") from error
        pixels, stored = content.get("X"), content.get("y")
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.ndim != 4
            or pixels.shape[2] != 3
        ):
            raise ValueError(f"'{file}' needs images as 'X', uint8 of shape (H, W, 3, N)")
        count = pixels.shape[3]
        if (
            not isinstance(stored, np.ndarray)
            or stored.dtype.kind not in "iuf"
            or stored.shape != (count, 1)
            or not np.isin(stored, np.arange(1, 11)).all()
        ):
            raise ValueError(
                f"'{file}' needs a digit an image as 'y', whole numbers 1..10 of shape ({count}, 1)"
            )
        labels = stored.ravel().astype(np.int64) % 10  # the file calls the digit zero 10
        return array_part(pixels.transpose(3, 2, 0, 1), {"label": Column(labels)}, image_size, f"'{file}'")

    return Source(part(folder / "train_32x32.mat"), part(folder / "test_32x32.mat"))


def digits(image_size: int | None) -> Source:
    """The 1797 handwritten digits of 8x8 pixels that come with scikit-learn: 1000 to train, 797 to test.

    Their column ``half`` says whether a digit is below five: a task of which the digits are the finer classes.
    """
    from sklearn.datasets import load_digits

    from maxl.experiments.data._select import cut_test

    content = load_digits()
    pixels = np.round(content.images * (255 / 16)).astype(np.uint8)[:, None]  # stored as 0..16
    label = content.target.astype(np.int64)
    columns = {"label": Column(label), "half": Column(label // 5, ("0 to 4", "5 to 9"))}
    whole = array_part(pixels, columns, image_size, "digits")
    train, test = cut_test(content.target, tuple("0123456789"), count=797)
    return Source(whole.rows(train), whole.rows(test), primary="label")


def _holding(folder: Path, file: str, name: str) -> Path | None:
    return next((root for root in (folder, folder / name) if (root / file).is_file()), None)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' is missing; unpack the whole archive there")
    return file
