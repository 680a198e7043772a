"""Which files are read: regular ones, so that no read can hang or never end, and none that are hidden."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from maxl.experiments.data._walk import unreadable

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)
TABLE_SUFFIXES = (".csv", ".parquet")


def is_table(file: Path) -> bool:
    """Whether a file is named like a table, in small letters or capitals."""
    return file.suffix.lower() in TABLE_SUFFIXES


def require_regular(file: Path) -> Path:
    """`file` itself, if it is a regular file or a link to one.

    Raises:
        FileNotFoundError: if there is no such file, or a link leads to none.
        ValueError: if it is a folder, pipe, socket or device, from which reading may never end.
    """
    if not file.is_file():
        if not file.exists():
            raise FileNotFoundError(
                f"'{file}' is missing{', a link to nothing' if file.is_symlink() else ''}"
            )
        raise ValueError(
            f"only regular files are read; '{file}' is a folder, pipe, socket or device: remove it"
        )
    return file


def image_files(root: Path) -> list[Path]:
    """The image files below `root`, by suffix, sorted; hidden files and folders (.name) do not count.

    Links to folders are followed, but not back up to a folder that holds them.

    Raises:
        OSError: if a folder cannot be read, or a link leads to nothing.
        ValueError: if something named like an image is no regular file.
    """
    return sorted(file for file in _visible(root, frozenset()) if file.suffix.lower() in IMAGE_SUFFIXES)


def without_images(folder: Path) -> Path | None:
    """A file below `folder`, if there are files but no images among them; else None."""
    files = sorted(_visible(folder, frozenset()))
    return files[0] if files and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in files) else None


def _visible(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """The files below `folder` that are not hidden, those named like images checked to be regular."""
    real = folder.resolve()
    if real in above:
        return
    try:
        listed = os.scandir(folder)
    except OSError as error:
        raise unreadable(error) from error
    with listed as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_dir():
                yield from _visible(path, above | {real})
            elif path.suffix.lower() in IMAGE_SUFFIXES and not entry.is_file():
                yield require_regular(path)
            else:
                yield path
