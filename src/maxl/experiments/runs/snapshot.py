"""What a finished run leaves behind to look at: test features, and the images each auxiliary class collects.

The file is a compressed NumPy archive without pickled objects. G auxiliary classes with n images each:

    features           float16 (M, D)           trunk features of test samples; M is 0 without classes
    feature_primary    (M,)                     their primary labels
    primary_names      str (C,)
    gallery_images     uint8 (G, n, H, W, C)    training images that score highest in each auxiliary class
    gallery_scores     float32 (G, n)           the generator's probability of that class, highest first
    gallery_auxiliary  int64 (G,)               the auxiliary classes shown
    gallery_primary    int64 (G,)               the primary class that each belongs to

G is 0 where there is no generator or the inputs are no images. Further arrays are those of ``looks``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from maxl.experiments.data import Samples, beside, read_batches
from maxl.experiments.runs.files import write_whole
from maxl.experiments.runs.looks import LOOKS, require_looks
from maxl.experiments.runs.thumbnails import are_images, thumbnails
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import RandomState

Prepare = Callable[[Tensor], Tensor]

_BATCH = 256
_MOST_BYTES = 1 << 28  # of one array in the file


@dataclass(frozen=True)
class Snapshot:
    """The arrays of a snapshot file, as listed in the module's docstring; None where a run has nothing to show."""

    features: NDArray[Any]
    feature_primary: NDArray[Any]
    primary_names: NDArray[Any]
    gallery_images: NDArray[Any]
    gallery_scores: NDArray[Any]
    gallery_auxiliary: NDArray[Any]
    gallery_primary: NDArray[Any]
    confusion: NDArray[Any] | None = None
    mask_images: NDArray[Any] | None = None
    mask_truths: NDArray[Any] | None = None
    mask_predicted: NDArray[Any] | None = None
    target_truths: NDArray[Any] | None = None
    target_predicted: NDArray[Any] | None = None
    label_counts: NDArray[Any] | None = None
    label_rows: NDArray[Any] | None = None
    label_primary: NDArray[Any] | None = None
    label_auxiliary: NDArray[Any] | None = None
    sample_positions: NDArray[Any] | None = None
    sample_probabilities: NDArray[Any] | None = None
    sample_images: NDArray[Any] | None = None
    auxiliary_owner: NDArray[Any] | None = None
    feature_probe: NDArray[Any] | None = None
    probe_names: NDArray[Any] | None = None


