"""Commands that a report tells its reader to type; they are meant for the folder in which the report was asked for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.runs.methods import LEARNED_METHODS
from maxl.experiments.runs.names import names_code
from maxl.experiments.studies.variants import base_method


def fresh(setting: Setting, count: int) -> list[int]:
    """Seeds that were not used: added to known results, seeds would be chosen by them."""
    first = 1 + max(run.seed for runs in setting.methods.values() for run in runs)
    return list(range(first, first + count))


def _settings_file(setting: Setting) -> tuple[Path, list[str]] | None:
    """The settings of a run to which most of them matter, and what a command has to say besides."""
    runs = [runs[0] for _, runs in sorted(setting.methods.items(), key=lambda item: _weight(item[0]))]
    for run in runs:
        if (path := run.folder / "config.yaml").is_file():
            code = names_code(run.config)
            return path, ["--trust"] * code
    return None


def _weight(label: str) -> int:
    method = base_method(label)
    return 0 if method in LEARNED_METHODS else 2 if method == "single" else 1


def compare(setting: Setting, methods: Sequence[str], seeds: Sequence[int]) -> str | None:
    """A study of some methods with the settings of this one, in a new folder; None where no run has kept them."""
    found = _settings_file(setting)
    if found is None:
        return None
    path, trust = found
    return compare_command(path, methods, seeds, new_folder(path.parent), trust)


def compare_command(
    settings: Path, methods: Sequence[str], seeds: Sequence[int], out: Path, trust: Sequence[str]
) -> str:
    """A study of some methods with the settings of a file; ``trust`` is the flag that these need, if any."""
    words = ("maxl", "compare", "--config", str(settings), "--methods", *methods)
    return shlex.join([*words, "--seeds", *map(str, seeds), "--out", str(out), *trust])


def train_command(settings: Path, out: Path, changes: Sequence[str], trust: Sequence[str]) -> str:
    """A run with the settings of a file but for ``changes``, flags with their values."""
    words = ("maxl", "train", "--config", str(settings), *changes)
    return shlex.join([*words, "--out", str(out), *trust])


def new_folder(run: Path, word: str = "") -> Path:
    """A folder beside a run's study, or the run, that is not there yet; inside, it would become a part of the study."""
    parts = run.parts
    top = Path(*parts[: len(parts) - 1 - parts[::-1].index("runs")]) if "runs" in parts else run
    whole = top if top.name else top.resolve()
    name = "-".join(filter(None, (whole.name, word)))
    number = 2
    found = whole.with_name(name if word else f"{name}-{number}")
    while found.exists():
        found = whole.with_name(f"{name}-{number}")
        number += 1
    return found


def use(told: str, runs: Sequence[Run]) -> tuple[str, str | None]:
    """Advice to use a method, and the command that gives its model."""
    return use_run(told, runs[0].folder, runs[0].seed, ["--trust"] * names_code(runs[0].config))


def use_run(
    told: str, run: Path, seed: int, trust: Sequence[str], *, trained: str = ""
) -> tuple[str, str | None]:
    """The same of one run, that of the method's lowest seed; ``trained`` says on what, where that needs saying."""
    if not (run / "model.safetensors").is_file():
        return told, None
    words = ("maxl", "export", str(run), "--format", "safetensors", "--out", "model.safetensors")
    return f"{told} Its model of the first seed, {seed}, not chosen by its score{trained}:", shlex.join(
        [*words, *trust]
    )
