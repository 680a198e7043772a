"""What a look at a run tells of its labels and of the gradients of both tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from maxl.experiments.runs.evaluation import (
    describe_labels,
    evaluating,
    gradient_cosine,
    labels_looked_at,
    some_of,
)
from maxl.experiments.runs.methods import WITHOUT_LABELS
from maxl.experiments.runs.stepping import training_stream
from maxl.hypergradients import as_tuple, pure_call

if TYPE_CHECKING:
    from maxl.experiments.runs.trainer import Trainer


def label_metrics(trainer: Trainer) -> dict[str, Any]:
    """Of the generator's labels for some training samples, unaugmented; nothing where there is no generator."""
    setup, data, task = trainer.setup, trainer.data, trainer.setup.learner.task
    if setup.labeller is None:
        return {}
    some = some_of(len(data.train), labels_looked_at(task))
    split = data.train.select(some.to(data.train.x.device))
    with evaluating(setup.labeller):
        labels = torch.cat([as_tuple(setup.labeller(b.x, b.primary))[0] for b in trainer.in_order(split)])
    look = describe_labels(labels, split.primary, setup.hierarchy, task)
    return {
        "label_entropy": look.entropy,
        "label_entropy_max": look.entropy_max,
        "label_usage": look.usage,
        "label_information": look.information,
        "label_entropy_per_class": look.entropy_per_class,
        "label_usage_per_class": look.usage_per_class,
        "label_verdict": look.verdict(),
    }


def cosine_metrics(trainer: Trainer) -> dict[str, Any]:
    """The cosine of both tasks' gradients on a whole training batch; nothing without a second task."""
    setup, data, config = trainer.setup, trainer.data, trainer.config
    if config.method in WITHOUT_LABELS:
        return {}
    batch = next(training_stream(config, data, data.train, config.seed, trainer.device).epoch(0))
    with torch.no_grad():
        if setup.generator is None:
            signals = setup.learner.source.constant(batch.x, batch.primary, batch.index)
        else:
            signals = as_tuple(pure_call(setup.generator, {}, batch.x, batch.primary))
    cosine, layers = gradient_cosine(
        *(setup.network, setup.network.trunk, batch.x, batch.primary, signals),
        setup.learner.task,
        setup.learner.supervision,
    )
    return {"gradient_cosine": cosine, "gradient_cosine_layers": layers}