def write_snapshot(
    path: str | Path,
    *,
    network: nn.Module,
    generator: nn.Module | None,
    test_x: Samples,
    test_primary: Tensor | None,
    train_x: Samples,
    train_primary: Tensor,
    prepare: Prepare,
    primary_names: Sequence[str],
    test_probe: Tensor | None = None,
    probe_names: Sequence[str] = (),
    test_columns: Tensor | None = None,
    train_columns: Tensor | None = None,
    max_features: int = 1500,
    per_class: int = 8,
    max_classes: int = 24,
    more: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Writes a snapshot; the networks' modes and buffers and torch's random state end as they were.

    Args:
        path: File to write; by custom ``snapshot.npz`` in the run's folder.
        network: Has a ``trunk`` from inputs to features.
        generator: Maps (inputs, primary labels) to soft labels (N, K) and has a ``hierarchy``; or None.
        test_x, test_primary: Test samples as stored, uint8 (N, C, H, W) or float (N, D), and their classes; None
            where a sample has no single class to be shown by, and then no features are kept.
        train_x, train_primary: Training samples, likewise.
        prepare: From stored samples to the network's inputs, without augmentation.
        primary_names: Names of the primary classes.
        test_probe, probe_names: Classes of the test samples in the column of ``--probe``, where there is one.
        test_columns, train_columns: Features of columns beside the images of each part, (N, D), where there are some.
        max_features: Test samples to keep, spread evenly over the test set.
        per_class: Images of each auxiliary class.
        max_classes: Auxiliary classes to show; whole primary classes, spread evenly.
        more: Arrays of ``looks``.

    Raises:
        ValueError: if there is no test sample.
    """
    if not len(test_x):
        raise ValueError("a snapshot needs test samples; got none")
    modules = [module for module in (network, generator) if module is not None]
    features, classes = torch.zeros(0, 1).half(), torch.zeros(0, dtype=torch.int64)
    probed: Tensor | None = None
    with torch.no_grad(), _left_as_found(modules):
        if test_primary is not None:
            chosen = torch.linspace(0, len(test_x) - 1, min(max_features, len(test_x))).round().long()
            columns = None if test_columns is None else test_columns[chosen.to(test_columns.device)]
            features = _features(network, test_x[chosen.to(test_x.device)], columns, prepare)
            classes = test_primary[chosen.to(test_primary.device)].cpu()
            if test_probe is not None:
                probed = test_probe[chosen.to(test_probe.device)].cpu()
        gallery = _empty_gallery()
        if generator is not None and are_images(train_x) and len(train_x):
            gallery = _gallery(
                generator, train_x, train_columns, train_primary, prepare, per_class, max_classes
            )
    arrays: dict[str, Any] = {
        "features": features.numpy(),
        "feature_primary": classes.numpy(),
        "primary_names": np.asarray(list(primary_names), dtype=np.str_),
        **gallery,
        **(more or {}),
    }
    if probed is not None:
        arrays |= {
            "feature_probe": probed.numpy(),
            "probe_names": np.asarray(list(probe_names), dtype=np.str_),
        }
    write_whole(Path(path), lambda file: np.savez_compressed(file, **arrays))


def read_snapshot(path: str | Path) -> Snapshot:
    """Reads a snapshot without executing code.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a snapshot.
    """
    try:
        with ZipFile(path) as archive:
            there = {*archive.namelist()}
            names = [f.name for f in fields(Snapshot) if f.name not in LOOKS or f"{f.name}.npy" in there]
            snapshot = Snapshot(**{name: _read_array(archive, name) for name in names})
        _require_consistent(snapshot)
    except FileNotFoundError:
        raise
    except (
        *(KeyError, ValueError, OSError, EOFError, BadZipFile, NotImplementedError, zlib.error),
        *(MemoryError, RecursionError, TokenError),  # of a header that is made to cause them
    ) as error:
        raise ValueError(
            f"{path} needs to be a snapshot as maxl writes it; reading it failed: {error}"
        ) from None
    return snapshot


def _read_array(archive: ZipFile, name: str) -> NDArray[Any]:
    """An array of an archive, which is as large as its file says and holds no objects."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > _MOST_BYTES:
        raise ValueError(f"{name} has {info.file_size:,} bytes")
    file = BytesIO(archive.read(info))
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in read_header:
        raise ValueError(f"{name} has the unknown version {version}")
    shape, _, dtype = read_header[version](file)
    rest = info.file_size - file.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"{name} is not as large as it says, or holds objects")
    file.seek(0)
    array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


def _require_consistent(snapshot: Snapshot) -> None:
    """ValueError unless the arrays are of the shapes and kinds that the module's docstring lists."""
    shown = snapshot.gallery_images.shape[:2]
    kinds = {
        "features": (snapshot.features, "f", 2),
        "feature_primary": (snapshot.feature_primary, "i", 1),
        "primary_names": (snapshot.primary_names, "U", 1),
        "gallery_images": (snapshot.gallery_images, "u", 5),
        "gallery_scores": (snapshot.gallery_scores, "f", 2),
        "gallery_auxiliary": (snapshot.gallery_auxiliary, "i", 1),
        "gallery_primary": (snapshot.gallery_primary, "i", 1),
    }
    for name, (array, kind, rank) in kinds.items():
        if array.dtype.kind != kind or array.ndim != rank:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    for name in ("feature_primary", "gallery_primary"):
        classes = kinds[name][0]
        if len(classes) and classes.min() < 0:
            raise ValueError(f"{name} holds {classes.min()}, which is no class")
    if len(np.unique(snapshot.feature_primary)) > len(snapshot.primary_names):
        raise ValueError("feature_primary has more classes than there are names")
    if len(snapshot.features) != len(snapshot.feature_primary):
        raise ValueError("features and feature_primary differ in length")
    if snapshot.feature_probe is not None and len(snapshot.feature_probe) != len(snapshot.features):
        raise ValueError("features and feature_probe differ in length")
    of_gallery = (
        snapshot.gallery_scores.shape,
        snapshot.gallery_auxiliary.shape,
        snapshot.gallery_primary.shape,
    )
    if of_gallery != (shown, shown[:1], shown[:1]):
        raise ValueError("the arrays of the gallery differ in length")
    if shown[0] and (
        0 in snapshot.gallery_images.shape
        or snapshot.gallery_images.shape[-1] not in (1, 3)
        or snapshot.gallery_images.dtype != np.uint8
        or not np.isfinite(snapshot.gallery_scores).all()
    ):
        raise ValueError("gallery_images needs to be images of bytes, with finite scores")
    require_looks({name: getattr(snapshot, name) for name in LOOKS})


