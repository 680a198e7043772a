"""How a study was made: what it took, its settings, versions and dates."""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import pandas as pd

from maxl.experiments.report.costs import minutes_text
from maxl.experiments.report.parts import Folded, Part, Points, Table
from maxl.experiments.report.runs import Results, Run
from maxl.experiments.studies.notes import versions_text

_UNTOLD = ("method", "seed", "out")  # of a config: what tells the runs of a study apart
_VERSION = "maxl-torch"


def made(study: Results) -> list[Part]:
    """When, with what and where the runs were made, and every setting that they have in common."""
    return [Points(origin(study)), *_settings(study)]


def origin(study: Results) -> list[str]:
    """Sentences on time, machine and versions."""
    stamps = sorted((run.folder / "summary.json").stat().st_mtime for run in study.runs)
    first, last = (
        time.strftime("%d %B %Y, %H:%M", time.localtime(stamp)) for stamp in (stamps[0], stamps[-1])
    )
    when = f"on {last}" if first == last else f"between {first} and {last}"
    said = [
        f"Report written on {time.strftime('%d %B %Y')} by maxl {metadata.version(_VERSION)}.",
        f"Runs finished {when}, by the dates of their files.",
    ]
    spent = sum(float(run.summary.get("seconds_total") or 0) for run in study.runs)
    if spent:
        said.append(f"{len(study.runs)} runs took {minutes_text(spent / 60)} of training together.")
    for word, name in (("Device", "device"), ("Machine", "machine"), ("Threads", "threads")):
        if values := _values(run.summary.get(name) for run in study.runs):
            said.append(f"{word}: {'; '.join(values)}.")
    versions = [
        versions_text(found) for run in study.runs if isinstance(found := run.summary.get("versions"), dict)
    ]
    if versions:
        said.append(f"Versions: {'; '.join(dict.fromkeys(versions))}.")
    return said


def _settings(study: Results) -> list[Part]:
    """A table of the settings of all runs; those in which they differ say so."""
    configs = [run.config for run in study.runs if run.config]
    if not configs:
        return []
    names = [name for name in configs[0] if name.rsplit(".", 1)[-1] not in _UNTOLD]
    rows = [{"Setting": name, "Value": "; ".join(_values(c.get(name) for c in configs))} for name in names]
    table = Table(
        "Settings of the runs, as in config.yaml; several values where runs differ", pd.DataFrame(rows)
    )
    return [Folded(f"All {len(rows)} settings", [table])] if rows else []


def what_it_was(study: Results) -> str:
    """The line below the title: what was run."""
    seeds = sorted({run.seed for run in study.runs})
    facts = [
        f"{len(study.runs)} runs, seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else _runs(study.runs),
        *(
            f"{word} {', '.join(values)}"
            for word, name in (("trunk", "trunk"), ("epochs:", "epochs"))
            if (values := _values(run.summary.get(name) for run in study.runs))
        ),
        time.strftime("%d %B %Y"),
    ]
    return " · ".join(facts)


def _runs(runs: list[Run]) -> str:
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}, seed {runs[0].seed}"


def _values(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(_text(value) for value in values if value is not None)) or []


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
