"""What a reader of a table has to know of the runs behind it: whether they were made alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

ORIGIN = (
    "machine",
    "device",
    "threads",
    "processes",
    "versions",
)  # of a run; where all agree, one seed gives the same bits
_UNKNOWN = "not recorded"
_BEFORE = {"processes": 1}  # what holds where a run says nothing of it
_MINOR = ("platform",)  # kernel and C library, which no result has been seen to depend on


def origin_notes(runs: Iterable[Mapping[Any, Any]]) -> list[str]:
    """A sentence for each part of the origin in which runs of one table differ; none where they were made alike.

    Args:
        runs: Summaries, or rows of a study's results. What a run has not recorded differs from what others have.
    """
    rows = list(runs)
    notes = []
    for name in ORIGIN:
        counts = Counter(_shown(row.get(name, _BEFORE.get(name))) for row in rows)
        if len(counts) > 1:
            kinds = "; ".join(f"{value}: {n} run{'s' if n > 1 else ''}" for value, n in counts.most_common())
            notes.append(
                f"Runs differ in {name} ({kinds}): the same seed gives other numbers there, so part of a "
                "difference may come from this."
            )
    return notes


def versions_text(versions: Mapping[str, str]) -> str:
    """A run's versions as one cell of a table."""
    return ", ".join(f"{name} {number}" for name, number in versions.items() if name not in _MINOR)


def outcomes_text(runs: Iterable[Mapping[Any, Any]]) -> str:
    """How structure and calibration were measured, for the caption of their table.

    Args:
        runs: Summaries, or rows of a study's results.
    """
    rows = list(runs)
    columns = dict.fromkeys(str(row["probe"]) for row in rows if isinstance(row.get("probe"), str))
    shots = dict.fromkeys(int(row["probe_shots"]) for row in rows if isinstance(row.get("probe"), str))
    said = []
    if columns:
        said.append(
            f"probe, worst group and labels: column {', '.join(columns)}, {', '.join(map(str, shots))} samples of each "
            "of its classes; NMI and purity within primary classes"
        )
    fitted = {row.get("temperature_from") for row in rows}
    if fitted >= {"training", "validation"}:
        said.append(
            "temperature fitted on training samples by some and on the validation part by others, which is fair: do not "
            "compare their calibration"
        )
    elif "training" in fitted:
        said.append("temperature fitted on training samples, 1 at least: --validation-size gives a fair one")
    elif "validation" in fitted:
        said.append("temperature fitted on the validation part, 1 at least where all of it is right")
    return "; ".join(["means over seeds", *said])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return versions_text(value)
    if value is None or value != value:  # NaN: a gap in a column
        return _UNKNOWN
    return str(int(value)) if isinstance(value, float) else str(value)