@contextmanager
def _left_as_found(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode within; afterwards each module's own mode, all buffers and the random state from before."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
    with RandomState.capture(device).replay():
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode
            for buffer, before in buffers:
                buffer.copy_(before)


def _features(network: nn.Module, x: Tensor, columns: Tensor | None, prepare: Prepare) -> Tensor:
    trunk = network.get_submodule("trunk")
    limit = torch.finfo(torch.float16).max  # beyond it float16 would say infinity
    parts = [
        trunk(beside(_part(columns, start), prepare(x[start : start + _BATCH])))
        .flatten(1)
        .float()
        .clamp(-limit, limit)
        .half()
        .cpu()
        for start in range(0, len(x), _BATCH)
    ]
    return torch.cat(parts)


def _part(columns: Tensor | None, start: int) -> Tensor | None:
    return None if columns is None else columns[start : start + _BATCH]


def _gallery(
    generator: nn.Module,
    x: Samples,
    columns: Tensor | None,
    y: Tensor,
    prepare: Prepare,
    per_class: int,
    max_classes: int,
) -> dict[str, NDArray[Any]]:
    hierarchy = generator.hierarchy
    assert isinstance(hierarchy, Hierarchy)
    shown = _shown_classes(hierarchy, max_classes)
    scores, index = _highest(generator, x, columns, y, prepare, shown, per_class)
    images = thumbnails(x[index.flatten().to(x.device)])
    return {
        "gallery_images": images.reshape(*index.shape, *images.shape[1:]),
        "gallery_scores": scores.cpu().numpy(),
        "gallery_auxiliary": shown.numpy(),
        "gallery_primary": hierarchy.owner[shown].numpy(),
    }


def _highest(
    generator: nn.Module,
    x: Samples,
    columns: Tensor | None,
    y: Tensor,
    prepare: Prepare,
    shown: Tensor,
    per_class: int,
) -> tuple[Tensor, Tensor]:
    """The highest scores of each class shown and the samples that have them, both (G, n)."""
    best: tuple[Tensor, Tensor] | None = None
    starts = range(0, len(x), _BATCH)
    indices = (torch.arange(start, min(start + _BATCH, len(x))) for start in starts)
    for start, samples in zip(starts, read_batches(x, indices), strict=True):
        inputs = beside(_part(columns, start), prepare(samples))
        labels = generator(inputs, y[start : start + _BATCH].to(inputs.device))
        labels = labels[0] if isinstance(labels, tuple) else labels  # a generator may also give weights
        scores = labels[:, shown.to(labels.device)].float().T
        index = torch.arange(start, start + scores.shape[1], device=scores.device).expand_as(scores)
        if best is not None:
            scores, index = torch.cat([best[0], scores], 1), torch.cat([best[1], index], 1)
        top = scores.topk(min(per_class, scores.shape[1]), dim=1)
        best = top.values, index.gather(1, top.indices)
    assert best is not None  # the caller has checked that there are samples
    return best


def _shown_classes(hierarchy: Hierarchy, max_classes: int) -> Tensor:
    """Auxiliary classes of a few primary classes, whole blocks, so that a block's classes can be compared."""
    largest = max(hierarchy.psi)
    count = min(hierarchy.num_primary, max(1, max_classes // largest))
    primary = torch.linspace(0, hierarchy.num_primary - 1, count).round().long()
    blocks = [(hierarchy.owner == c).nonzero().flatten() for c in primary]
    return torch.cat(blocks)[:max_classes]


def _empty_gallery() -> dict[str, NDArray[Any]]:
    return {
        "gallery_images": np.zeros((0, 0, 0, 0, 0), np.uint8),
        "gallery_scores": np.zeros((0, 0), np.float32),
        "gallery_auxiliary": np.zeros(0, np.int64),
        "gallery_primary": np.zeros(0, np.int64),
    }
