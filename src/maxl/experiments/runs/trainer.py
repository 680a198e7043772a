"""One run: a config in, a run folder out.

fit → one epoch → one step
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maxl.experiments.data import Batch, BatchStream, DataSet, Split, evaluation_batches
from maxl.experiments.runs.agreement import agreeing
from maxl.experiments.runs.best import Best
from maxl.experiments.runs.build import Setup, build, choose_hierarchy, resolve_device
from maxl.experiments.runs.checkpoint import load_checkpoint, save_checkpoint
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.diagnostics import cosine_metrics, label_metrics
from maxl.experiments.runs.divergence import recorded_divergence, recorded_preparation, require_finite
from maxl.experiments.runs.evaluation import (
    calibrate,
    evaluate,
)
from maxl.experiments.runs.fingerprint import fingerprint
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.lock import locked_by_first, require_unlocked
from maxl.experiments.runs.machine import PeakMemory, origin, tensor_float32, threads
from maxl.experiments.runs.measures import kept, score
from maxl.experiments.runs.memory import needing_memory, smaller_batch
from maxl.experiments.runs.monitoring import Report, Totals
from maxl.experiments.runs.outer import META_PASS, OuterBatch, OuterData
from maxl.experiments.runs.own_inputs import settled
from maxl.experiments.runs.processes import ALONE, Processes
from maxl.experiments.runs.result import write_result
from maxl.experiments.runs.signals import HeldSignals
from maxl.experiments.runs.start import load_start, require_same
from maxl.experiments.runs.state import restore, state_of
from maxl.experiments.runs.stepping import plain_step, taught_step, training_stream
from maxl.experiments.runs.tracked import require_trackers, tracked, untracked
from maxl.experiments.runs.trunks import architecture
from maxl.experiments.tracking import TrackerFactory
from maxl.hypergradients import RandomState
from maxl.learning import MetaAuxiliaryLearner, StepResult

EVALUATION_BATCH = 500
CALIBRATION_BATCHES = 10
_logger = logging.getLogger(__name__)
Watch = Callable[[int, int], None]  # step of this call, from 1, and steps of an epoch


class Trainer:
    """Trains one run and writes its folder.

    Args:
        config: The run.
        folder: Where it is written; nothing is created before the data and networks have been built.
        data: The data set, if it is loaded already.
        label: Name of the method in the summary, where a study has variants of one method.
        processes: Those that train the run together; the first of them writes.
        track: What makes trackers of the run, besides those that the config names.

    Raises:
        ValueError: if the config does not fit the data or this machine.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        data: DataSet | None = None,
        label: str | None = None,
        processes: Processes = ALONE,
        track: Sequence[TrackerFactory] = (),
    ) -> None:
        processes.check(config)
        self.processes = processes
        self.config = config
        self.track = tuple(track)
        self.watch: Watch = lambda step, steps: None
        self.steps = 0
        self.label = label or config.method
        self.folder = folder
        self.device = resolve_device(config.device)
        data = load_data(config) if data is None else data
        processes.compare_data(prints := fingerprint(data))
        with threads(config.threads):
            began = time.perf_counter()
            kept = None
            if config.method == "agreement":
                own = agreeing(config, data, self.device)
                processes.ready()
                kept = processes.first_of(own)
            self.outer = OuterData(config, data.train, partial(self._stream, data), kept)
            self.data = dataclasses.replace(data, train=self.outer.train)
            self.stream = self.outer.batches
            with needing_memory("building the networks", "choose a smaller --trunk or --psi"):
                self.start = load_start(config, self.data, choose_hierarchy(config, self.data))
                self.setup: Setup = build(config, self.data, self.device, self.start, processes)
                self.preparation_seconds = time.perf_counter() - began
        watched = config.patience is not None or config.keep == "best"
        self.best = Best(config, data) if watched else None
        weights = sum(p.numel() for p in self.setup.network.parameters())
        _logger.debug(
            "%s on %s: %d training samples, trunk %s, %d weights, on %s",
            *(config.method, config.data, len(self.data.train), config.trunk, weights, self.device),
        )
        self.origin = origin(self.device, config.threads, processes.size)
        fixed = {name: value for name, value in config.to_dict().items() if name not in MACHINE_FIELDS}
        self.identity = {"config": {**fixed, "label": self.label}, "data": prints}
        self.epoch, self.train_seconds = 0, 0.0

    def _stream(self, data: DataSet, split: Split, seed: int) -> BatchStream:
        part = self.processes.rank, self.processes.size
        return training_stream(self.config, data, split, seed, self.device, part)

    def fit(
        self, report: Report = lambda row: None, watch: Watch = lambda step, steps: None
    ) -> dict[str, Any]:
        """Trains from where the run stands to its last epoch.

        Args:
            report: Called with each epoch's metrics.
            watch: Called after each training step with its number in this call, from 1, and the number of an epoch's.

        Returns:
            The summary, as written to summary.json by the first process; nothing in others.

        Raises:
            FloatingPointError: if a loss or a weight is not finite; diverged.json then says so, and the last
                checkpoint is of the epoch before.
            OutOfMemory: if memory runs out; the last checkpoint is there, and the run can go on from it.
        """
        self.watch = watch
        with threads(self.config.threads), tensor_float32(self.config.precision != "float32"):
            return self._fit(report)

    def _fit(self, report: Report) -> dict[str, Any]:
        memory = PeakMemory(self.device)
        writes = self.processes.first
        if self.epoch == 0:
            began = None if self.start is None else self.start.record()
            if writes:
                self.folder.create(self.config, began, architecture(self.setup.network.trunk))
            # Dropout and the like draw from torch's generator; the run owns it from here on.
            torch.manual_seed(self.config.seed)
            self.processes.seed()
            self._calibrate()
        to = (self.config, self.folder.path, self.track, self.device)
        with tracked(*to) if writes else untracked() as (log, finish), HeldSignals() as signals:
            while self.epoch < self.config.epochs and not self.stopped:
                with recorded_divergence(self.folder if writes else None, self.epoch + 1):
                    row = self._run_epoch()
                    require_finite(row, self.setup)
                due = self.epoch % self.config.checkpoint_every == 0 or self.at_end
                state = self.state_dict() if due else None  # all processes take part in it
                signals.hold()  # until what is reported is saved
                if writes:
                    self.folder.append_metrics(row)
                    log(row)
                    report(row)
                if signals.pending is not None and state is None and self.processes.alone:
                    state = self.state_dict()
                if state is not None and writes:
                    save_checkpoint(self.folder, state)
                if state is not None or not self.processes.alone:
                    signals.release()
            if self.best is not None:
                self.best.restore(self.setup)
            summary = write_result(self, memory) if writes else {}
            finish(summary)
        return summary

    @property
    def stopped(self) -> bool:
        """Whether no better validation result is awaited any more."""
        return self.best is not None and self.best.stopped

    @property
    def at_end(self) -> bool:
        """Whether the last epoch is over."""
        return self.epoch == self.config.epochs or self.stopped

    def _run_epoch(self) -> dict[str, Any]:
        config, setup, learner = self.config, self.setup, self.setup.learner
        alternate = config.schedule == "epochs" and isinstance(learner, MetaAuxiliaryLearner)
        rate = setup.set_learning_rates(self.epoch)
        setup.train()
        if setup.generator is not None and config.label_statistics == "batch":
            setup.generator.train()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        totals = Totals(classes=self.data.task == "classification")
        with needing_memory(
            f"a step of epoch {self.epoch + 1} on {self.device}", smaller_batch(config.batch_size)
        ):
            steps = self.outer.steps(self.epoch)
            for i, (batch, outer) in enumerate(self.outer.epoch(self.epoch)):
                rate = setup.set_learning_rates(self.epoch, i, steps)
                totals.add(self._step(batch, outer, teach=not alternate), batch.primary)
                self.steps += 1
                self.watch(self.steps, len(self.stream))
            if alternate:
                assert isinstance(learner, MetaAuxiliaryLearner)
                for batch, outer in self.outer.epoch(META_PASS + self.epoch):
                    totals.add(learner.meta_step(batch.x, batch.primary, outer), None)
            row: dict[str, Any] = totals.means(self.processes)  # waits for the device
        seconds = time.perf_counter() - start
        self.train_seconds += seconds
        self.epoch += 1
        with needing_memory(
            f"looking at epoch {self.epoch}, {EVALUATION_BATCH} samples at a time, on {self.device}",
            "train anew with a smaller --trunk or --image-size",
        ):
            self._close_epoch()
            if self.best is not None or self.epoch % config.look_every == 0 or self.at_end:
                row |= self._measured("validation", self.data.validation)
            if self.best is not None:
                self.best.see(self.epoch, row[self.best.key], setup)
            if self.epoch % config.look_every == 0 or self.at_end:  # which it may be only now
                row |= self.look()
        return {"epoch": self.epoch, **row, "learning_rate": rate, "seconds": seconds}

    def _step(self, batch: Batch, outer: OuterBatch, *, teach: bool) -> StepResult:
        """One training step, and with ``teach`` the meta step after it, where the method has one."""
        learner, limit = self.setup.learner_in(self.epoch), self.config.max_grad_norm
        if not (teach and isinstance(learner, MetaAuxiliaryLearner)):
            return plain_step(learner, batch, limit)
        return taught_step(learner, batch.x, batch.primary, batch.index, outer, limit)

    def _close_epoch(self) -> None:
        """Recalibrates the generator, and lets go of the graph of labels that wait for the next meta step.

        The graph belongs to statistics that no longer hold, and a checkpoint cannot keep it: the labels are
        made again when they are needed, whether or not the run was interrupted here.
        """
        learner = self.setup.learner
        if isinstance(learner, MetaAuxiliaryLearner) and learner.update is not None:
            learner.update.drop_graphs()
        self._calibrate()

    def _calibrate(self) -> None:
        if self.setup.generator is not None and self.config.label_statistics == "running":
            batches = itertools.islice(self.stream.epoch(META_PASS + self.epoch), CALIBRATION_BATCHES)
            calibrate(self.setup.generator, ((b.x, b.primary) for b in batches))

    def _measured(self, name: str, split: Split | None) -> dict[str, Any]:
        """Loss and measures of the network on a part of the data, if there is one."""
        if split is None:
            return {}
        batches, data = ((b.x, b.primary) for b in self.in_order(split)), self.data
        loss, scores = evaluate(
            self.setup.network, batches, self.setup.learner.task.loss, partial(score, data), kept(data.task)
        )
        return {f"{name}_loss": loss, **{f"{name}_{measure}": value for measure, value in scores.items()}}

    def look(self) -> dict[str, Any]:
        """Test results and what tells of labels and gradients; nothing that is trained or drawn later depends on them."""
        with RandomState.capture(self.device).replay():  # labels draw too, where there is dropout
            return self._measured("test", self.data.test) | label_metrics(self) | cosine_metrics(self)

    def judge(self) -> dict[str, Any]:
        """Results and labels of networks in eval mode, which a process can take without the others."""
        row = self._measured("validation", self.data.validation) | self._measured("test", self.data.test)
        with RandomState.capture(self.device).replay():
            return row | label_metrics(self)

    def in_order(self, split: Split) -> Iterator[Batch]:
        """Every sample of a part once, as the network takes it, on the run's device."""
        size = self.config.batch_size if self.data.task == "segmentation" else EVALUATION_BATCH
        return evaluation_batches(split, size, self.data.mean, self.data.std, self.device)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; tensors, numbers and strings alone."""
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave.

        Raises:
            ValueError: if it does not fit the run's networks and optimizers.
        """
        restore(self, state)


