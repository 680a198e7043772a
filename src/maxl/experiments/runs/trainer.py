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
from maxl.experiments.runs.build import Setup, build, resolve_device
from maxl.experiments.runs.checkpoint import load_checkpoint, save_checkpoint
from maxl.experiments.runs.config import MACHINE_FIELDS, RunConfig
from maxl.experiments.runs.divergence import recorded_divergence, require_finite
from maxl.experiments.runs.evaluation import (
    calibrate,
    describe_labels,
    evaluate,
    evaluating,
    gradient_cosine,
    labels_looked_at,
)
from maxl.experiments.runs.fingerprint import fingerprint
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.lock import locked, require_unlocked
from maxl.experiments.runs.machine import PeakMemory, joined, origin, tensor_float32, threads
from maxl.experiments.runs.measures import kept, score
from maxl.experiments.runs.memory import is_out_of_memory, needing_memory, smaller_batch
from maxl.experiments.runs.monitoring import Report, Totals
from maxl.experiments.runs.outer import OuterBatch, OuterData
from maxl.experiments.runs.result import write_result
from maxl.experiments.runs.signals import HeldSignals
from maxl.experiments.runs.stepping import plain_step, training_stream
from maxl.experiments.runs.tracked import require_trackers, tracked
from maxl.experiments.tracking import TrackerFactory
from maxl.hypergradients import RandomState, as_tuple, pure_call
from maxl.learning import MetaAuxiliaryLearner, StepResult

EVALUATION_BATCH = 500
CALIBRATION_BATCHES = 10
_logger = logging.getLogger(__name__)
Watch = Callable[[int, int], None]  # step of this call, from 1, and steps of an epoch
META_PASS = 1 << 20  # epoch offset of the meta pass's own shuffling, when whole epochs alternate


