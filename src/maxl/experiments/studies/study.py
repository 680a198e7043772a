"""Methods × seeds × settings: every run once, resumable, in parallel, and the table that compares them."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.data import DataSet
from maxl.experiments.runs.build import check, check_clusters, choose_hierarchy, left_out, resolve_device
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.lock import locked, require_unlocked
from maxl.experiments.runs.methods import METHODS
from maxl.experiments.runs.outer import check_held_out
from maxl.experiments.runs.own_inputs import settled
from maxl.experiments.runs.tracked import require_trackers
from maxl.experiments.runs.trunks import chosen
from maxl.experiments.runs.values import nearest
from maxl.experiments.studies.launcher import LEASE, Crew, Launcher
from maxl.experiments.studies.record import identity, read_prints, require_same, write_record
from maxl.experiments.studies.remaining import Remaining, duration_text, lines, time_single
from maxl.experiments.studies.same_data import compared
from maxl.experiments.studies.statistics import parse_psi
from maxl.experiments.studies.tables import divergences, write_tables
from maxl.experiments.studies.variants import irrelevant_fields, value_text, variant_name
from maxl.experiments.studies.workers import LocalProcesses
from maxl.experiments.tracking import TrackerFactory
from maxl.presets import check_choice

if TYPE_CHECKING:
    import pandas as pd

_DATA_FIELDS = (
    *("data", "data_dir", "primary", "human", "probe", "trusted", "task", "train_size", "validation_size"),
    *("image_size", "text_length", "ignore_index", "drop", "types", "augment"),
    *("trunk", "pretrained", "weights", "from_run", "normalisation"),
)
# Fields that ``check`` looks at, beside those of the data.
_NETWORK_FIELDS = (
    *("method", "psi", "generator_trunk", "trunk_output", "trunk_pool"),
    *("freeze", "trunk_learning_rate", "layer_decay", "cluster_features"),
)
# Fields that tell settings apart rather than variants of a method.
_SETTING_FIELDS = ("data", "primary", "task", "trunk", "train_size", "psi")

_A_MOMENT = 60.0  # seconds in which others who train parts of a study have written what it is

Progress = Callable[[int, int, str], None]  # epochs done, epochs in all, what is running


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study: where it lives below the study's folder, its config and its name in the table."""

    path: Path
    config: RunConfig
    label: str


