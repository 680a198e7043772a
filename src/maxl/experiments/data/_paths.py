"""Many paths in little memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Paths:
    """Paths below one folder, as their letters and eight bytes each; a list of ``Path`` takes some hundred bytes more.

    Args:
        root: The folder.
        files: Below it.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        names = [os.fsencode(file.relative_to(root)) for file in files]
        self._letters = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> Path:
        start, end = self._ends[row : row + 2].tolist()
        return self._root / os.fsdecode(self._letters[start:end])
