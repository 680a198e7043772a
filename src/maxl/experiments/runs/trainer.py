"""One run: a config in, a run folder out.

fit → one epoch → one step
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maxl.experiments.data import Batch, BatchStream, DataSet, Split, evaluation_batches, load, normalise
from maxl.experiments.runs.build import Setup, build, resolve_device, tensor_float32
from maxl.experiments.runs.config import HUMAN_METHODS, RunConfig
from maxl.experiments.runs.evaluation import (
    calibrate,
    evaluate,
    evaluating,
    gradient_cosine,
    label_statistics,
)
from maxl.experiments.runs.folder import RunFolder, write_at_once
from maxl.experiments.runs.machine import PeakMemory, joined, origin, threads
from maxl.experiments.runs.monitoring import Report, Totals, tensorboard
from maxl.experiments.runs.outer import OuterBatch, OuterData
from maxl.experiments.runs.snapshot import write_snapshot
from maxl.hypergradients import RandomState, as_tuple, pure_call
from maxl.learning import MetaAuxiliaryLearner, StepResult

EVALUATION_BATCH = 500
CALIBRATION_BATCHES = 10
LABELS_LOOKED_AT = 2000  # training samples whose labels are described after each epoch
META_PASS = 1 << 20  # epoch offset of the meta pass's own shuffling, when whole epochs alternate


class Trainer:
    """Trains one run and writes its folder.

    Args:
        config: The run.
        folder: Where it is written; nothing is created before the data and networks have been built.
        data: The data set, if it is loaded already.
        label: Name of the method in the summary, where a study has variants of one method.

    Raises:
        ValueError: if the config does not fit the data or this machine.
    """

    def __init__(
        self, config: RunConfig, folder: RunFolder, data: DataSet | None = None, label: str | None = None
    ) -> None:
        self.config = config
        self.label = label or config.method
        self.folder = folder
        self.device = resolve_device(config.device)
        data = load_data(config) if data is None else data
        with threads(config.threads):
            self.outer = OuterData(config, data.train, partial(self._stream, data))
            self.data = dataclasses.replace(data, train=self.outer.train)
            self.stream = self.outer.batches
            self.setup: Setup = build(config, self.data, self.device)
        self.origin = origin(self.device, config.threads)
        self.epoch = 0
        self.train_seconds = 0.0

    def _stream(self, data: DataSet, split: Split, seed: int) -> BatchStream:
        return BatchStream(
            split,
            self.config.batch_size,
            mean=data.mean,
            std=data.std,
            augment=data.augment,
            flip=data.flip,
            seed=seed,
            device=self.device,
        )

    def fit(self, report: Report = lambda row: None) -> dict[str, Any]:
        """Trains from where the run stands to its last epoch.

        Args:
            report: Called with each epoch's metrics.

        Returns:
            The summary, as written to summary.json.
        """
        with threads(self.config.threads), tensor_float32(self.config.precision != "float32"):
            return self._fit(report)

    def _fit(self, report: Report) -> dict[str, Any]:
        memory = PeakMemory(self.device)
        if self.epoch == 0:
            self.folder.create(self.config)
            # Dropout and the like draw from torch's generator; the run owns it from here on.
            torch.manual_seed(self.config.seed)
            self._calibrate()
        with tensorboard(self.folder.tensorboard if self.config.tensorboard else None) as log:
            while self.epoch < self.config.epochs:
                row = self._run_epoch()
                self.folder.append_metrics(row)
                log(row)
                report(row)
                if self.epoch % self.config.checkpoint_every == 0 or self.epoch == self.config.epochs:
                    self.folder.save_checkpoint(self.state_dict())
        return self._finish(memory)

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
        totals = Totals()
        for batch, outer in self.outer.epoch(self.epoch):
            totals.add(self._step(batch, outer, teach=not alternate), batch.primary)
        if alternate:
            assert isinstance(learner, MetaAuxiliaryLearner)
            for batch, outer in self.outer.epoch(META_PASS + self.epoch):
                totals.add(learner.meta_step(batch.x, batch.primary, outer), None)
        row: dict[str, Any] = totals.means()  # waits for the device
        seconds = time.perf_counter() - start
        self.train_seconds += seconds
        self.epoch += 1
        self._close_epoch()
        if self.epoch % config.look_every == 0 or self.epoch == config.epochs:
            with RandomState.capture(self.device).replay():  # labels draw too, where there is dropout
                row |= self._look()
        return {"epoch": self.epoch, **row, "learning_rate": rate, "seconds": seconds}

    def _step(self, batch: Batch, outer: OuterBatch, *, teach: bool) -> StepResult:
        """One training step, and with ``teach`` the meta step after it, where the method has one."""
        learner, limit = self.setup.learner, self.config.max_grad_norm
        x, y, index = batch.x, batch.primary, batch.index
        meta = learner if teach and isinstance(learner, MetaAuxiliaryLearner) else None
        if limit is None:
            return learner.train_step(x, y, index=index) if meta is None else meta.step(x, y, index, outer)
        learner.optimizer.zero_grad(set_to_none=True)
        if meta is None:
            result = learner.backward(x, y, index)
        else:
            result = meta.backward(x, y, index, outer_batch=outer)
        torch.nn.utils.clip_grad_norm_(learner.weights().values(), limit)
        learner.optimizer.step()
        return result if meta is None else result.with_meta(meta.meta_step())

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
        loss = setup.learner.task.loss
        row: dict[str, Any] = {}
        for name, split in (("validation", data.validation), ("test", data.test)):
            if split is not None:
                batches = ((b.x, b.primary) for b in self._in_order(split))
                row[f"{name}_loss"], row[f"{name}_accuracy"] = evaluate(setup.network, batches, loss)
        if setup.generator is not None:
            some = torch.arange(len(data.train))[:: max(1, len(data.train) // LABELS_LOOKED_AT)]
            split = data.train.select(some.to(data.train.x.device))
            with evaluating(setup.generator):
                labels = torch.cat(
                    [as_tuple(setup.generator(b.x, b.primary))[0] for b in self._in_order(split)]
                )
            look = label_statistics(labels, split.primary, setup.hierarchy)
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
                signals = (
                    setup.learner.source.constant(batch.x, batch.primary, batch.index)
                    if setup.generator is None
                    else as_tuple(pure_call(setup.generator, {}, batch.x, batch.primary))
                )
            row["gradient_cosine"], row["gradient_cosine_layers"] = gradient_cosine(
                setup.network,
                setup.network.trunk,
                batch.x,
                batch.primary,
                signals,
                setup.learner.task,
                setup.learner.supervision,
            )
        return row

    def _in_order(self, split: Split) -> Iterator[Batch]:
        return evaluation_batches(split, EVALUATION_BATCH, self.data.mean, self.data.std, self.device)

    def _finish(self, memory: PeakMemory) -> dict[str, Any]:
        """Writes model, snapshot and, last of all, the summary."""
        config, data, setup = self.config, self.data, self.setup
        self.folder.save_model(
            {
                name: value
                for name, value in setup.network.state_dict().items()
                if not name.startswith("auxiliary_head.")
            }
        )
        if data.text is not None:
            write_at_once(self.folder.text, data.text.to_bytes())
        write_snapshot(
            self.folder.snapshot,
            network=setup.network,
            generator=setup.generator,
            test_x=data.test.x,
            test_primary=data.test.primary,
            train_x=data.train.x,
            train_primary=data.train.primary,
            prepare=lambda x: normalise(x.to(self.device), data.mean, data.std),
            primary_names=data.primary_names,
        )
        last = self.folder.read_metrics()[-1]
        steps = max(1, setup.learner.steps)
        summary = {
            "method": self.label,
            "seed": config.seed,
            "data": config.data,
            "primary": config.primary,
            # Held-out samples are labels that were paid for: methods with and without them compare.
            "train_size": self.outer.paid_for,
            "psi": None if config.method in ("single", *HUMAN_METHODS) else list(setup.hierarchy.psi),
            "auxiliary_classes": 0 if config.method == "single" else setup.hierarchy.num_auxiliary,
            "trunk": config.trunk,
            "epochs": config.epochs,
            "entropy_weight": config.entropy_weight,
            "test_accuracy": last["test_accuracy"],
            "test_loss": last["test_loss"],
            "validation_accuracy": last.get("validation_accuracy"),
            "train_accuracy": last["train_accuracy"],
            "label_verdict": last.get("label_verdict"),
            "seconds_per_step": self.train_seconds / steps,
            "seconds_total": self.train_seconds,
            "peak_memory_bytes": memory.read(),
            "primary_names": list(data.primary_names),
            "input_shape": list(data.input_shape),
            "mean": list(data.mean),
            "std": list(data.std),
            "features": None if data.features is None else dataclasses.asdict(data.features),
            **self.origin,
        }
        self.folder.write_summary(summary)
        return summary

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; tensors, numbers and strings alone."""
        setup = self.setup
        return {
            "epoch": self.epoch,
            "label": self.label,
            "train_seconds": self.train_seconds,
            "network": setup.network.state_dict(),
            "generator": None if setup.generator is None else setup.generator.state_dict(),
            "optimizers": [o.state_dict() for o in setup.optimizers],
            "learner": setup.learner.state_dict(),
            "random": RandomState.capture(self.device).state(),
            "origin": self.origin,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        setup = self.setup
        self.epoch, self.train_seconds = state["epoch"], state["train_seconds"]
        self.label = state["label"]
        self.origin = joined(state["origin"], self.origin)
        setup.network.load_state_dict(state["network"])
        if setup.generator is not None:
            setup.generator.load_state_dict(state["generator"])
            setup.generator.eval()
        for optimizer, saved in zip(setup.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        setup.learner.load_state_dict(state["learner"])
        RandomState.from_state(state["random"], self.device).restore()


def train(
    config: RunConfig,
    out: Path,
    *,
    data: DataSet | None = None,
    label: str | None = None,
    report: Report = lambda row: None,
) -> dict[str, Any]:
    """Trains a run into a new folder and returns its summary.

    Raises:
        ValueError: if the folder holds a run already, or the config does not fit the data or this machine.
    """
    folder = RunFolder(out)
    folder.require_free()
    return Trainer(config, folder, data, label).fit(report)


def resume(
    path: Path,
    *,
    data: DataSet | None = None,
    label: str | None = None,
    report: Report = lambda row: None,
) -> dict[str, Any]:
    """Continues an interrupted run to the end that it would have had without the interruption.

    Raises:
        ValueError: if the folder holds no run, or one that is finished.
    """
    folder = RunFolder(path)
    if not folder.started:
        raise ValueError(f"--resume needs the folder of a run; {path} holds none")
    if folder.finished:
        raise ValueError(f"--resume needs an unfinished run; {path} is finished: see {folder.summary}")
    trainer = Trainer(RunConfig.read(folder.config), folder, data, label)
    if folder.checkpoint.exists():
        trainer.load_state_dict(folder.load_checkpoint(trainer.device))
    folder.keep_metrics(trainer.epoch)  # what came after the last checkpoint will be written again
    return trainer.fit(report)


def load_data(config: RunConfig) -> DataSet:
    """The data set that a config names, augmented as it says."""
    with threads(config.threads):
        data = load(
            config.data,
            data_dir=config.data_dir,
            primary=config.primary,
            human=config.human,
            train_size=None if config.train_size is None else _size(config.train_size),
            validation_size=_size(config.validation_size),
            seed=config.seed,
            image_size=config.image_size,
        )
    if config.augment == "auto":
        return data
    if config.augment != "none" and data.train.x.ndim != 4:
        raise ValueError(
            f"--augment {config.augment} needs images; {config.data} has features of shape {data.input_shape}: "
            "use --augment none"
        )
    return dataclasses.replace(data, augment=config.augment != "none", flip=config.augment == "crop-flip")


def _size(value: float) -> int | float:
    """A fraction below 1 stays one; anything else is a count."""
    return value if 0 < value < 1 or value != int(value) else int(value)
