"""What a finished run is judged by beside its main measure: structure, worst groups and calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maxl.experiments.data import Batch, Split
from maxl.experiments.runs.calibration import calibration
from maxl.experiments.runs.evaluation import evaluating, some_of
from maxl.experiments.runs.methods import WITHOUT_LABELS
from maxl.experiments.runs.structure import few_shot_accuracy, label_agreement, worst_group
from maxl.hypergradients import RandomState, as_tuple

if TYPE_CHECKING:
    from maxl.experiments.runs.trainer import Trainer

_MOST = 2000  # training samples on which a temperature is fitted where there is no validation part

Batches = Callable[[Split], Iterator[Batch]]


def outcomes(trainer: Trainer) -> dict[str, Any]:
    """Entries of the summary; empty for tasks without classes.

    Whatever is drawn or moved here is put back: the run is the same with and without.
    """
    if trainer.data.task != "classification":
        return {}
    with RandomState.capture(trainer.device).replay(), evaluating(trainer.setup.network):
        entries = _calibration(trainer)
        if trainer.config.probe is not None:
            entries |= _structure(trainer)
    return {name: None if _missing(value) else value for name, value in entries.items()}


def _calibration(trainer: Trainer) -> dict[str, Any]:
    data = trainer.data
    held_out = data.validation
    if held_out is None:
        rows = torch.arange(len(data.train))
        if (
            data.train.trusted is not None and data.train.trusted.any()
        ):  # wrong labels would call what is right too sure
            rows = data.train.trusted.nonzero().flatten().cpu()
        some = rows[some_of(len(rows), _MOST)]
        held_out = data.train.select(some.to(data.train.x.device))
    logits, fit = _outputs(trainer, data.test), _outputs(trainer, held_out)
    if not (logits.isfinite().all() and fit.isfinite().all()):  # the loss says so, and ends the run
        return {}
    found = calibration(logits, data.test.primary, fit, held_out.primary, trained_on=data.validation is None)
    return {
        "test_ece": found.ece,
        "test_nll_scaled": found.nll,
        "temperature": found.temperature,
        "temperature_from": "training" if data.validation is None else "validation",
    }


def _structure(trainer: Trainer) -> dict[str, Any]:
    data, config = trainer.data, trainer.config
    names = data.probe_names
    assert names is not None  # there is a column
    parts = {"test": data.test} | ({} if data.validation is None else {"validation": data.validation})
    entries: dict[str, Any] = {}
    whole = (
        trainer.outer.whole
    )  # from which every method's probe draws the same samples, whatever it held out
    for suffix, points in (("", _features), ("_inputs", _inputs)):
        if points is _inputs and data.tokens is not None:
            continue  # numbers of tokens say nothing by their size
        scored = [(points(trainer, part), _probe(part)) for part in parts.values()]
        found = few_shot_accuracy(
            points(trainer, whole),
            _probe(whole),
            scored,
            shots=config.probe_shots,
            seed=config.seed,
        )
        entries |= {f"{part}_probe{suffix}": value for part, value in zip(parts, found, strict=True)}
    for name, part in parts.items():
        worst = worst_group(_outputs(trainer, part).argmax(1).cpu(), part.primary.cpu(), _probe(part))
        entries[f"{name}_worst_group"] = None if worst is None else worst[0]
        if name == "test":
            entries["worst_group"] = None if worst is None else names[worst[1]]
    labels = _labels(trainer)
    agreement = None if labels is None else label_agreement(labels, data.train.primary, _probe(data.train))
    return entries | {
        "label_nmi": None if agreement is None else agreement.nmi,
        "label_purity": None if agreement is None else agreement.purity,
        "probe": config.probe,
        "probe_shots": config.probe_shots,
    }


def _outputs(trainer: Trainer, split: Split) -> Tensor:
    return torch.cat([trainer.setup.network.predict(b.x).float().cpu() for b in trainer.in_order(split)])


def _features(trainer: Trainer, split: Split) -> Tensor:
    return torch.cat([trainer.setup.network.trunk(b.x).float().cpu() for b in trainer.in_order(split)])


def _inputs(trainer: Trainer, split: Split) -> Tensor:
    return torch.cat([b.x.flatten(1).cpu() for b in trainer.in_order(split)])


def _labels(trainer: Trainer) -> Tensor | None:
    """The auxiliary labels of all training samples as the run ends; None where there are none."""
    setup = trainer.setup
    if trainer.config.method in WITHOUT_LABELS:
        return None
    found = []
    with evaluating(setup.generator):
        for b in trainer.in_order(trainer.data.train):
            signals = (
                setup.learner.source.constant(b.x, b.primary, b.index)
                if setup.generator is None
                else as_tuple(setup.generator(b.x, b.primary))
            )
            found.append(signals[0].cpu())
    return torch.cat(found)


def _probe(split: Split) -> Tensor:
    assert split.probe is not None  # there is a column
    return split.probe.cpu()


def _missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
