"""Folders of images with masks: a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maxl.experiments.data._files import image_files, require_regular
from maxl.experiments.data._images import decode, displayed_size, stretch
from maxl.experiments.data._mask_files import PaletteColours, decode_indices
from maxl.experiments.data._memory import require_memory
from maxl.experiments.data._source import Column, IntArray, Part, Source

IGNORED = -100  # in the targets of a split, whatever stands in the masks
NAMES_FILE = "classes.txt"
_STEP = 32  # between values from which on equal steps from 0 are no numbers of classes


def has_masks(folder: Path) -> bool:
    """Whether a folder holds ``images/`` and ``masks/``."""
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def mask_folders(
    train: Path, test: Path | None, validation: Path | None, names: Path, image_size: int | None
) -> Source:
    """Images and their masks, files of the same names; masks hold the numbers of classes, grey or by palette.

    Args:
        train, test, validation: Folders with ``images/`` and ``masks/``.
        names: A text file with a class a line, from 0 on; where there is none, classes are called by their numbers.
        image_size: Images and masks become squares of this side, stretched and not cut; None keeps their size.

    Raises:
        ValueError: an image without a mask or the other way round, a mask of another size, files that cannot be read,
            palettes that differ.
    """
    found = _class_names(names) if names.is_file() else None
    colours = PaletteColours()
    parts = [
        None if root is None else _part(root, found, image_size, colours)
        for root in (train, test, validation)
    ]
    assert parts[0] is not None
    return Source(parts[0], parts[1], parts[2], primary="mask")


def encode_masks(
    parts: Sequence[Part], name: str, ignore_index: int
) -> tuple[list[npt.NDArray[np.int64]], tuple[str, ...], str]:
    """Classes of shape (N, H, W), ``IGNORED`` where a mask has ``ignore_index``, their names, and how many occur, in a line.

    Raises:
        ValueError: if a mask has a value beyond the names, or all masks of a part are to be ignored; or if there are no
            names, and values are grey scaled for the eye.
    """
    columns = [part.columns[name] for part in parts]
    there = [value for value in _values(columns) if value != ignore_index]
    names = columns[0].names
    saw = f"masks hold {len(there)} classes"
    if names is not None:
        saw = f"masks hold {len(there)} of the {len(names)} classes of {NAMES_FILE}"
    else:
        _require_no_scale(there, parts[0].origin)
        names = tuple(map(str, range(1 + max(there, default=0))))
        if len(names) > len(there):
            saw += f" of the {len(names)} that their largest value, {there[-1]}, asks for"
    encoded = []
    for part, column in zip(parts, columns, strict=True):
        ignored = column.values == ignore_index
        odd = (column.values >= len(names)) & ~ignored
        if odd.any():
            row = int(odd.any(axis=(1, 2)).nonzero()[0][0])
            file = "" if column.files is None else column.files[row]
            raise ValueError(
                f"masks need values below {len(names)}, the number of classes, or the one to ignore, "
                f"{ignore_index}; '{file}' has {column.values[row][odd[row]][0]}: correct it, or say --ignore-index"
            )
        if ignored.all():
            raise ValueError(
                f"masks need pixels with a class; those of {part.origin} all have the value {ignore_index}, which is "
                "ignored: say another --ignore-index"
            )
        encoded.append(np.where(ignored, IGNORED, column.values.astype(np.int64)))
    return encoded, names, saw


def require_classes(classes: npt.NDArray[np.int64], names: Sequence[str], origin: str, least: int) -> None:
    """ValueError unless pixels of so many classes count.

    Args:
        classes: ``IGNORED`` where none is meant, shape (N, H, W).
        names: Of the classes.
        origin: How messages name the part.
        least: 1 of what judges, 2 of what is trained on.
    """
    there = np.zeros(len(names), dtype=bool)
    ignored = 0
    for mask in classes:
        void = mask == IGNORED
        there[mask[~void]] = True
        ignored += int(void.sum())
    found = np.flatnonzero(there)
    if len(found) >= least:
        return
    share = f", and --ignore-index leaves {ignored / classes.size:.0%} of its pixels out" if ignored else ""
    if not len(found):
        raise ValueError(
            f"segmentation needs pixels with a class; {origin} has none{share}: leave out images without any, or say another "
            "--ignore-index"
        )
    raise ValueError(
        f"segmentation needs pixels of two classes or more to train on; {origin} has '{names[found[0]]}' alone{share}: masks "
        f"hold the numbers of classes from 0 on, which {NAMES_FILE} may name; correct them, or say another --ignore-index"
    )


def _values(columns: Sequence[Column]) -> list[int]:
    """Which values occur in masks, in order."""
    there = np.zeros(256, dtype=bool)
    for column in columns:
        for mask in column.values:
            there[mask] = True
    return [int(value) for value in np.flatnonzero(there)]


def _require_no_scale(values: Sequence[int], origin: str) -> None:
    """ValueError if values are 0 and multiples of a large step, all of them: classes made visible, not their numbers.

    Numbers of real classes have small gaps, however few of the classes occur.
    """
    step = values[1] if len(values) > 1 else 0
    if step >= _STEP and list(values) == [step * k for k in range(len(values))]:
        raise ValueError(
            f"masks need the numbers of classes, one after another from 0; those of {origin} hold "
            f"{', '.join(map(str, values))}, as grey for the eye has them: divide them by {step}, or name the classes in "
            f"{NAMES_FILE}, {values[-1] + 1} of them"
        )


def _class_names(file: Path) -> tuple[str, ...]:
    try:
        lines = require_regular(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"'{file}' needs a class a line; it is no UTF-8 text: save it as UTF-8") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) < 2 or len({*names}) < len(names):
        raise ValueError(f"'{file}' needs at least two different classes, one a line; got {len(names)} lines")
    return names


def labelled_masks(
    root: Path, names: tuple[str, ...], size: tuple[int, int], ignore_index: int
) -> tuple[list[Path], Tensor]:
    """The images of a folder with ``images/`` and ``masks/``, and a class for each of their pixels.

    Args:
        root: The folder. Its list of classes, where there is one, has to be ``names``.
        names: Of the classes that masks may hold.
        size: (H, W) to which masks are stretched, the nearest pixel at each place.
        ignore_index: Value of masks that stands for no class.

    Returns:
        N image files, and int64 of shape (N, H, W), ``IGNORED`` where a mask has ``ignore_index``.

    Raises:
        ValueError: as ``mask_folders`` and ``encode_masks``, and if the folder names other classes.
    """
    listed = root / NAMES_FILE
    if listed.is_file() and (found := _class_names(listed)) != names:
        raise ValueError(
            f"the classes of '{listed}' need to be those of the run, in their order: {', '.join(names)}; got "
            f"{', '.join(found)}"
        )
    pairs = _pairs(root)
    files = tuple(str(mask) for _, mask in pairs)
    column = Column(_read_masks(pairs, size, PaletteColours()), names, files)
    part = Part({"mask": column}, lambda _: [], f"'{root}'")
    (classes,), _, _ = encode_masks([part], "mask", ignore_index)
    return [image for image, _ in pairs], torch.from_numpy(classes)


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """The images and masks of a folder, by name."""
    if not has_masks(root):
        raise ValueError(f"'{root}' needs the folders images/ and masks/: other parts have them")
    images, masks = _by_stem(root / "images"), _by_stem(root / "masks")
    if not images:
        raise ValueError(f"segmentation needs images; '{root / 'images'}' has none")
    for mine, others, what, other in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        if alone := sorted(set(mine) - set(others)):
            raise ValueError(
                f"each {what} needs {'an' if other == 'image' else 'a'} {other} of its name; '{mine[alone[0]]}' has "
                f"none ({len(alone)} such files in '{root}')"
            )
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _part(root: Path, names: tuple[str, ...] | None, image_size: int | None, colours: PaletteColours) -> Part:
    pairs = _pairs(root)
    size = None if image_size is None else (image_size, image_size)
    values = _read_masks(pairs, size, colours)

    def read(rows: IntArray) -> Tensor:
        files = [pairs[row][0] for row in rows]
        if size is None:
            return decode(files, len(files), lambda i: f"'{files[i]}'", None)
        each = [stretch(decode([file], 1, partial(_quoted, file), None), size) for file in files]
        channels = max(image.shape[1] for image in each)
        return torch.cat([image.expand(1, channels, -1, -1) for image in each])

    files = tuple(str(mask) for _, mask in pairs)
    return Part({"mask": Column(values, names, files)}, read, f"'{root}'")


def _read_masks(
    pairs: Sequence[tuple[Path, Path]], size: tuple[int, int] | None, colours: PaletteColours
) -> npt.NDArray[np.uint8]:
    return _stacked(_masks(pairs, size, colours), len(pairs), [mask for _, mask in pairs])


def _quoted(file: Path, _: int) -> str:
    return f"'{file}'"


def _by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their path without suffix."""
    found: dict[str, Path] = {}
    for file in image_files(folder):
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise ValueError(f"files need different names; got '{found[stem]}' and '{file}': remove one")
        found[stem] = file
    return found


