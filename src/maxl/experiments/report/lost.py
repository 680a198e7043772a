"""Runs that a comparison lacks or rests on: those that diverged, and those that collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maxl.experiments.report.references import values
from maxl.experiments.report.runs import Results, Run, Setting, flat, results
from maxl.experiments.runs.files import read_yaml
from maxl.experiments.studies.collapses import collapses_text, of_methods
from maxl.experiments.studies.statistics import compare
from maxl.experiments.studies.variants import base_method, value_text, values_of


def diverged_of(study: Results, setting: Setting) -> dict[str, int]:
    """How many runs of a setting's methods (or variants) diverged, of those that lost some."""
    counts: dict[str, int] = {}
    for path in study.diverged:
        file = path / "config.yaml"
        read = read_yaml(file) if file.is_file() else None
        config = flat(read) if isinstance(read, dict) else {}
        said = [name for name in ("data", "train_size") if name in config]
        if any(config[name] != setting.facts.get(name) for name in said):
            continue
        for label in setting.methods:
            if base_method(label) == config.get("method") and _is_variant(label, config):
                counts[label] = counts.get(label, 0) + 1
    return counts


def _is_variant(label: str, config: Mapping[str, Any]) -> bool:
    """Whether what tells a variant apart is what a config says."""
    return all(
        key not in config or value_text(config[key]) == value for key, value in values_of(label).items()
    )


def without_collapsed(setting: Setting) -> tuple[Setting, list[str]]:
    """A setting without its runs that collapsed, and how many did, a sentence a method; the same one where none did."""
    found = values(setting)
    fallen = of_methods(found, setting.test_samples)
    if not fallen:
        return setting, []
    kept: dict[str, list[Run]] = {
        label: [run for run in runs if run.seed not in fallen.get(label, {})]
        for label, runs in setting.methods.items()
    }
    told = [collapses_text(label, found[label], lost, setting.measure) for label, lost in fallen.items()]
    table = compare(results([run for runs in kept.values() for run in runs]))
    return replace(setting, methods=kept, comparisons=table), told
