"""A search for settings by validation results: Optuna proposes and prunes, and a journal makes it resumable.

| file in the folder | what |
|---|---|
| search.json | what is searched, where, and the time spent |
| journal.log | Optuna's record of all trials |
| trials/0000, ... | a run folder each, without its checkpoints once the trial has ended |
| trials.csv | a row a trial |
| best.yaml | settings of the best trial, for ``--config`` |
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.data import DataSet
from maxl.experiments.runs.build import check
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.files import read_json, write_at_once, write_whole
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.lock import locked, require_unlocked
from maxl.experiments.runs.measures import Measure, main_measure
from maxl.experiments.runs.tracked import require_trackers
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.runs.values import as_now
from maxl.experiments.studies.remaining import COST, duration_text, time_single
from maxl.experiments.studies.reported import ENDED, STATES, Pruned, Reports, ended_trials
from maxl.experiments.studies.same_data import compared
from maxl.experiments.studies.space import (
    Between,
    Space,
    changed,
    check_space,
    default_space,
    space_dict,
)
from maxl.experiments.tracking import TrackerFactory

if TYPE_CHECKING:
    import optuna
    import pandas as pd

VALIDATION = 0.2  # of the training part, where none is asked for
_FIRST = 5  # trials that are never pruned
_NAME = "maxl"
_logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]  # trials ended, trials in all, what there is to say


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        best: Settings of the best trial, with the validation part that was asked for.
        value: Its validation result.
        measure: The key of that result in metrics.jsonl.
        trials: A row a trial, in order: trial, state (finished, pruned, diverged), value, epochs and each field that varied.
        out: The search's folder.
    """

    best: RunConfig
    value: float
    measure: str
    trials: pd.DataFrame
    out: Path

    def ranked(self, most: int = 10) -> pd.DataFrame:
        """The trials that were trained to their end, the best first."""
        finished = self.trials[self.trials["state"] == "finished"]
        return finished.sort_values("value", ascending=False, kind="stable").head(most)

    def _repr_html_(self) -> str:
        return str(self.ranked().to_html(index=False))


def tune(
    base: RunConfig,
    out: Path,
    *,
    trials: int = 30,
    budget: float = math.inf,
    space: Space | None = None,
    data: DataSet | None = None,
    progress: Progress = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
    estimate: Callable[[str], None] | None = None,
    track: Sequence[TrackerFactory] = (),
) -> Tuned:
    """Searches for the settings with the best validation result; the test part decides nothing.

    A trial is one run with the seed of ``base``. It is pruned where its validation result after an epoch is below the
    median of the trials before it. Calling it again continues what was interrupted, and adds trials where more are asked for;
    the trials are the same as without an interruption.

    Args:
        base: The run to tune. Without a validation part a fifth of the training part judges.
        out: The folder.
        trials: In all, earlier calls included.
        budget: Minutes in all, earlier calls included; the last trial may end a little later. One trial always runs.
        space: Where to look; ``default_space(base)`` by default.
        data: Its data set with a validation part, if that is loaded already.
        progress: Called after each epoch.
        tell: Called with what is to be said, in sentences.
        estimate: Called before the first trial with how long a search will take, in words, by a few steps or epochs of single-task
            training, which are taken for it. Without it nothing is timed.
        track: What makes trackers of each trial, besides those that the config names.

    Raises:
        ValueError: if Optuna is not installed, if the folder holds something else or is in use, if the space does not fit
            the run, or if no trial has ended without diverging.
    """
    if find_spec("optuna") is None:
        raise ValueError('a search needs optuna: pip install "maxl-torch[tune]"')
    if trials < 1:
        raise ValueError(f"--trials needs to be at least 1; got {trials}")
    if not budget > 0:
        raise ValueError(f"--budget needs to be a number of minutes above 0; got {budget:g}")
    space = default_space(base) if space is None else space
    check_space(space, base)
    require_trackers(base)
    require_unlocked(out)
    search = _Search(base, out, space, data, track)  # writes nothing
    if search.data.saw:
        tell(search.data.saw)
    if estimate is not None and (said := search.expected(trials, 60 * budget)):
        estimate(said)
    with locked(out), _quiet_optuna():
        return search.run(trials, budget, progress)