def _masks(
    pairs: Sequence[tuple[Path, Path]], target: tuple[int, int] | None, colours: PaletteColours
) -> Iterator[npt.NDArray[np.uint8]]:
    for image, mask in pairs:
        indices = decode_indices(mask, colours)
        size = displayed_size(image)
        if indices.shape != size:
            raise ValueError(
                f"a mask needs the size of its image; '{mask}' is {indices.shape[0]}x{indices.shape[1]}, '{image}' is "
                f"{size[0]}x{size[1]}"
            )
        if target is not None:  # nearest pixel: numbers of classes have no mean
            rows, columns = (
                ((2 * np.arange(new) + 1) * side) // (2 * new) for new, side in zip(target, size, strict=True)
            )
            indices = indices[rows[:, None], columns]
        yield indices


def _stacked(
    masks: Iterator[npt.NDArray[np.uint8]], count: int, files: Sequence[Path]
) -> npt.NDArray[np.uint8]:
    stacked: npt.NDArray[np.uint8] | None = None
    for i, mask in enumerate(masks):
        if stacked is None:
            require_memory(
                count * mask.size,
                f"{count} masks of {mask.shape[0]}x{mask.shape[1]}",
                "scale them with --image-size N",
            )
            stacked = np.empty((count, *mask.shape), dtype=np.uint8)
        if mask.shape != stacked.shape[1:]:
            raise ValueError(
                f"images must all have one size; '{files[i]}' is {mask.shape[0]}x{mask.shape[1]}, the first is "
                f"{stacked.shape[1]}x{stacked.shape[2]}: pass image_size (--image-size) to scale them"
            )
        stacked[i] = mask
    assert stacked is not None  # the caller has images
    return stacked
