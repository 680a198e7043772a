"""What the runs of a study have in common, as its folder holds it: study.yaml, and data.json of their data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.files import read_json, read_yaml, write_at_once
from maxl.experiments.runs.values import as_now
from maxl.experiments.studies.same_data import require_same_data


def identity(base: RunConfig) -> dict[str, Any]:
    """A base config without what may differ between calls on one folder.

    Values of a grid's fields belong to it: runs that have the base's are named without them.
    """
    left_out = {"method", "seed", *MACHINE_FIELDS}
    return {name: value for name, value in base.to_dict().items() if name not in left_out}


def read_record(out: Path) -> dict[str, Any]:
    """What a study below ``out`` has said of its runs; nothing where there is none."""
    record = out / "study.yaml"
    if not record.exists():
        return {}
    known = read_yaml(record)
    if known is not None and not isinstance(known, dict):
        raise ValueError(f"{record} needs to hold one 'name: value' a line; got {type(known).__name__}")
    return known or {}


def read_prints(out: Path) -> dict[str, Any]:
    """What identifies the data of its runs; nothing of an older study."""
    file = out / "data.json"
    return read_json(file) if file.exists() else {}


def require_same(out: Path, own: Mapping[str, Any]) -> None:
    """ValueError if a folder's study has another base than ``own``."""
    known = read_record(out)
    for name, value in own.items():
        if name in known and (stored := as_now(name, known[name])) != value:
            raise ValueError(
                f"--out needs a new folder or one of the same study; {out} was made with {name} {stored!r}, not {value!r}"
            )


def write_record(out: Path, own: Mapping[str, Any], prints: Mapping[str, Any]) -> None:
    """Writes both, in a folder that is locked: another call may have written since they were compared.

    Raises:
        ValueError: if it was one of another study, or of other data.
    """
    require_same(out, own)
    known = read_prints(out)
    require_same_data(known, prints, out, "study")
    whole = {**read_record(out), **own}
    write_at_once(out / "study.yaml", yaml.safe_dump(whole, sort_keys=False).encode())
    write_at_once(out / "data.json", json.dumps({**known, **prints}).encode() + b"\n")
