"""A finished run measured on labelled samples: its measures, and the same class by class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maxl.experiments.data import IGNORED, NAMES, Features, is_table
from maxl.experiments.runs.build import resolve_device
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.labelled import Labelled, labelled_samples, test_part
from maxl.experiments.runs.machine import origin, tensor_float32, threads
from maxl.experiments.runs.measures import (
    MEASURES,
    intersections_over_unions,
    kept,
    pixel_counts,
    pixel_scores,
    score,
)
from maxl.experiments.runs.model import PrimaryModel, load_model, warn_of_batches
from maxl.experiments.runs.networks import memory_format
from maxl.experiments.runs.trainer import EVALUATION_BATCH

_CLOSE = 1e-4  # of a measure: what another machine may round otherwise


@dataclass(frozen=True)
class Judgement:
    """How good a run is on some samples.

    Attributes:
        run: Folder of the run.
        source: The samples; None for the run's own test part.
        task: Of the run.
        method, seed: Likewise.
        samples: Their number.
        names: The C classes, labels or targets.
        metrics: By name, as test_NAME in summary.json; None where it does not exist for these samples.
        per_class: For each of ``names`` its values by column; None where one does not exist.
        confusion: How many samples of a class (row) were taken for each (column), (C, C); None for another task.
        left_out: What does not count, and what is left out of the means, in words.
        trained_on: Whether the run was trained on some of the samples, by their place.
        origin: Machine, device, threads and versions.
    """

    run: Path
    source: Path | None
    task: str
    method: str
    seed: int
    samples: int
    names: tuple[str, ...]
    metrics: dict[str, float | None]
    per_class: list[dict[str, float | int | None]]
    confusion: list[list[int]] | None
    left_out: tuple[str, ...]
    trained_on: bool
    origin: dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    task: str
    num_primary: int
    targets: Features | None


def judge(
    run: str | Path, source: str | Path | None = None, *, device: str = "auto", trust: bool = False
) -> Judgement:
    """Measures a finished run on labelled samples, in the way in which it was measured after training.

    Batches, threads, layout and precision are those of the run: on its own test samples and its own machine the
    measures are those of summary.json to the last digit. Texts in a file are an exception: how features are made of them
    is stored in float32.

    Args:
        run: Folder of the run.
        source: As for ``labelled_samples``; None for the run's own test samples.
        device: Where to compute.
        trust: As for ``load_model``.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        ValueError: if the run is unfinished, or the samples cannot be read, lack targets or have classes that the run
            does not have.
    """
    run, source = Path(run), None if source is None else Path(source)
    model, folder, where = load_model(run, trust=trust), RunFolder(run), resolve_device(device)
    config, summary = folder.read_config(trust=trust), folder.read_summary()
    warn_of_batches(model)
    with threads(config.threads), tensor_float32(config.precision != "float32"):
        data = (
            test_part(run, config, model) if source is None else labelled_samples(run, config, model, source)
        )
        if source is not None:
            _say_if_untold(config, data, source)
        data = data.that_judge()
        outputs = _outputs(config, model, data, where)
    kind = _Kind(model.task, len(model.primary_names), model.target_scale)
    metrics, per_class, confusion, left_out = _BY_TASK[model.task](
        kind, outputs, data.targets, model.primary_names
    )
    trained_on = source is not None and _was_trained_on(config, source)
    if source is None:
        _say_if_others(metrics, summary)
    elif trained_on:
        warnings.warn(
            f"{source} holds samples that the run was trained on, so that these figures are those of no test: without "
            "data of your own the run is measured on its test samples alone",
            RunWarning,
            stacklevel=2,
        )
    return Judgement(
        run=run,
        source=source,
        task=model.task,
        method=summary["method"],
        seed=summary["seed"],
        samples=len(data),
        names=model.primary_names,
        metrics={
            measure.name: None if (value := metrics[measure.name]) is None else _number(value)
            for measure in MEASURES[model.task]
        },
        per_class=per_class,
        confusion=confusion,
        left_out=(*data.left_out, *left_out),
        trained_on=trained_on,
        origin=origin(where, config.threads),
    )


def _say_if_untold(config: RunConfig, data: Labelled, source: Path) -> None:
    """Warns where a run was told whose labels can be trusted, and the data does not say it."""
    if config.trusted is not None and data.trusted is None:
        warnings.warn(
            f"{source} has no column '{config.trusted}' that says whose labels can be trusted: all {len(data)} samples count",
            RunWarning,
            stacklevel=3,
        )


def _was_trained_on(config: RunConfig, source: Path) -> bool:
    """Whether samples come from the file or folder that a run was trained on, by their place, and not from its test part."""
    if config.data in NAMES:
        return config.data_dir is not None and _is_training_part(config.data, Path(config.data_dir), source)
    for data in (Path(config.data), Path(config.data_dir or ".", config.data)):
        place, found = data.resolve(), source.resolve()
        if found == place:
            return True
        if found.is_relative_to(place) and found.relative_to(place).parts[0].startswith("train"):
            return True
    return False


def _is_training_part(name: str, data_dir: Path, source: Path) -> bool:
    """Whether samples are those that a data set known by name is trained on: train*, a folder or tables, in its folder."""
    place, found = data_dir.resolve(), source.resolve()
    place = place / name if (place / name).is_dir() else place
    if not found.is_relative_to(place) or found == place:
        return False
    first = found.relative_to(place).parts[0]
    return (found.name if is_table(found) else first).startswith("train")


def _say_if_others(metrics: dict[str, float | None], summary: dict[str, Any]) -> None:
    """Warns where the run's own test samples do not give the measures that its summary tells."""
    for name, value in metrics.items():
        told = summary.get(f"test_{name}")
        if value is not None and told is not None and abs(value - told) > _CLOSE * max(1.0, abs(told)):
            warnings.warn(
                f"{name} is {value:.6g} here and {told:.6g} in summary.json: the data has changed since, or the machine "
                "rounds otherwise",
                RunWarning,
                stacklevel=3,
            )