class Trainer:
    """Trains one run and writes its folder.

    Args:
        config: The run.
        folder: Where it is written; nothing is created before the data and networks have been built.
        data: The data set, if it is loaded already.
        label: Name of the method in the summary, where a study has variants of one method.
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
        track: Sequence[TrackerFactory] = (),
    ) -> None:
        self.config = config
        self.track = tuple(track)
        self.watch: Watch = lambda step, steps: None
        self.steps = 0
        self.label = label or config.method
        self.folder = folder
        self.device = resolve_device(config.device)
        data = load_data(config) if data is None else data
        with threads(config.threads):
            self.outer = OuterData(config, data.train, partial(self._stream, data))
            self.data = dataclasses.replace(data, train=self.outer.train)
            self.stream = self.outer.batches
            with needing_memory("building the networks", "choose a smaller --trunk or --psi"):
                self.setup: Setup = build(config, self.data, self.device)
        weights = sum(p.numel() for p in self.setup.network.parameters())
        _logger.debug(
            "%s on %s: %d training samples, trunk %s, %d weights, on %s",
            *(config.method, config.data, len(self.data.train), config.trunk, weights, self.device),
        )
        self.origin = origin(self.device, config.threads)
        fixed = {name: value for name, value in config.to_dict().items() if name not in MACHINE_FIELDS}
        self.identity = {"config": {**fixed, "label": self.label}, "data": fingerprint(data)}
        self.epoch = 0
        self.train_seconds = 0.0

    def _stream(self, data: DataSet, split: Split, seed: int) -> BatchStream:
        return training_stream(self.config, data, split, seed, self.device)

    def fit(
        self, report: Report = lambda row: None, watch: Watch = lambda step, steps: None
    ) -> dict[str, Any]:
        """Trains from where the run stands to its last epoch.

        Args:
            report: Called with each epoch's metrics.
            watch: Called after each training step with its number in this call, from 1, and the number of an epoch's.

        Returns:
            The summary, as written to summary.json.

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
        if self.epoch == 0:
            self.folder.create(self.config)
            # Dropout and the like draw from torch's generator; the run owns it from here on.
            torch.manual_seed(self.config.seed)
            self._calibrate()
        trackers = tracked(self.config, self.folder.path, self.track, self.device)
        with trackers as (log, finish), HeldSignals() as signals:
            while self.epoch < self.config.epochs:
                with recorded_divergence(self.folder, self.epoch + 1):
                    row = self._run_epoch()
                    require_finite(row, self.setup)
                signals.hold()  # until what is reported is saved
                self.folder.append_metrics(row)
                log(row)
                report(row)
                due = self.epoch % self.config.checkpoint_every == 0 or self.epoch == self.config.epochs
                if due or signals.pending is not None:
                    save_checkpoint(self.folder, self.state_dict())
                    signals.release()
            summary = write_result(self, memory)
            finish(summary)
        return summary

    def _run_epoch(self) -> dict[str, Any]:
        config, setup, learner = self.config, self.setup, self.setup.learner
        alternate = config.schedule == "epochs" and isinstance(learner, MetaAuxiliaryLearner)
        rate = setup.set_learning_rates(self.epoch)
        setup.network.train()
        if setup.generator is not None and config.label_statistics == "batch":
            setup.generator.train()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        totals = Totals(classes=self.data.task == "classification")
        with needing_memory(
            f"a step of epoch {self.epoch + 1} on {self.device}", smaller_batch(config.batch_size)
        ):
            for batch, outer in self.outer.epoch(self.epoch):
                totals.add(self._step(batch, outer, teach=not alternate), batch.primary)
                self.steps += 1
                self.watch(self.steps, len(self.stream))
            if alternate:
                assert isinstance(learner, MetaAuxiliaryLearner)
                for batch, outer in self.outer.epoch(META_PASS + self.epoch):
                    totals.add(learner.meta_step(batch.x, batch.primary, outer), None)
            row: dict[str, Any] = totals.means()  # waits for the device
        seconds = time.perf_counter() - start
        self.train_seconds += seconds
        self.epoch += 1
        with needing_memory(
            f"looking at epoch {self.epoch}, {EVALUATION_BATCH} samples at a time, on {self.device}",
            "train anew with a smaller --trunk or --image-size",
        ):
            self._close_epoch()
            if self.epoch % config.look_every == 0 or self.epoch == config.epochs:
                with RandomState.capture(self.device).replay():  # labels draw too, where there is dropout
                    row |= self._look()
        return {"epoch": self.epoch, **row, "learning_rate": rate, "seconds": seconds}

    def _step(self, batch: Batch, outer: OuterBatch, *, teach: bool) -> StepResult:
        """One training step, and with ``teach`` the meta step after it, where the method has one."""
        learner, limit = self.setup.learner, self.config.max_grad_norm
        x, y, index = batch.x, batch.primary, batch.index
        if not (teach and isinstance(learner, MetaAuxiliaryLearner)):
            return plain_step(learner, batch, limit)
        if limit is None:
            return learner.step(x, y, index, outer)
        learner.optimizer.zero_grad(set_to_none=True)
        result = learner.backward(x, y, index, outer_batch=outer)
        torch.nn.utils.clip_grad_norm_(learner.weights().values(), limit)
        learner.optimizer.step()
        return result.with_meta(learner.meta_step())

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

    def _look(self) -> dict[str, Any]:
        """Metrics that need passes of their own."""
        setup, data, config = self.setup, self.data, self.config
        task, taken = setup.learner.task, partial(score, data)
        row: dict[str, Any] = {}
        for name, split in (("validation", data.validation), ("test", data.test)):
            if split is not None:
                batches = ((b.x, b.primary) for b in self.in_order(split))
                row[f"{name}_loss"], scores = evaluate(
                    setup.network, batches, task.loss, taken, kept(data.task)
                )
                row |= {f"{name}_{measure}": value for measure, value in scores.items()}
        if setup.generator is not None:
            some = torch.arange(len(data.train))[:: max(1, len(data.train) // labels_looked_at(task))]
            split = data.train.select(some.to(data.train.x.device))
            with evaluating(setup.generator):
                labels = torch.cat(
                    [as_tuple(setup.generator(b.x, b.primary))[0] for b in self.in_order(split)]
                )
            look = describe_labels(labels, split.primary, setup.hierarchy, task)
            row |= {
                "label_entropy": look.entropy,
                "label_entropy_max": look.entropy_max,
                "label_usage": look.usage,
                "label_information": look.information,
                "label_entropy_per_class": look.entropy_per_class,
                "label_usage_per_class": look.usage_per_class,
            }
            row["label_verdict"] = look.verdict()
        if config.method != "single":
            batch = next(self.stream.epoch(0))
            with torch.no_grad():
                if setup.generator is None:
                    signals = setup.learner.source.constant(batch.x, batch.primary, batch.index)
                else:
                    signals = as_tuple(pure_call(setup.generator, {}, batch.x, batch.primary))
            row["gradient_cosine"], row["gradient_cosine_layers"] = gradient_cosine(
                *(setup.network, setup.network.trunk, batch.x, batch.primary, signals),
                task,
                setup.learner.supervision,
            )
        return row

    def in_order(self, split: Split) -> Iterator[Batch]:
        """Every sample of a part once, as the network takes it, on the run's device."""
        size = self.config.batch_size if self.data.task == "segmentation" else EVALUATION_BATCH
        return evaluation_batches(split, size, self.data.mean, self.data.std, self.device)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; tensors, numbers and strings alone."""
        setup = self.setup
        return {
            "epoch": self.epoch,
            "label": self.label,
            "identity": self.identity,
            "train_seconds": self.train_seconds,
            "network": setup.network.state_dict(),
            "generator": None if setup.generator is None else setup.generator.state_dict(),
            "optimizers": [o.state_dict() for o in setup.optimizers],
            "learner": setup.learner.state_dict(),
            "random": RandomState.capture(self.device).state(),
            "origin": self.origin,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave.

        Raises:
            ValueError: if it does not fit the run's networks and optimizers.
        """
        setup = self.setup
        try:
            setup.network.load_state_dict(state["network"])
            if setup.generator is not None:
                setup.generator.load_state_dict(state["generator"])
                setup.generator.eval()
            for optimizer, saved in zip(setup.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            setup.learner.load_state_dict(state["learner"])
            RandomState.from_state(state["random"], self.device).restore()
            self.origin = joined(state.get("origin", self.origin), self.origin)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self.folder.checkpoint} does not fit the run: {str(error).splitlines()[0]}; train it anew"
            ) from error
        self.epoch, self.train_seconds = state["epoch"], state["train_seconds"]
        self.label = state["label"]


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

    Raises:
        ValueError: if the folder holds a run already or is in use, if the config does not fit the data or this
            machine, or if the package of a tracker that it names is not installed.
        FloatingPointError, OutOfMemory: as ``Trainer.fit``.
    """
    folder = RunFolder(out)
    require_unlocked(out, wait=wait)
    folder.require_free()
    require_trackers(config)
    trainer = Trainer(config, folder, data, label, track)  # writes nothing
    with locked(out, wait=wait):
        folder.require_free()  # still
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

    Raises:
        ValueError: if the folder holds no run, or one that is finished, has diverged, is in use or damaged; if the
            data has changed; or if the config names code and is not trusted.
    """
    folder = RunFolder(path)
    _require_unfinished(folder)
    with locked(path, wait=wait):
        _require_unfinished(folder)  # still
        trainer = Trainer(folder.read_config(trust=trust), folder, data, label, track)
        state = load_checkpoint(folder, trainer.identity, trainer.device)
        if state is not None:
            trainer.load_state_dict(state)
        folder.keep_metrics(trainer.epoch)  # what came after the checkpoint will be written again
        return trainer.fit(report, watch)


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
