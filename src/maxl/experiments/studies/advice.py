"""Advice: do finer labels help on these data, and which? The cheapest step first, and no more than that takes.

| step | trains | decides, by validation results alone |
|---|---|---|
| tuning | single-task, some learning rates | the learning rate of everything that follows |
| screening | single-task, uniform labels, clusters, human classes, and shuffled controls | whether any can help; seeds are added until that is known, or the budget's share is spent |
| learned | learned labels, where it is not known that finer labels show no effect | which method is the candidate |
| final | single-task, the candidate and its control, fresh seeds | nothing: its test results are the advice |

No seed serves two steps, and the number of final seeds is fixed before the first of them is trained.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxl.experiments.runs.build import check, check_clusters, choose_hierarchy
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.files import read_json, write_at_once
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.lock import locked, require_unlocked
from maxl.experiments.runs.measures import main_measure
from maxl.experiments.runs.outer import check_held_out
from maxl.experiments.studies.advice_plan import as_json, read_plan
from maxl.experiments.studies.aims import Aim
from maxl.experiments.studies.collapses import of_methods, standing
from maxl.experiments.studies.conclusion import conclude, finite
from maxl.experiments.studies.decisions import (
    BASELINE,
    Screened,
    best_rate,
    blind,
    by_method,
    diverged,
    further_rate,
    rounded,
    screen,
)
from maxl.experiments.studies.pace import time_runs
from maxl.experiments.studies.reckoning import Reckoning
from maxl.experiments.studies.remaining import part_done
from maxl.experiments.studies.resolution import counted, excludes
from maxl.experiments.studies.same_data import compared
from maxl.experiments.studies.statistics import RELEVANT
from maxl.experiments.studies.study import Study
from maxl.experiments.studies.workers import runs_at_a_time

if TYPE_CHECKING:
    import pandas as pd

LEARNED = ("maxl", "wamal")  # prototypes take many times as long, and are not shown to beat what is cheap
# Seeds of each step: none serves two.
TUNING_SEEDS, SCREENING_SEEDS, FINAL_SEEDS = range(1000, 1002), range(2000, 2010), range(3000, 3020)
FEWEST = 3  # screening seeds that say something of a spread
FEWEST_FINAL = 6  # seeds that can claim a difference in which all agree: 2^(1 - 6) is below 0.05
_LOOKS = (5, 7, 10)  # screening seeds after the first look, at which it is asked whether that is enough
_AS_TOLD = 1.5  # times an estimate, within which it holds
_EXTENSIONS = 2  # of the learning rates, beyond the lowest or highest one
_NOTED_EVERY = 10.0  # seconds, so that a process that is killed has noted nearly all of its time

Progress = Callable[[str, int, int, str], None]  # step, epochs done, epochs in all, what is running


def advise(
    base: RunConfig,
    out: Path,
    *,
    aim: str = "accuracy",
    budget: float = 60.0,
    jobs: int | None = None,
    progress: Progress = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Says whether finer labels, and which, help on a data set; writes ``advice.json`` and what it rests on.

    Calling it again continues what was interrupted, and repeats the advice where it is finished.

    Args:
        base: The data and how to train; its method and seed are not used. With ``human`` the human classes are tried too.
        out: The folder: ``tuning``, ``screening`` and ``final`` are studies, ``plan.json`` the decisions.
        aim: "accuracy", the task's main measure; "structure", the few-shot probe of ``base.probe``; or "noise", the main
            measure where labels are partly wrong and ``base.trusted`` says of which samples they are right.
        budget: Minutes in all, earlier calls on the folder included. The last step may end a little later.
        jobs: Runs at a time; the study's own choice by default.
        progress: Called about twice a second.
        tell: Called with what is about to be done, in sentences.

    Returns:
        verdict ("helps", "does not help" or "cannot tell"), method (the best candidate), against, measure, difference,
        interval, seeds, detectable, control (the comparison with it, or None), recommended (the method to use), cost
        (training time, in single-task trainings), minutes, predicted_minutes, learning_rate, sentences and more:
        docs/commands.md.

    Raises:
        ValueError: if the aim does not fit the data, the budget does not suffice for the shortest answer, the folder
            holds something else, or training diverges.
    """
    wanted = Aim(aim)
    wanted.check(base)
    if not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"--budget needs to be a number of minutes above 0; got {budget:g}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs needs to be at least 1; got {jobs}")
    if base.cluster_features == "trunk" and (base.patience is not None or base.keep == "best"):
        word = "--patience" if base.patience is not None else "--keep best"
        raise ValueError(
            f"--cluster-features trunk trains a single-task network to its last epoch, and advice clusters such features: "
            f"use it without {word}, or with --cluster-features input"
        )
    if not base.validation_size:
        base = dataclasses.replace(base, validation_size=wanted.validation)
    require_unlocked(out)
    procedure = _Procedure(base, out, wanted, budget, jobs, progress, tell)
    procedure.prepare()  # writes nothing
    with locked(out):
        return procedure.run()


