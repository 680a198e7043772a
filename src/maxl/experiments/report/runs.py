"""Reading a study: its runs, what tells them apart, and which of them may be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from maxl.experiments.data import files_below
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.measures import Measure, main_measure, task_of
from maxl.experiments.runs.methods import METHODS
from maxl.experiments.runs.metrics import read_metrics
from maxl.experiments.runs.snapshot import Snapshot, read_snapshot
from maxl.experiments.runs.values import as_now
from maxl.experiments.studies.resolution import counted
from maxl.experiments.studies.statistics import Psi, compare, constant_answer, parse_psi, settings
from maxl.experiments.studies.variants import base_method, irrelevant_fields, variant_name

# Facts of a run that never make it another variant of its method.
_INCIDENTAL = {"seed", "out", "psi", "method", "data_dir", "device", "workers", "resume", "config"}


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: Where it lies.
        summary: summary.json.
        metrics: metrics.jsonl, one row an epoch; a column that no line has is missing.
        config: config.yaml, flattened with dots; empty where there is none.
        label: The method's name, with what tells this variant from others of the study.
    """

    folder: Path
    summary: dict[str, Any]
    metrics: pd.DataFrame
    config: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def method(self) -> str:
        """The method's name as the run has it, with the variant that its study's grid gave it."""
        return str(self.summary["method"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.summary["seed"])

    def series(self, name: str) -> pd.Series[Any]:
        """A metric by epoch, epochs without it left out; empty where the run lacks it."""
        if name not in self.metrics:
            return pd.Series(dtype=object)
        return self.metrics.set_index("epoch")[name].dropna()

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The run's snapshot, or None where it has none."""
        path = self.folder / "snapshot.npz"
        return read_snapshot(path) if path.exists() else None


@dataclass(frozen=True)
class Setting:
    """Runs that may be compared: same data, primary task, trunk, training size and ψ.

    Attributes:
        name: In words, as short as the study allows.
        facts: data, train_size, ..., psi.
        methods: The runs of each method (or variant), by seed.
        comparisons: The table of ``statistics.compare``.
    """

    name: str
    facts: dict[str, Any]
    methods: dict[str, list[Run]]
    comparisons: pd.DataFrame

    @cached_property
    def measure(self) -> Measure:
        """What its runs are compared by."""
        return main_measure(task_of(next(iter(self.methods.values()))[0].summary))

    @property
    def test_samples(self) -> int | None:
        """How many the test part has; None where the measure does not count samples, or older runs do not say."""
        summaries = [run.summary for runs in self.methods.values() for run in runs]
        return min(
            (n for s in summaries if (n := counted(task_of(s), s.get("test_size"))) is not None), default=None
        )

    @property
    def best(self) -> float:
        """The highest mean of the measure over the runs of a method."""
        key = self.measure.key
        return max(sum(float(r.summary[key]) for r in runs) / len(runs) for runs in self.methods.values())

    @property
    def constant(self) -> float | None:
        """What an answer that is the same for all samples gets by the measure; None where that is not known."""
        summaries = (run.summary for runs in self.methods.values() for run in runs)
        return constant_answer(self.measure, (s.get("test_constant") for s in summaries))

    @property
    def place(self) -> tuple[tuple[str, Hashable], ...]:
        """The setting without ψ."""
        return _place(self.facts)


@dataclass(frozen=True)
class Results:
    """All runs of a folder.

    Attributes:
        folder: Where they were found.
        runs: The finished runs.
        unfinished: Folders of runs that have no summary and did not diverge.
        diverged: Folders of runs that ended because a loss or weight was not finite, and the reason of each.
        settings: The runs by setting.
    """

    folder: Path
    runs: list[Run]
    unfinished: list[Path]
    diverged: dict[Path, str]
    settings: list[Setting]

    @property
    def methods(self) -> list[str]:
        """Every method (or variant), the baselines first."""
        return sorted({run.label for run in self.runs}, key=_method_order)


def load_study(folder: Path) -> Results:
    """Reads every run folder below ``folder``, or ``folder`` itself.

    Raises:
        FileNotFoundError: if there is no such folder.
        PermissionError: if a folder in it cannot be read.
        ValueError: if it holds no finished run, or a run folder is broken.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"a report needs a study or run folder; {folder} is none")
    files = files_below(folder)
    found = [path.parent for path in files if path.name == "summary.json"]
    ended = [path.parent for path in files if path.name == "diverged.json"]
    diverged = {path: RunFolder(path).read_divergence() for path in ended}
    begun = [path.parent for path in files if path.name == "metrics.jsonl"]
    unfinished = [path for path in begun if path not in {*found, *diverged}]
    if not found:
        others = {"unfinished": unfinished, "diverged": diverged}
        told = " and ".join(f"{len(paths)} {word}" for word, paths in others.items() if paths)
        raise ValueError(
            f"a report needs at least one finished run; {folder} holds none{', only ' + told if told else ''}"
        )
    runs = label_variants([_load_run(path) for path in found])
    return Results(folder, runs, unfinished, diverged, _settings(runs))


def results(runs: Sequence[Run]) -> pd.DataFrame:
    """The tidy table that ``statistics`` reads, one row a run in the order given."""
    rows = [
        {name: run.summary.get(name) for name in ("data", "primary", "task", "trunk", "train_size", "psi")}
        | {"method": run.label, "seed": run.seed}
        | {m.key: run.summary[m.key] for m in (main_measure(task_of(run.summary)),)}
        for run in runs
    ]
    return pd.DataFrame(rows).astype({"psi": object})


def label_variants(runs: Sequence[Run]) -> list[Run]:
    """Adds to a method's name what tells its variants apart, where a study has several.

    Variants show as runs of the same method, seed and setting; what they differ in names them, for all runs
    of the method, so that the name means the same everywhere, and for the other methods to which it matters,
    so that variants of two methods can be compared at the same setting.

    Raises:
        ValueError: if two runs of the same seed and setting differ in nothing.
    """
    same: dict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        place = tuple(run.summary.get(name) for name in ("data", "primary", "task", "trunk", "train_size"))
        same[(*place, parse_psi(run.summary.get("psi")), run.method, run.seed)].append(run)
    differing: dict[str, set[str]] = defaultdict(set)
    for twins in same.values():
        if len(twins) > 1:
            keys = _differences(twins)
            if not keys:
                raise ValueError(
                    "a study needs one run a method, seed and setting; "
                    f"{twins[0].folder} and {twins[1].folder} differ in nothing: remove one"
                )
            differing[twins[0].method] |= keys
    everywhere = set().union(*differing.values())
    return [replace(run, label=_label(run, differing[run.method], everywhere)) for run in runs]


def _label(run: Run, own: set[str], everywhere: set[str]) -> str:
    facts, irrelevant = _facts(run), irrelevant_fields(base_method(run.method))
    told = own | {key for key in everywhere if key.rsplit(".", 1)[-1] not in irrelevant and key in facts}
    return variant_name(run.method, {key: facts.get(key) for key in sorted(told)})


def _facts(run: Run) -> dict[str, Any]:
    return {
        **run.config,
        "entropy_weight": run.summary.get("entropy_weight", run.config.get("entropy_weight")),
    }


def _differences(runs: Sequence[Run]) -> set[str]:
    facts = [_facts(run) for run in runs]
    keys = {key for one in facts for key in one if key.rsplit(".", 1)[-1] not in _INCIDENTAL}
    return {key for key in keys if len({repr(one.get(key)) for one in facts}) > 1}


def _settings(runs: Sequence[Run]) -> list[Setting]:
    table = results(runs)
    found = settings(table)
    places = list(dict.fromkeys(_place(facts) for facts, _ in found))
    found.sort(key=lambda one: (places.index(_place(one[0])), _psi_order(one[0]["psi"])))
    varying = {name for name in found[0][0] if len({repr(facts[name]) for facts, _ in found}) > 1}
    made = []
    for facts, rows in found:
        methods: dict[str, list[Run]] = defaultdict(list)
        for number in sorted(rows.index, key=lambda number: runs[number].seed):
            methods[runs[number].label].append(runs[number])
        ordered = {name: methods[name] for name in sorted(methods, key=_method_order)}
        made.append(Setting(_setting_name(facts, varying), facts, ordered, compare(rows)))
    return made


def _place(facts: dict[str, Any]) -> tuple[tuple[str, Hashable], ...]:
    return tuple((name, value) for name, value in facts.items() if name != "psi")


def _psi_order(psi: Psi) -> tuple[int, ...]:
    return psi if isinstance(psi, tuple) else (psi or 0,)


def _setting_name(facts: dict[str, Any], varying: set[str]) -> str:
    parts = [str(facts["data"]) if "data" in varying else data_name(facts["data"])]
    if "primary" in varying and facts.get("primary") is not None:
        parts.append(f"primary task {facts['primary']}")
    if "task" in varying:
        parts.append(task_of(facts))
    if "trunk" in varying and facts.get("trunk") is not None:
        parts.append(f"trunk {facts['trunk']}")
    if "train_size" in varying:
        parts.append(f"{size_text(facts['train_size'])} training samples")
    if facts["psi"] is not None:
        parts.append(psi_text(facts["psi"]))
    return ", ".join(parts)


def data_name(data: object) -> str:
    """A data set's name; the last part of a path, which says where it lies rather than what it is."""
    text = str(data)
    return text if text.startswith("hf:") else Path(text).name or text


def size_text(size: float | None) -> str:
    """A training size in words: all, a count, or a share."""
    if size is None:
        return "all"
    return f"{100 * size:g} % of the" if 0 < size < 1 else f"{int(size):,}"


def psi_text(psi: object) -> str:
    """ "ψ = 5", or the first entries of an uneven ψ."""
    if isinstance(psi, tuple):
        shown = ", ".join(str(count) for count in psi[:8])
        return f"ψ = [{shown}{', …' if len(psi) > 8 else ''}]"
    return f"ψ = {psi}"


def _method_order(label: str) -> tuple[int, str]:
    method = base_method(label)
    return (METHODS.index(method) if method in METHODS else len(METHODS), label)


def _load_run(folder: Path) -> Run:
    files = RunFolder(folder)
    summary = files.read_summary()
    if not files.metrics.exists():
        raise ValueError(f"{folder} needs metrics.jsonl; it is missing: repeat the run or remove the folder")
    files.verify(files.metrics, summary)
    rows = read_metrics(files.metrics)
    if files.snapshot.exists():
        files.verify(files.snapshot, summary)
    settings = {name: as_now(name, value) for name, value in files.read_settings(summary).items()}
    return Run(folder, summary, pd.DataFrame(rows), flat(settings))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings without nesting, their keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