def train(
    config: RunConfig,
    out: Path,
    *,
    data: DataSet | None = None,
    label: str | None = None,
    report: Report = lambda row: None,
    watch: Watch = lambda step, steps: None,
    track: Sequence[TrackerFactory] = (),
    wait: float = 0.0,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Trains a run into a new folder and returns its summary.

    Args:
        config: The run.
        out: Its folder.
        data: Its data set, if that is loaded already.
        label: Name of the method in the summary, where a study has variants of one method.
        report: Called with each epoch's metrics.
        watch: Called after each training step with its number in this call, from 1, and the number of an epoch's.
        track: What makes trackers of the run (``maxl.experiments.tracking``), besides those that the config names.
        wait: Seconds to wait for another process to leave the folder.
        processes: As for ``Trainer``; each of them calls this.

    Raises:
        ValueError: if the folder holds a run already or is in use, if the config does not fit the data or this
            machine, or if the package of a tracker that it names is not installed.
        FloatingPointError, OutOfMemory: as ``Trainer.fit``; the first also if networks trained for its labels diverge.
    """
    folder = RunFolder(out)
    config = settled(config)
    require_trackers(config)
    processes.of_first(lambda: require_new(folder, wait=wait))
    with recorded_preparation(folder, config, writes=processes.first):
        trainer = processes.built(
            lambda: Trainer(config, folder, data, label, track=track, processes=processes)
        )
    with locked_by_first(out, processes, wait=wait):
        processes.of_first(folder.require_free)  # still
        return trainer.fit(report, watch)


def resume(
    path: Path,
    *,
    data: DataSet | None = None,
    label: str | None = None,
    report: Report = lambda row: None,
    watch: Watch = lambda step, steps: None,
    track: Sequence[TrackerFactory] = (),
    trust: bool = False,
    wait: float = 0.0,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Continues an interrupted run to the end that it would have had without the interruption.

    Args:
        path: Its folder.
        data: Its data set, if that is loaded already.
        label: As for ``train``.
        report: Called with each epoch's metrics.
        watch: As for ``train``.
        track: As for ``train``.
        trust: Call a trunk ``module:function`` that the folder's config names.
        wait: Seconds to wait for another process to leave the folder.
        processes: As for ``Trainer``, as many as the run had before; each of them calls this.

    Raises:
        ValueError: if the folder holds no run, or one that is finished, has diverged, is in use or damaged; if the
            data has changed; or if the config names code and is not trusted.
    """
    folder = RunFolder(path)
    processes.of_first(lambda: _require_unfinished(folder))
    with locked_by_first(path, processes, wait=wait):
        processes.of_first(lambda: _require_unfinished(folder))  # still
        config = processes.of_first(lambda: folder.read_config(trust=trust))
        with recorded_preparation(folder, config, writes=processes.first):
            trainer = processes.built(
                lambda: Trainer(config, folder, data, label, track=track, processes=processes)
            )
        processes.agreed(lambda: require_same(folder, trainer.start))
        state = processes.of_first(lambda: load_checkpoint(folder, trainer.identity))
        if state is not None:
            processes.agreed(lambda: trainer.load_state_dict(state))
        # What came after the checkpoint will be written again.
        processes.of_first(lambda: folder.keep_metrics(trainer.epoch))
        return trainer.fit(report, watch)


def require_new(folder: RunFolder, *, wait: float = 0.0) -> None:
    """ValueError if a folder holds a run already, or another process has it."""
    require_unlocked(folder.path, wait=wait)
    folder.require_free()


def _require_unfinished(folder: RunFolder) -> None:
    """ValueError unless a folder holds a run that can go on."""
    if not folder.started:
        raise ValueError(f"--resume needs the folder of a run; {folder.path} holds none")
    if folder.finished:
        raise ValueError(f"--resume needs an unfinished run; {folder.path} is finished: see {folder.summary}")
    if folder.diverged:
        raise ValueError(
            f"--resume needs a run that can go on; {folder.path} {folder.read_divergence()}, and would again: "
            "train anew with other settings"
        )