@torch.no_grad()
def _outputs(config: RunConfig, model: PrimaryModel, data: Labelled, device: torch.device) -> Tensor:
    """Of the primary head, (N, C) on the CPU; of segmentation the likeliest classes, (N, H, W)."""
    layout = memory_format(config, device)
    for part in (model.trunk, model.primary_head):  # the rest is float64, which not every device knows
        part.to(device, memory_format=layout)  # type: ignore[call-overload]
    keep = kept(model.task)
    size = EVALUATION_BATCH if keep is None else config.batch_size
    done: list[Tensor] = []
    for start in range(0, len(data), size):
        rows = range(start, min(start + size, len(data)))
        outputs = model.outputs(data.inputs(rows).to(device))
        data.require_finite(start, outputs.isfinite().flatten(1).all(1), "the model gives no number")
        done.append((outputs if keep is None else keep(outputs.movedim(1, -1))).cpu())
    return torch.cat(done)


_Scores = tuple[dict[str, float | None], list[dict[str, Any]], list[list[int]] | None, list[str]]


def _classification(kind: _Kind, outputs: Tensor, targets: Tensor, names: tuple[str, ...]) -> _Scores:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, guesses, classes = targets.numpy(), outputs.argmax(1).numpy(), np.arange(kind.num_primary)
    columns = precision_recall_fscore_support(truth, guesses, labels=classes, zero_division=np.nan)
    matrix = confusion_matrix(truth, guesses, labels=classes)
    rows = [
        {
            "precision": _number(precision),
            "recall": _number(recall),
            "f1": _number(f1) if support else None,  # of a class without samples there is nothing to find
            "support": int(support),
            "predicted": int(predicted),
        }
        for precision, recall, f1, support, predicted in zip(*columns, matrix.sum(0), strict=True)
    ]
    absent = [name for name, row in zip(names, rows, strict=True) if not row["support"]]
    left_out = _absent(absent, "class", "classes", "balanced accuracy, F1 and AUROC")
    return dict(score(kind, outputs, targets)), rows, matrix.tolist(), left_out