class Study:
    """A set of runs that differ in method, seed and the fields of a grid.

    Every seed uses the same splits and the same initial weights of the parts that methods share, so
    differences between methods are paired.

    Args:
        base: What all runs have in common; its method and seed are not used.
        methods: Names of methods.
        seeds: Seeds, one run of each method and setting for each.
        grid: Further fields with the values they take, in all combinations.

    Raises:
        ValueError: if a method or field is unknown, or there is no seed.
    """

    def __init__(
        self,
        base: RunConfig,
        methods: Sequence[str],
        seeds: Sequence[int],
        grid: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        for method in methods:
            check_choice("--methods", method, METHODS)
        if not methods or not seeds:
            raise ValueError("a study needs at least one of --methods and one of --seeds")
        if negative := [s for s in seeds if s < 0]:
            raise ValueError(f"--seeds needs numbers of at least 0; got {negative[0]}")
        fields = {f.name for f in dataclasses.fields(RunConfig)}
        for name in grid or {}:
            if name in ("method", "seed"):
                raise ValueError(f"--grid takes neither method nor seed; got {name!r}: vary it by --{name}s")
            if name not in fields:
                raise ValueError(f"--grid has an unknown field {name!r}{nearest(name, sorted(fields))}")
        self.base = base
        self.methods = list(dict.fromkeys(methods))
        self.seeds = list(dict.fromkeys(seeds))
        self.grid = {name: list(values) for name, values in (grid or {}).items()}

    def plan(self) -> list[PlannedRun]:
        """All runs, seed after seed, so that an interrupted study has whole seeds to compare."""
        runs: dict[Path, PlannedRun] = {}
        combinations = list(itertools.product(*self.grid.values()))
        for seed, values, method in itertools.product(self.seeds, combinations, self.methods):
            varied = {
                name: value
                for name, value in zip(self.grid, values, strict=True)
                if name not in irrelevant_fields(method)
            }
            config = settled(
                RunConfig.from_dict(
                    {**self.base.to_dict(), **varied, "method": method, "seed": seed}, "--grid"
                )
            )
            # What equals the base keeps the name that it has without a grid, and so is the same run.
            changed = {n: v for n, v in varied.items() if getattr(config, n) != getattr(self.base, n)}
            variant = {n: v for n, v in changed.items() if n not in _SETTING_FIELDS}
            setting = [f"{n}={value_text(v)}" for n, v in changed.items()]
            path = Path("runs", *setting, method, f"seed{seed}")
            label = variant_name(method, variant)
            planned = runs.setdefault(path, PlannedRun(path, config, label))
            if planned.config != config:
                raise ValueError(
                    f"--grid has two values that are both written {'/'.join(path.parts[1:-2])}: leave one out"
                )
        return list(runs.values())

    def run(
        self,
        out: Path,
        *,
        jobs: int | None = None,
        progress: Progress = lambda *_: None,
        tell: Callable[[str], None] = lambda _: None,
        estimate: Callable[[str], None] | None = None,
        track: Sequence[TrackerFactory] = (),
        launcher: Launcher | None = None,
    ) -> pd.DataFrame:
        """Trains what is not finished and writes results.csv, results.parquet and comparisons.csv.

        Runs that diverge are left out of the tables; ``divergences`` names them.

        Args:
            out: The study's folder. Finished runs in it are kept, interrupted ones continued.
            jobs: Runs at a time at most, which changes no result; by default as many as the launcher has room for: here one
                on each GPU, or on the CPU as many as its cores hold at the config's threads, at most 16. With several
                GPUs and device "auto" or "cuda" they take turns: more jobs than GPUs share them.
            progress: Called about twice a second.
            tell: Called before training with what each data set's targets were taken for.
            estimate: Called before training with how long it will take, in words: by the runs that have ended here, or by
                a few steps of single-task training, which are taken for it. Without it nothing is timed.
            track: What makes trackers of each run (``maxl.experiments.tracking``), besides those that the config names.
                Other processes import it: a class or function of a module, or a ``functools.partial`` of one.
            launcher: Where runs are trained; by default processes of this machine.

        Returns:
            One row a run.

        Raises:
            ValueError: if the folder belongs to another study or is in use, if a run cannot be made, if all
                diverge, if ``track`` cannot be imported elsewhere, or if the launcher cannot train there.
            ChildProcessError: if runs ended without a result, as one does whose process has died twice; the tables are of
                the others.
        """
        launcher = launcher or LocalProcesses()
        planned = self.plan()
        _require_importable(track)
        require_unlocked(out)
        todo, data, prints = self._missing(out, planned, tell, elsewhere=launcher.elsewhere)
        single = None
        if estimate is not None and todo and not any(RunFolder(out / p.path).finished for p in planned):
            single = _seconds_of_one(todo[0].config, data[0], elsewhere=launcher.elsewhere)
        del data  # each run has its own
        failed: Mapping[Path, str] = {}
        with _opened(launcher, out, todo) as crew, locked(out):
            write_record(out, identity(self.base), prints)
            if crew is not None:
                failed = self._train(out, planned, crew, jobs, progress, estimate, single, track)
            if not any(RunFolder(out / p.path).finished for p in planned):
                reasons = [f"{path.relative_to(out)} {why}" for path, why in divergences(out).items()]
                raise ValueError(f"no run of {out} has a result: {'; '.join((*reasons, *failed.values()))}")
            results = write_tables(out)
        if failed:
            raise ChildProcessError(
                f"{'; '.join(failed.values())}; {out / 'results.csv'} has the other runs, and the same command tries again"
            )
        return results

    def run_part(
        self,
        out: Path,
        part: tuple[int, int],
        *,
        jobs: int | None = None,
        progress: Progress = lambda *_: None,
        tell: Callable[[str], None] = lambda _: None,
        launcher: Launcher | None = None,
        track: Sequence[TrackerFactory] = (),
    ) -> list[PlannedRun]:
        """Trains what is not finished of a part of the runs, beside others who train other parts; writes no table.

        Args:
            out: As for ``run``; calls for several parts of one study may go on at the same time in it, on any machines.
            part: (k, n): every n-th run of the plan, from the k-th on; k from 1 to n.
            jobs, progress, tell, launcher, track: As for ``run``.

        Returns:
            The runs of the part.

        Raises:
            ValueError, ChildProcessError: as ``run``; ValueError for a part that does not exist.
        """
        number, count = part
        if not 1 <= number <= count:
            raise ValueError(f"--part needs K/N with K from 1 to N; got {number}/{count}")
        launcher = launcher or LocalProcesses(wait=LEASE)
        planned = self.plan()[number - 1 :: count]
        _require_importable(track)
        todo, _, prints = self._missing(out, planned, tell, elsewhere=launcher.elsewhere)
        with _opened(launcher, out, todo) as crew:
            with locked(out, wait=_A_MOMENT):  # nobody has the whole study
                write_record(out, identity(self.base), prints)
            if crew is not None:
                failed = self._train(out, planned, crew, jobs, progress, None, None, track)
                if failed:
                    raise ChildProcessError("; ".join(failed.values()))
        return planned

    def missing(self, out: Path, tell: Callable[[str], None] = lambda _: None) -> list[int]:
        """The runs that are not finished, as numbers of the plan from 1: those that other machines are to train.

        All that ``run`` would refuse is refused, but for devices that this machine lacks. Nothing is written.

        Args:
            out, tell: As for ``run``.

        Raises:
            ValueError: as ``run``.
        """
        planned = self.plan()
        require_unlocked(out)
        todo, _, _ = self._missing(out, planned, tell, elsewhere=True)
        return [number for number, run in enumerate(planned, start=1) if run in todo]

    def _missing(
        self, out: Path, planned: Sequence[PlannedRun], tell: Callable[[str], None], *, elsewhere: bool
    ) -> tuple[list[PlannedRun], list[DataSet], dict[str, Any]]:
        """The runs that are to do, after all that can be refused before anything is written, their data sets, and what
        identifies the data of all.
        """
        require_trackers(self.base)
        todo = _todo(out, planned)
        data, starts, prints = self._check(out, planned, todo, elsewhere=elsewhere)
        for saw in dict.fromkeys((*(one.saw for one in data), *starts)):
            tell(saw)
        return todo, data, prints

    def _train(
        self,
        out: Path,
        planned: Sequence[PlannedRun],
        crew: Crew,
        jobs: int | None,
        progress: Progress,
        estimate: Callable[[str], None] | None,
        single: float | None,
        track: Sequence[TrackerFactory],
    ) -> Mapping[Path, str]:
        """Trains what is not finished; returns what ended without a result, with the reasons."""
        todo = _todo(out, planned)
        total = sum(p.config.epochs for p in planned)
        places = max(1, min(crew.at_a_time(jobs), len(todo)))
        remaining = Remaining(out, planned, places)
        if todo and estimate is not None and (seconds := remaining.expected(single)) is not None:
            side = f", {places} at a time" if places > 1 else ""
            many = f"{len(todo)} run{'s' * (len(todo) > 1)}"
            estimate(f"about {duration_text(seconds)} for {many}{side}, once processes have started")

        def tick(left: int) -> None:
            seconds = remaining.left() if left else None
            time_left = "" if seconds is None else f", {duration_text(seconds)} left"
            done = sum(lines(RunFolder(out / p.path)) for p in planned)
            progress(done, total, f"{len(planned) - left}/{len(planned)} runs{time_left}")

        return crew.train(
            [(p.config, out / p.path, p.label) for p in todo], most=jobs, tick=tick, track=track
        )

    def _check(
        self, out: Path, planned: Sequence[PlannedRun], todo: Sequence[PlannedRun], *, elsewhere: bool
    ) -> tuple[list[DataSet], list[str], dict[str, Any]]:
        """What can be found out before anything is written; returns the data sets of the runs that are to do, what those
        start from, and what identifies the data of all. Of runs that are trained elsewhere the device may be missing here.
        """
        require_same(out, identity(self.base))
        if not (out / "study.yaml").exists() and (
            RunFolder(out).started or (out.exists() and not out.is_dir())
        ):
            raise ValueError(f"--out needs a folder for a study; {out} holds something else: choose another")
        for p in planned:
            if (folder := RunFolder(out / p.path)).config.exists():
                stored = folder.read_config(trust=True)  # to be compared alone
                other = {n for n, v in stored.to_dict().items() if p.config.to_dict()[n] != v}
                if other := other - MACHINE_FIELDS:
                    raise ValueError(
                        f"--out needs a new folder or one of the same study; {out / p.path} differs in "
                        f"{', '.join(sorted(other))}"
                    )
        loaded = dict[tuple[Any, ...], DataSet]()
        prints = read_prints(out)
        checked, starts = set(), list[str]()
        keys = {p: tuple(getattr(p.config, name) for name in _DATA_FIELDS) for p in (*todo, *planned)}
        for p, key in keys.items():
            if key not in loaded:  # by one seed, so that it can be compared whatever the runs' seeds
                loaded[key] = load_data(dataclasses.replace(p.config, seed=0))
                prints = compared(prints, key, loaded[key], out, "study")
        _require_apart({p: loaded[key] for p, key in keys.items()})
        for p in todo:
            key = keys[p]
            check_held_out(p.config, len(loaded[key].train))
            check_clusters(p.config, loaded[key], choose_hierarchy(p.config, loaded[key]))
            rest = (key, *(getattr(p.config, name) for name in _NETWORK_FIELDS))
            if rest not in checked:
                here = dataclasses.replace(p.config, device="cpu") if elsewhere else p.config
                starts += [check(here, loaded[key]), left_out(p.config, loaded[key])]
                checked.add(rest)
        return list(loaded.values()) if todo else [], starts, prints


def _require_apart(planned: Mapping[PlannedRun, DataSet]) -> None:
    """ValueError if two runs are one in all that a comparison tells apart, such as trunks "auto" and what that stands for."""
    known = dict[tuple[Any, ...], PlannedRun]()
    for p, data in planned.items():
        trunk = chosen(p.config.trunk, data.task, data.input_shape)
        names = (p.label, p.config.seed, p.config.data, p.config.primary, data.task, trunk)
        other = known.setdefault((*names, len(data.train), parse_psi(p.config.psi)), p)
        if other is not p:
            a, b = ("/".join(one.path.parts[1:-2]) or "what it is without" for one in (other, p))
            raise ValueError(
                f"--grid has two values that are the same setting here, {a} and {b}: leave one out"
            )


def _todo(out: Path, planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that have not ended."""
    folders = {p: RunFolder(out / p.path) for p in planned}
    return [p for p, folder in folders.items() if not folder.finished and not folder.diverged]


def _opened(launcher: Launcher, out: Path, todo: Sequence[PlannedRun]) -> AbstractContextManager[Crew | None]:
    """The launcher's crew, or None where there is nothing to do."""
    return launcher.open(out, [p.config for p in todo]) if todo else nullcontext()


def _seconds_of_one(config: RunConfig, data: DataSet, *, elsewhere: bool) -> float | None:
    """Of a single-task run; None where that is not known, as of a device that is elsewhere."""
    if elsewhere:
        try:
            resolve_device(config.device)
        except ValueError:
            return None
    return time_single(config, data)


def _require_importable(track: Sequence[TrackerFactory]) -> None:
    """ValueError unless factories of trackers reach the processes that train."""
    for factory in track:
        try:
            pickle.dumps(factory)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"track needs what other processes can import, a class or function of a module; got {factory!r}"
            ) from error
