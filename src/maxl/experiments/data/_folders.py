"""Folders of image files: a class a subfolder, CINIC-10, and the frames of UCF-101."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from maxl.experiments.data._files import IMAGE_SUFFIXES, image_files, without_images
from maxl.experiments.data._images import common_shape, decode
from maxl.experiments.data._masks import NAMES_FILE, has_masks, mask_folders
from maxl.experiments.data._paths import Paths
from maxl.experiments.data._source import Column, IntArray, Part, Source

_CLIP = re.compile(r"v_(?P<label>\w+)_g(?P<group>\d+)_c\d+")
_UCF_TEST_GROUPS = range(1, 8)  # groups 1-7 are the test part of the published split 1
_TRAIN, _VALIDATION, _TEST = ("train", "training"), ("valid", "validation", "val"), ("test", "testing")


def image_folder(folder: Path, image_size: int | None) -> Source:
    """Images sorted into one subfolder a class, or two levels of subfolders: classes and finer classes.

    `folder` either has such subfolders itself, or has them below train/ and test/ (and validation/).
    Without test/ the validation part takes its place. Folders images/ and masks/ in place of classes hold images and
    a class for each of their pixels. The columns of labels are "class" and, with two levels,
    "subclass", named parent/child.

    Raises:
        FileNotFoundError: if there is a training part but no other.
        ValueError: if there are no images, or if some classes have finer classes and others have not.
    """
    train, test, validation = (_subfolder(folder, names) for names in (_TRAIN, _TEST, _VALIDATION))
    if has_masks(folder):
        return mask_folders(folder, None, None, folder / NAMES_FILE, image_size)
    if train is not None and has_masks(train):
        if test is None:
            test, validation = validation, None
        return mask_folders(train, test, validation, folder / NAMES_FILE, image_size)
    if train is None or not any(
        child.is_dir() and not child.name.startswith(".") for child in train.iterdir()
    ):  # "train" may be a class
        return _source([folder], image_size)
    if test is None:  # as usual for ImageNet, whose test labels are not public
        test, validation = validation, None
    if test is None:
        raise FileNotFoundError(f"'{folder}' has '{train.name}/' but no 'test/' or 'validation/' beside it")
    return _source([root for root in (train, test, validation) if root is not None], image_size)


def cinic10(folder: Path, image_size: int | None) -> Source | None:
    """CINIC-10 as published, in train/, valid/ and test/; None where these are missing."""
    return image_folder(folder, image_size) if _is_split(folder) else None


def ucf101(folder: Path, image_size: int | None) -> Source | None:
    """The middle frame of each clip of UCF-101.

    Accepts folders of frames named as the clips are, v_<Class>_g<group>_c<clip>/, alone or below one folder
    a class; groups 1-7 are the test part, as in the published split 1, so that no video is in both parts.
    A folder with train/ and test/ is read like any other folder of images. None where there is neither.
    """
    if _is_split(folder):
        return image_folder(folder, image_size)
    clips: dict[Path, list[Path]] = {}
    for file in image_files(folder):
        if _CLIP.fullmatch(file.parent.name):
            clips.setdefault(file.parent, []).append(file)
    if not clips:
        return None
    frames = [files[len(files) // 2] for files in clips.values()]
    matches = [_CLIP.fullmatch(clip.name) for clip in clips]
    labels = [match["label"] for match in matches if match]
    is_test = np.array([int(match["group"]) in _UCF_TEST_GROUPS for match in matches if match])
    whole = _part(folder, frames, {"class": labels}, image_size)
    return Source(whole.rows(np.flatnonzero(~is_test)), whole.rows(np.flatnonzero(is_test)), primary="class")


def _is_split(folder: Path) -> bool:
    return _subfolder(folder, _TRAIN) is not None and _subfolder(folder, _TEST) is not None


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _files(root: Path) -> list[Path]:
    """The image files in subfolders of `root`, each of which has some."""
    files = [file for file in image_files(root) if file.parent != root]
    if not files:
        raise ValueError(f"'{root}' has no images in subfolders; each class needs a subfolder of images")
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and (other := without_images(folder)):
            raise ValueError(
                f"each class needs images ({', '.join(sorted(IMAGE_SUFFIXES))}); '{folder}' holds none, but "
                f"'{other.name}': convert its files, or move it away"
            )
    return files


def class_folders(root: Path, *, finer: bool) -> tuple[list[Path], list[str]]:
    """The image files in subfolders of `root`, sorted, and the class that each one's folder names.

    Args:
        root: A folder with a subfolder a class; images beside these have no class and do not count.
        finer: Whether classes are those of the second level, named parent/child.

    Raises:
        ValueError: if there are no images, or a finer class is asked for and an image has none.
    """
    files = _files(root)
    parents = [file.relative_to(root).parts[:-1] for file in files]
    depth = 2 if finer else 1
    for file, parent in zip(files, parents, strict=True):
        if len(parent) < depth:
            raise ValueError(f"images need a class and a finer class, class/subclass/image; got '{file}'")
    return files, ["/".join(parent[:depth]) for parent in parents]


def _find(root: Path) -> tuple[list[Path], dict[str, list[str]]]:
    """The image files below `root` and the columns that their folders' names make."""
    files = _files(root)
    parents = [file.relative_to(root).parts[:-1] for file in files]
    depth = min(map(len, parents))
    if depth == 1 and max(map(len, parents)) > 1:
        flat = next(file for file, parent in zip(files, parents, strict=True) if len(parent) == 1)
        raise ValueError(
            f"'{root}': either every class has finer subfolders or none has; got '{flat}' beside others"
        )
    if depth > 1 and len({parent[1] for parent in parents}) == 1:
        depth = 1  # cat/images/, dog/images/: no finer classes
    columns = {"class": [parent[0] for parent in parents]}
    if depth > 1:  # by their path: two classes may have a finer one of the same name
        columns["subclass"] = ["/".join(parent[:2]) for parent in parents]
    return files, columns


def _source(roots: Sequence[Path], image_size: int | None) -> Source:
    parts = [_part(root, *_find(root), image_size) for root in roots]
    nested = all("subclass" in part.columns for part in parts)
    train, test, validation = [*parts, None, None][:3]
    assert train is not None
    return Source(train, test, validation, primary="class", human="subclass" if nested else None)


def _part(root: Path, files: list[Path], columns: dict[str, list[str]], image_size: int | None) -> Part:
    arrays = {name: Column(np.array(values, dtype=object)) for name, values in columns.items()}
    paths = Paths(root, files)

    def where(rows: IntArray, i: int) -> str:
        return f"'{paths[rows[i]]}'"

    def read(rows: IntArray) -> Tensor:
        return decode((paths[row] for row in rows), len(rows), partial(where, rows), image_size)

    def look(rows: IntArray) -> tuple[int, ...]:
        return common_shape((paths[row] for row in rows), partial(where, rows), image_size)

    return Part(arrays, read, f"'{root}'", look)