def _multi_label(kind: _Kind, outputs: Tensor, targets: Tensor, names: tuple[str, ...]) -> _Scores:
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    rows: list[dict[str, Any]] = []
    for c in range(kind.num_primary):
        logits, y = outputs[:, c].double().numpy(), targets[:, c].numpy()
        taken = logits > 0
        support, predicted = int(y.sum()), int(taken.sum())
        precision, recall, f1, _ = precision_recall_fscore_support(
            y, taken, average="binary", zero_division=0
        )
        rows.append(
            {
                "average_precision": float(average_precision_score(y, logits)) if support else None,
                "precision": float(precision) if predicted else None,
                "recall": float(recall) if support else None,
                "f1": float(f1) if support else None,
                "support": support,
                "predicted": predicted,
            }
        )
    absent = [name for name, row in zip(names, rows, strict=True) if not row["support"]]
    return (
        dict(score(kind, outputs, targets)),
        rows,
        None,
        _absent(absent, "label", "labels", "mAP, F1 (macro) and AUROC"),
    )


def _regression(kind: _Kind, outputs: Tensor, targets: Tensor, names: tuple[str, ...]) -> _Scores:
    """R² divides by the targets' variance: where they are all equal there is none."""
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    assert kind.targets is not None
    std = torch.tensor(kind.targets.std, dtype=torch.float64)
    z, y = outputs.double(), targets.double()
    differ = (y != y[0]).any(0)
    some = differ.nonzero().flatten()
    truth, numbers = (y * std).numpy(), (z * std).numpy()
    errors = {
        "mae": mean_absolute_error(truth, numbers, multioutput="raw_values"),
        "rmse": root_mean_squared_error(truth, numbers, multioutput="raw_values"),
    }
    r2 = torch.full_like(std, math.nan)
    metrics: dict[str, float | None] = {"r2": None}
    if len(some):
        of_each = r2_score(y[:, some].numpy(), z[:, some].numpy(), multioutput="raw_values")
        r2[some] = torch.from_numpy(of_each)
        part = Features(
            tuple(names[i] for i in some),
            *(tuple(v[i] for i in some) for v in (kind.targets.mean, kind.targets.std)),
        )
        metrics["r2"] = score(_Kind(kind.task, len(some), part), outputs[:, some], targets[:, some])["r2"]
        metrics |= {n: v for n, v in score(kind, outputs, targets).items() if n != "r2"}
    else:
        metrics |= {name: float(values.mean()) for name, values in errors.items()}
    rows: list[dict[str, Any]] = [
        {**{name: float(values[i]) for name, values in errors.items()}, "r2": _number(r2[i])}
        for i in range(len(std))
    ]
    equal = [name for name, differs in zip(names, differ.tolist(), strict=True) if not differs]
    left_out = [f"R² of {_listed(equal)}: it needs samples whose targets differ"] if equal else []
    return metrics, rows, None, left_out


def _segmentation(kind: _Kind, predicted: Tensor, targets: Tensor, names: tuple[str, ...]) -> _Scores:
    of_pixels = pixel_counts(predicted, targets, kind.num_primary)
    iou, there, taken = intersections_over_unions(of_pixels), of_pixels.sum(1), of_pixels.sum(0)
    rows: list[dict[str, Any]] = [
        {"iou": float(iou[c]) if there[c] else None, "pixels": int(there[c]), "predicted": int(taken[c])}
        for c in range(kind.num_primary)
    ]
    absent = [name for name, row in zip(names, rows, strict=True) if not row["pixels"]]
    left_out = _absent(absent, "class", "classes", "mIoU")
    if ignored := int((targets == IGNORED).sum()):
        left_out.append(f"{ignored} pixels that stand for no class")
    return dict(pixel_scores(of_pixels)), rows, None, left_out


_BY_TASK: dict[str, Callable[[_Kind, Tensor, Tensor, tuple[str, ...]], _Scores]] = {
    "classification": _classification,
    "multi-label": _multi_label,
    "regression": _regression,
    "segmentation": _segmentation,
}


def _absent(names: list[str], one: str, several: str, means: str) -> list[str]:
    if not names:
        return []
    return [f"{one if len(names) == 1 else several} without a sample, left out of {means}: {_listed(names)}"]


def _listed(names: list[str]) -> str:
    """Names in a row, the first twenty of them."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _number(value: Any) -> float | None:
    """A number, or None for nan."""
    return None if math.isnan(value) else float(value)
