"""That runs which are compared with each other see the same data, though they may be started months apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxl.experiments.data import DataSet
from maxl.experiments.runs.fingerprint import fingerprint, what_changed


def compared(
    known: Mapping[str, Any], settings: Sequence[Any], data: DataSet, out: Path, what: str
) -> dict[str, Any]:
    """The fingerprints that a folder holds, with that of some data.

    Args:
        known: Fingerprints by the settings that they are of.
        settings: Those that say which data these are.
        data: Loaded with a seed that is always the same.
        out: The folder, and ``what`` it holds, for the message.

    Raises:
        ValueError: if the same settings gave other data before.
    """
    key, now = json.dumps(list(settings), default=str), fingerprint(data)
    require_same_data(known, {key: now}, out, what)
    return {**known, key: known.get(key, now)}


def require_same_data(known: Mapping[str, Any], prints: Mapping[str, Any], out: Path, what: str) -> None:
    """ValueError if the same settings have other fingerprints among ``prints``; arguments else as for ``compared``."""
    for key, now in prints.items():
        if (changed := what_changed(known.get(key, now), now)) is not None:
            raise ValueError(
                f"--out needs a new folder or one of the same {what}; {out} was begun with other data: {changed} changed"
            )
