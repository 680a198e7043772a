"""metrics.jsonl of a finished run: reading it back, from this program or a stranger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maxl.experiments.runs.files import JSON_LIMIT, parse_json, read_bytes
from maxl.experiments.runs.measures import MEASURES
from maxl.experiments.runs.summary import PARTS, is_number, kind_of


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """One row an epoch; empty lines do not count.

    Raises:
        ValueError: if a line is no row of metrics: its epoch above the one before, and each value of its kind.
    """
    lines = [line for line in read_bytes(path, JSON_LIMIT).splitlines() if line.strip()]
    rows = [parse_json(line, f"{path}, line {number},") for number, line in enumerate(lines, start=1)]
    if not rows or any("epoch" not in row for row in rows):
        raise ValueError(f"{path} needs one line an epoch, each with its epoch; got {len(lines)} lines")
    before, lengths = 0, dict[str, int]()
    for number, row in enumerate(rows, start=1):
        where, epoch = f"{path}, line {number},", row["epoch"]
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not before < epoch < 2**31:
            raise ValueError(f"{where} needs an epoch after {before}; got {str(epoch)[:40]!r}")
        before = epoch
        for name, value in row.items():
            if value is None:
                continue
            fits, kind = _KINDS.get(name, _NUMBER)
            if not fits(value):
                raise ValueError(f"{where} needs {name} to be {kind}; got {str(value)[:40]!r}")
            if isinstance(value, list) and lengths.setdefault(name, len(value)) != len(value):
                raise ValueError(f"{where} needs {lengths[name]} values of {name}; got {len(value)}")
    return rows


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(v is None or is_number(v) for v in values)


def _by_name(value: object) -> bool:
    return isinstance(value, dict) and _numbers(list(value.values()))


_NUMBER: tuple[Callable[[Any], bool], str] = (is_number, "a number")
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "label_verdict": (lambda value: isinstance(value, str), "text"),
    "gradient_cosine_layers": (_by_name, "numbers by layer"),
    **dict.fromkeys(("label_entropy_per_class", "label_usage_per_class"), (_numbers, "numbers")),
    **{f"{part}_{m.name}": kind_of(m) for ms in MEASURES.values() for m in ms for part in PARTS},
}
