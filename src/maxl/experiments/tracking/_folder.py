"""What trackers keep in a run's folder, and what they call the run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def id_file(folder: Path, tracker: str) -> Path:
    """Where the id of a run in a tracker lies."""
    return folder / "tracking" / f"{tracker}.id"


def read_id(folder: Path, tracker: str) -> str | None:
    """The id that the run has in a tracker; None where it has none yet.

    Raises:
        ValueError: if the file holds something else.
    """
    file = id_file(folder, tracker)
    if not file.exists():
        return None
    found = file.read_bytes()[:100].decode("utf-8", "replace").strip()
    if not _ID.fullmatch(found):
        raise ValueError(f"{file} needs to hold the id of a run; it was damaged or changed: remove it")
    return found


def write_id(folder: Path, tracker: str, value: str) -> None:
    """Keeps the id for when the run goes on."""
    file = id_file(folder, tracker)
    file.parent.mkdir(exist_ok=True)
    file.write_text(value + "\n", "utf-8")


def run_name(folder: Path) -> tuple[str, str]:
    """A run's name, and the group that it belongs to: of a run of a study the study's folder, else its own.

    Example:
        >>> run_name(Path("/home/me/study/runs/maxl/seed0"))
        ('maxl/seed0', 'study')
    """
    parts = folder.resolve().parts
    for middle in ("runs", "trials"):  # of a study, of a search
        if middle in parts[1:-1]:
            at = len(parts) - 1 - parts[::-1].index(middle)
            if 0 < at < len(parts) - 1:
                return "/".join(parts[at + 1 :]), parts[at - 1]
    return parts[-1], parts[-1]


def scalars(summary: Mapping[str, Any]) -> dict[str, float | str]:
    """The numbers and short texts of a summary, which trackers have room for."""
    return {
        name: value
        for name, value in summary.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool) and len(str(value)) <= 250
    }