class _Procedure:
    """The steps, each of which is skipped where ``plan.json`` has its decision."""

    def __init__(
        self,
        base: RunConfig,
        out: Path,
        aim: Aim,
        budget: float,
        jobs: int | None,
        progress: Progress,
        tell: Callable[[str], None],
    ) -> None:
        self.base, self.out, self.budget, self.progress, self.tell = base, out, budget, progress, tell
        self.jobs, self.noted = jobs, time.monotonic()
        fixed = {n: v for n, v in base.to_dict().items() if n not in (*MACHINE_FIELDS, "method", "seed")}
        identity = {"aim": aim.name, "config": fixed}
        self.plan = read_plan(out, identity)
        data = load_data(
            dataclasses.replace(base, seed=0)
        )  # by which it is known again, whatever the call's seed
        self.plan["fingerprints"] = compared(
            self.plan.get("fingerprints") or {}, ["advice"], data, out, "advice"
        )
        if data.saw:
            tell(data.saw)
        if data.validation is None:
            raise ValueError(
                f"--validation-size needs to leave a sample to decide by; got {base.validation_size} of the "
                f"{'trusted' if base.trusted is not None else 'training'} samples: raise it"
            )
        self.aim, self.measure = aim, aim.measure(data.task)
        self.fixed, self.learned = aim.cheap(base), aim.learned(LEARNED)
        self.data = data
        self.started = time.monotonic()
        self.before = float(self.plan.get("seconds", 0.0))

    @property
    def seconds(self) -> float:
        """Spent in all calls."""
        return self.before + time.monotonic() - self.started

    def prepare(self) -> None:
        """What can be refused, or is to be said, before anything is written."""
        if (self.out / "advice.json").exists():
            if self.budget > float(self.plan["budget"]):
                self.tell(
                    f"{self.out} is finished, and is shown as it is: seeds that are added once the result is known would be "
                    "chosen by the test part; take another --out for a larger budget"
                )
            return
        for method in (BASELINE, *self.fixed, *self.learned):
            config = dataclasses.replace(self.base, method=method)
            check_clusters(config, self.data, choose_hierarchy(config, self.data))
            check_held_out(config, len(self.data.train))
        check(dataclasses.replace(self.base, method=BASELINE), self.data)
        if "predicted_minutes" not in self.plan:
            self._estimate()

    def run(self) -> dict[str, Any]:
        """All steps that are left."""
        done = self.out / "advice.json"
        if done.exists():
            return read_json(done)
        self._note()
        try:
            if "learning_rate" not in self.plan:
                self._tune()
                self._tell_anew()
            tuned = dataclasses.replace(self.base, learning_rate=float(self.plan["learning_rate"]))
            if "candidate" not in self.plan:
                self._screen(tuned)
            advice = self._conclude(tuned)
        finally:
            self._note(seconds=self.seconds)
        write_at_once(done, as_json(advice))
        return advice

    def _note(self, **decisions: Any) -> None:
        self.noted = time.monotonic()
        self.plan |= decisions | {"budget": self.budget}
        write_at_once(self.out / "plan.json", as_json(self.plan))

    # Time

    def _estimate(self) -> None:
        """Times a short run, refuses a budget that cannot do, and says how long it may take."""
        per_run, startup = time_runs(self.base)
        self.plan |= {"seconds_per_run": per_run, "startup": startup, "pace": 1.0}
        seconds = self._reckoning.seconds
        tuning = seconds([BASELINE] * 3, len(TUNING_SEEDS)) + 3 * startup
        cheap = [BASELINE, *self.fixed]
        least = tuning + seconds(cheap, FEWEST) + seconds([BASELINE, self.fixed[0]], FEWEST_FINAL)
        if least > 60 * self.budget:
            raise ValueError(
                f"--budget {self.budget:g} is too little: the shortest answer takes about {math.ceil(least / 60)} minutes "
                "here; raise it, or lower --epochs or --train-size"
            )
        most = tuning + seconds([*cheap, *self.learned], len(SCREENING_SEEDS))
        most += seconds([BASELINE, self.learned[0], self.fixed[0]], len(FINAL_SEEDS))
        further = seconds([BASELINE], len(TUNING_SEEDS))  # one learning rate beyond the three
        predicted = (tuning + further + self._likely()) / 60
        self.tell(
            f"{least / 60:.1f} to {min(self.budget, most / 60):.1f} minutes, usually about {min(self.budget, predicted):.1f}: single-task "
            f"training is tuned, {', '.join(self.fixed)} are screened, {self.aim.of_generators.lower()} only if need be, and fresh seeds have the last word"
        )
        self.plan["predicted_minutes"] = predicted

    def _likely(self) -> float:
        """Seconds of what follows tuning, where all goes as it usually does: an answer at the second look, and generators
        if the aim asks for them."""
        looks, screened = (_LOOKS[0] if _LOOKS else FEWEST), [BASELINE, *self.fixed]
        seeds = len(FINAL_SEEDS) // 2 if self.aim.usually_helped else max(looks, FEWEST_FINAL)
        open_ended = not excludes(self._validation, RELEVANT)
        if open_ended and not self.aim.usually_helped:
            # Few samples leave everything open until seeds run out.
            looks, seeds = len(SCREENING_SEEDS), len(FINAL_SEEDS)
        if open_ended or self.aim.usually_helped:
            screened += self.learned
        seconds = self._reckoning.seconds
        return seconds(screened, looks) + seconds([BASELINE, *self.fixed[:2]], min(seeds, len(FINAL_SEEDS)))

    def _tell_anew(self) -> None:
        """How long it may take by what tuning took, where that was not as estimated: a busy machine is slower."""
        pace = float(self.plan["pace"])
        if 1 / _AS_TOLD < pace < _AS_TOLD:
            return
        minutes = min(self.budget, (self.seconds + self._likely()) / 60)
        self.tell(
            f"runs take {pace:.1f} times as long as estimated: usually about {minutes:.1f} minutes in all, then"
        )

    @property
    def _reckoning(self) -> Reckoning:
        """With what is known of the time of runs by now."""
        per_run, startup, pace = (float(self.plan[n]) for n in ("seconds_per_run", "startup", "pace"))
        return Reckoning(per_run, startup, self.jobs or runs_at_a_time([self.base]), pace)

    def _train(self, step: str, study: Study) -> pd.DataFrame:
        """Trains what is missing of a study, and learns from it how long runs take."""
        folder, start = self.out / step, time.monotonic()
        todo = [
            (p.config.method, 1 - done)
            for p in study.plan()
            if (done := part_done(RunFolder(folder / p.path), p.config.epochs)) < 1
        ]
        expected = self._reckoning.of(todo)

        def tick(done: int, total: int, note: str) -> None:
            if time.monotonic() - self.noted > _NOTED_EVERY:
                self._note(seconds=self.seconds)
            self.progress(step, done, total, note)

        results = study.run(folder, jobs=self.jobs, progress=tick)
        if todo:
            taken = time.monotonic() - start - float(self.plan["startup"])
            self.plan["pace"] = float(self.plan["pace"]) * max(0.1, taken / expected)
        return results

    def _left(self, reserve: float) -> float:
        """Seconds of the budget, but for a reserve."""
        return 60 * self.budget - self.seconds - reserve

    # Steps

    def _tune(self) -> None:
        rates = [rounded(self.base.learning_rate * factor) for factor in (1 / 3, 1, 3)]
        key = f"validation_{main_measure(self.data.task).name}"
        for _ in range(_EXTENSIONS + 1):
            study = Study(self.base, [BASELINE], list(TUNING_SEEDS), {"learning_rate": rates})
            results = blind(self._train("tuning", study))
            of_run = {str(p.path): p.config.learning_rate for p in study.plan()}
            values: dict[float, list[float]] = {rate: [] for rate in rates}
            for run, value in zip(results["run"], results[key], strict=True):
                if run in of_run:
                    values[of_run[run]].append(float(value))
            best = best_rate(values, len(TUNING_SEEDS))
            further = further_rate(rates, best)
            if further is None:
                break
            rates = [*rates, further]
        means = {f"{rate:g}": sum(v) / len(v) for rate, v in values.items() if v}
        self._note(learning_rate=best, tuning={"measure": key, "means": means}, seconds=self.seconds)

    def _screen(self, tuned: RunConfig) -> None:
        """Validation results of all fixed labels, seed after seed, and of learned ones unless nothing helps."""
        methods = [BASELINE, *self.fixed]
        reserve = self._reckoning.seconds(
            [BASELINE, *self.fixed[-2:]] if self.aim.of_noise else [BASELINE, "kmeans", "kmeans"],
            FEWEST_FINAL,
        )
        # What is decided is noted before it is trained: the same call again, after an interruption, decides the same.
        count, learned = int(self.plan.get("looked", FEWEST)), self.plan.get("learned")
        found = self._screened(tuned, methods, count)
        for more in [look for look in _LOOKS if look > count and learned is None]:
            further = self._reckoning.seeds(methods, self._left(reserve), more - count)
            if not found.open or further < more - count:
                break
            count = more
            self._note(looked=count, seconds=self.seconds)
            found = self._screened(tuned, methods, count)
        if learned is None:
            learned = self._whether_learned(found, count, reserve)
            self._note(looked=count, learned=learned, seconds=self.seconds)
        if learned == "run":
            found = self._screened(tuned, [*methods, *self.learned], count)
        if ended := self.plan["diverged"]:
            self.tell(
                f"runs of {', '.join(ended)} diverged at a learning rate of {tuned.learning_rate:g}: {BASELINE} aside, what diverges is no candidate"
            )
        if lost := self.plan["collapsed"].get(BASELINE):
            self.tell(
                f"{len(lost)} of {count} runs of {BASELINE} collapsed at a learning rate of {tuned.learning_rate:g}: they choose nothing"
            )
        candidate = found.candidate
        control = self.aim.control(candidate, found.differences)
        final = [BASELINE, candidate, *([] if control is None else [control])]
        needed = found.seeds_needed(len(FINAL_SEEDS), FEWEST_FINAL)
        fitting = max(FEWEST_FINAL, self._reckoning.seeds(final, self._left(0.0), len(FINAL_SEEDS)))
        seeds = min(needed, fitting, len(FINAL_SEEDS))
        self._note(
            screening={
                "measure": self._key("validation"),
                "seeds": count,
                "no_effect": found.no_effect,
                "differences": {
                    name: {"mean": finite(d.mean), "low": finite(d.low), "high": finite(d.high)}
                    for name, d in found.differences.items()
                },
            },
            final={"methods": final, "seeds": list(FINAL_SEEDS[:seeds])},
            candidate=candidate,
            seconds=self.seconds,
        )

    def _whether_learned(self, found: Screened, count: int, reserve: float) -> str:
        """Whether learned labels are run, or why not."""
        if found.no_effect:
            return f"not needed: {self.aim.no_effect.lower()} show no effect here"
        reckoning, left = self._reckoning, self._left(reserve)
        if reckoning.seeds(self.learned, left, count) == count:
            return "run"
        lacking = reckoning.seconds(self.learned, count) + reckoning.startup - left
        short = math.ceil(lacking / 60)
        return f"left out: the budget is about {short} minute{'s'[: short != 1]} short of them"

    def _screened(self, tuned: RunConfig, methods: Sequence[str], count: int) -> Screened:
        results = blind(self._train("screening", Study(tuned, methods, list(SCREENING_SEEDS[:count]))))
        wanted = results[results["seed"].isin(SCREENING_SEEDS[:count]) & results["method"].isin(methods)]
        values = by_method(wanted, self._key("validation"))
        lost = of_methods(values, self._validation)
        self.plan["collapsed"] = {name: list(runs) for name, runs in lost.items()}
        ended = diverged(values, methods, SCREENING_SEEDS[:count])
        self.plan["diverged"] = ended
        whole = {name: v for name, v in values.items() if name == BASELINE or name not in ended}
        return screen(standing(whole, lost), self._validation)

    def _conclude(self, tuned: RunConfig) -> dict[str, Any]:
        final = self.plan["final"]
        results = self._train("final", Study(tuned, final["methods"], final["seeds"]))
        samples = counted(self.data.task, len(self.data.test))
        return conclude(results, self.plan, self.data.task, samples, len(self.data.test)) | {
            "minutes": self.seconds / 60,
            "predicted_minutes": min(self.budget, float(self.plan["predicted_minutes"])),
        }

    @property
    def _validation(self) -> int | None:
        """Samples that decisions are made by, where the task's measures count them."""
        part = self.data.validation
        return counted(self.data.task, 0 if part is None else len(part))

    def _key(self, part: str) -> str:
        return f"{part}_{self.measure.name}"
