"""The files below a folder, none of them left out in silence."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted by path; links to folders are not followed.

    Raises:
        PermissionError: if a folder among them cannot be read: what is in it would be missing without a word.
    """
    found: list[Path] = []
    for root, _, names in os.walk(folder, onerror=_refuse):
        found += [Path(root, name) for name in names]
    return sorted(found)


def unreadable(error: OSError) -> OSError:
    """What refused to be listed, named, with what to do."""
    return type(error)(
        f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it away"
    )


def _refuse(error: OSError) -> None:
    raise unreadable(error)
