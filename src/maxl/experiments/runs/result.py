"""The end of a run: its model, its snapshot and its summary."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from maxl.experiments.data import DataSet, normalise
from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.known_outputs import known_outputs
from maxl.experiments.runs.looks import looks
from maxl.experiments.runs.machine import PeakMemory
from maxl.experiments.runs.measures import MEASURES
from maxl.experiments.runs.methods import HUMAN_METHODS, PREPARED_METHODS, WITHOUT_LABELS
from maxl.experiments.runs.outcomes import outcomes
from maxl.experiments.runs.snapshot import write_snapshot
from maxl.experiments.runs.trunks import chosen

if TYPE_CHECKING:
    from maxl.experiments.runs.trainer import Trainer


def write_result(trainer: Trainer, memory: PeakMemory) -> dict[str, Any]:
    """Writes model, snapshot and, last of all, the summary, which is returned; ``memory`` has watched the run."""
    config, data, setup = trainer.config, trainer.data, trainer.setup
    trainer.folder.save_model(
        {
            name: value
            for name, value in setup.network.state_dict().items()
            if not name.startswith("auxiliary_head.")
        }
    )
    if data.text is not None:
        write_at_once(trainer.folder.text, data.text.to_bytes())
    if data.columns is not None:
        write_at_once(trainer.folder.columns, data.columns.to_bytes())
    if data.tokens is not None:
        write_at_once(trainer.folder.tokenizer, data.tokens.to_bytes())
    write_snapshot(
        trainer.folder.snapshot,
        network=setup.network,
        generator=None if data.task == "segmentation" else setup.labeller,  # a gallery is of whole images
        test_x=data.test.x,
        test_primary=data.test.primary if data.task == "classification" else None,
        train_x=data.train.x,
        train_primary=data.train.primary,
        test_columns=data.test.columns,
        train_columns=data.train.columns,
        prepare=lambda x: normalise(x.to(trainer.device), data.mean, data.std),
        primary_names=("all samples",) if data.task == "regression" else data.primary_names,
        test_probe=data.test.probe,
        probe_names=data.probe_names or (),
        more=looks(trainer),
    )
    last, entries = _kept_row(trainer)
    measured = [f"{part}_{m.name}" for part in ("test", "validation") for m in MEASURES[data.task]]
    steps = max(1, sum(trainer.outer.steps(epoch) for epoch in range(trainer.epoch)))
    summary = {
        "method": trainer.label,
        "seed": config.seed,
        "data": config.data,
        "primary": ", ".join(config.primary) if isinstance(config.primary, tuple) else config.primary,
        "task": data.task,
        # Held-out samples are labels that were paid for: methods with and without them compare.
        "train_size": trainer.outer.paid_for,
        "test_size": len(data.test),
        "test_constant": _constant(data),
        "psi": None if config.method in (*WITHOUT_LABELS, *HUMAN_METHODS) else list(setup.hierarchy.psi),
        "auxiliary_classes": 0 if config.method in WITHOUT_LABELS else setup.hierarchy.num_auxiliary,
        "trunk": chosen(config.trunk, data.task, data.input_shape),
        "epochs": config.epochs,
        **entries,
        "entropy_weight": config.entropy_weight,
        **{name: last.get(name) for name in measured},
        "test_loss": last["test_loss"],
        **outcomes(trainer),
        "train_accuracy": last.get("train_accuracy"),
        "label_verdict": last.get("label_verdict"),
        "seconds_per_step": trainer.train_seconds / steps,
        # Networks that are trained for the labels, before the first epoch, are part of what a method costs.
        "seconds_total": trainer.train_seconds
        + (trainer.preparation_seconds if config.method in PREPARED_METHODS else 0.0),
        "peak_memory_bytes": memory.read(),
        "primary_names": list(data.primary_names),
        "input_shape": list(data.input_shape),
        "image_shape": list(data.image_shape or ()) if data.train.columns is not None else None,
        "image_column": data.image_column,
        "label_separator": data.label_separator,
        "known_outputs": known_outputs(
            setup.network.trunk, setup.network.primary_head, data.input_shape, trainer.device
        ),
        "mean": list(data.mean),
        "std": list(data.std),
        "features": None if data.features is None else dataclasses.asdict(data.features),
        "columns": None if data.columns is None else data.columns.kinds,
        "tokens": None
        if data.tokens is None
        else {"column": data.tokens.column, "length": data.tokens.length},
        "targets": None if data.targets is None else dataclasses.asdict(data.targets),
        "start": None if trainer.start is None else trainer.start.record(),
        **trainer.origin,
    }
    return trainer.folder.write_summary(summary)


def _constant(data: DataSet) -> float | None:
    """Test accuracy of naming the class that is most frequent in training for every sample, the best of several such; None
    for other tasks."""
    if data.task != "classification":
        return None
    trained, tested = (
        part.primary.cpu().bincount(minlength=data.num_primary) for part in (data.train, data.test)
    )
    return float(tested[trained == trained.max()].max()) / len(data.test)


def _kept_row(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of the epoch that was kept, and what the summary says of it."""
    rows = trainer.folder.read_metrics()
    if trainer.best is None:
        return rows[-1], {}
    entries = trainer.best.entries(len(rows))
    row = rows[entries["kept_epoch"] - 1]
    if entries["kept_epoch"] < len(rows):
        row |= trainer.judge()  # which may not have been due then
    return row, entries
