"""plan.json: what advice has decided so far, and by which it is known again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import read_json
from maxl.experiments.runs.values import as_now


def read_plan(out: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The decisions of advice in a folder, or what identifies it where none has been made.

    Args:
        out: The folder.
        identity: Of the advice that is asked for: its aim, and the config without what the machine decides.

    Raises:
        ValueError: if the folder holds something else, or another advice.
    """
    file = out / "plan.json"
    if not file.exists():
        if out.exists() and (not out.is_dir() or any(out.glob("[!.]*"))):
            raise ValueError(
                f"--out needs a new folder or one of the same advice; {out} holds something else"
            )
        return dict(identity)
    plan = read_json(file)
    if plan.get("aim") != identity["aim"]:
        raise ValueError(
            f"--out needs a new folder or one of the same advice; {out} has --aim {plan.get('aim')}"
        )
    stored = RunConfig().to_dict() | (plan.get("config") or {})  # an older version had fewer
    for name, value in identity["config"].items():
        if as_now(name, stored[name]) != value:
            raise ValueError(
                f"--out needs a new folder or one of the same advice; {out} was made with {name} "
                f"{as_now(name, stored[name])!r}, not {value!r}"
            )
    return plan


def as_json(content: Mapping[str, Any]) -> bytes:
    """As plan.json and advice.json hold it."""
    return json.dumps(content, indent=2, allow_nan=False, default=float).encode() + b"\n"