class _Search:
    """A search and its folder."""

    def __init__(
        self,
        base: RunConfig,
        out: Path,
        space: Space,
        data: DataSet | None,
        track: Sequence[TrackerFactory],
    ) -> None:
        self.asked, self.out, self.space, self.track = base, out, space, track
        self.base = base if base.validation_size else dataclasses.replace(base, validation_size=VALIDATION)
        fixed = {n: v for n, v in base.to_dict().items() if n not in MACHINE_FIELDS and n not in space}
        self.identity = {"config": fixed, "space": space_dict(space)}
        self.record: dict[str, Any] = self._read(self.identity)
        self.data = load_data(self.base) if data is None else data
        known = self.record.get("fingerprints") or {}
        self.record["fingerprints"] = compared(known, ["search"], self.data, out, "search")
        for end in (0, -1):
            check(changed(self.base, {name: values.ends[end] for name, values in space.items()}), self.data)
        self.measure: Measure = main_measure(self.data.task)
        self.key = f"validation_{self.measure.name}"
        self.started, self.before = time.monotonic(), float(self.record.get("seconds", 0.0))

    def _read(self, identity: dict[str, Any]) -> dict[str, Any]:
        """The folder's record; ValueError if it is of something else."""
        file = self.out / "search.json"
        if not file.exists():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.glob("[!.]*"))):
                raise ValueError(
                    f"--out needs a new folder or one of the same search; {self.out} holds something else"
                )
            return identity
        record = read_json(file)
        for part in ("config", "space"):
            stored = record.get(part) or {}
            for name in {**identity[part], **stored}:
                if as_now(name, stored.get(name)) != as_now(name, identity[part].get(name)):
                    raise ValueError(
                        f"--out needs a new folder or one of the same search; {self.out} was made with {name} "
                        f"{as_now(name, stored.get(name))!r}, not {identity[part].get(name)!r}"
                    )
        return record

    @property
    def seconds(self) -> float:
        """Spent in all calls."""
        return self.before + time.monotonic() - self.started

    def expected(self, trials: int, budget: float) -> str | None:
        """How long a new search takes at most, in words; None of one that goes on, or where that is not known.

        Args:
            trials: In all.
            budget: Seconds in all.
        """
        single = None if self.before else time_single(self.base, self.data)
        if single is None:
            return None
        each = single * COST.get(self.base.method, 1.0)
        cut = f", of which the budget allows {duration_text(budget)}" if each * trials > budget else ""
        return (
            f"about {duration_text(each)} a trial, {duration_text(each * trials)} for {trials}{cut}; those that fall behind end "
            "earlier"
        )

    def _note(self) -> None:
        self.record["seconds"] = self.seconds
        write_at_once(self.out / "search.json", json.dumps(self.record, indent=2).encode() + b"\n")

    def run(self, trials: int, budget: float, progress: Progress) -> Tuned:
        """All trials that are left."""
        self._read(self.identity)  # another call may have begun since
        self._note()
        study = self._study()
        try:
            while (ended := len(ended_trials(study))) < trials and self._affordable(ended, 60 * budget):
                self._trial(study, ended, lambda note, ended=ended: progress(ended, trials, note))  # type: ignore[misc]
                self._note()
                progress(ended + 1, trials, self._best_text(study))
        finally:
            self._note()
        return self._conclude(study)

    def _affordable(self, ended: int, budget: float) -> bool:
        """Whether a further trial is likely to end within the budget, by the mean of those before it."""
        return ended == 0 or self.seconds * (ended + 1) / ended <= budget

    def _study(self) -> optuna.Study:
        """Optuna's, from the journal; trials that an interruption has left are asked for once more."""
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        journal = self.out / "journal.log"
        lock = Path(f"{journal}.lock")
        lock.unlink(missing_ok=True)  # the folder is ours: whoever left it has ended
        storage = optuna.storages.JournalStorage(
            JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
        )
        pruner = optuna.pruners.MedianPruner(_FIRST, n_warmup_steps=max(1, self.base.epochs // 5))
        study = optuna.create_study(
            storage=storage, study_name=_NAME, direction="maximize", pruner=pruner, load_if_exists=True
        )
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            if (word := trial.user_attrs.get(ENDED)) is not None:  # it has ended, and was about to say so
                value = self._result(self._folder(len(ended_trials(study)))) if word == "finished" else None
                study.tell(trial.number, value, optuna.trial.TrialState[STATES[word]])
                continue
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
        return study

    def _folder(self, number: int) -> RunFolder:
        return RunFolder(self.out / "trials" / f"{number:04d}")

    def _trial(self, study: optuna.Study, number: int, note: Callable[[str], None]) -> None:
        """Trains one trial to its end, or until it is pruned."""
        import optuna

        # A new sampler for each trial: what it proposes depends on the trials before, not on interruptions.
        seed = (self.base.seed * 1_000_003 + number) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask({name: _distribution(values) for name, values in self.space.items()})
        config = changed(self.base, trial.params)
        folder = self._folder(number)
        _logger.info("trial %d: %s", number, _values_text(trial.params))
        value, word = None, "finished"
        try:
            value = self._value(config, folder, Reports(trial, folder, self.key, self.base.epochs, note))
        except Pruned:
            word = "pruned"
        except FloatingPointError:
            word = "diverged"
        except ValueError as error:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise ValueError(f"trial {number}, with {_values_text(trial.params)}: {error}") from error
        trial.set_user_attr("epochs", len(folder.read_metrics()))
        trial.set_user_attr(ENDED, word)  # last, as it says that all is there
        study.tell(trial, value, optuna.trial.TrialState[STATES[word]])
        shutil.rmtree(folder.checkpoint.parent, ignore_errors=True)  # of no use now, and large

    def _value(self, config: RunConfig, folder: RunFolder, report: Reports) -> float:
        """The validation result of a trial, begun, continued or there already."""
        if folder.diverged:
            raise FloatingPointError(folder.read_divergence())
        report.catch_up()
        if folder.started and not folder.finished:
            stored = folder.read_config(trust=True).to_dict()  # to be compared alone
            if any(v != stored[n] for n, v in config.to_dict().items() if n not in MACHINE_FIELDS):
                raise ValueError(f"{folder.path} has other settings: it was changed; remove it")
            resume(folder.path, data=self.data, report=report, track=self.track, trust=True)
        elif not folder.finished:
            train(config, folder.path, data=self.data, report=report, track=self.track)
        return self._result(folder)

    def _result(self, folder: RunFolder) -> float:
        """Of a finished trial."""
        value = folder.read_summary().get(self.key)
        if value is None or not math.isfinite(float(value)):
            raise ValueError(f"a search needs {self.key} to be a number; got {value}")
        return float(value)

    def _best_text(self, study: optuna.Study) -> str:
        values = [t.value for t in ended_trials(study) if t.value is not None]
        return f"best {self.measure.text(max(values))}" if values else ""

    def _conclude(self, study: optuna.Study) -> Tuned:
        import pandas as pd

        rows = [
            {
                "trial": number,
                "state": trial.user_attrs[ENDED],
                "value": trial.value if trial.user_attrs[ENDED] == "finished" else None,
                "epochs": trial.user_attrs.get("epochs"),
                **trial.params,
            }
            for number, trial in enumerate(ended_trials(study))
        ]
        table = pd.DataFrame(rows)
        write_whole(self.out / "trials.csv", lambda file: table.to_csv(file, index=False))
        finished = [row for row in rows if row["state"] == "finished"]
        if not finished:
            raise ValueError(
                f"no trial of {self.out} has ended without diverging: lower the learning rates with --space"
            )
        best = max(finished, key=lambda row: row["value"])  # the first of equals
        config = changed(self.asked, {name: best[name] for name in self.space})
        write_at_once(self.out / "best.yaml", config.to_yaml().encode())
        return Tuned(config, float(best["value"]), self.key, table, self.out)


def _distribution(values: Any) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Between):
        return CategoricalDistribution(values.values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _values_text(values: dict[str, Any]) -> str:
    return ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in values.items())


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Within, Optuna says nothing by itself."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
