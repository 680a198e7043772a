"""Batches and steps of training, which a run and what precedes it share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maxl.experiments.data import Batch, BatchStream, DataSet, Split
from maxl.experiments.runs.config import RunConfig
from maxl.hypergradients import Inputs
from maxl.learning import MetaAuxiliaryLearner, MultiTaskLearner, StepResult

if TYPE_CHECKING:
    from maxl.experiments.runs.build import Setup


def training_stream(
    config: RunConfig,
    data: DataSet,
    split: Split,
    seed: int,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
) -> BatchStream:
    """Batches of a part of the data, augmented as for training, in an order of the seed; of each batch a part."""
    return BatchStream(
        split,
        config.batch_size,
        mean=data.mean,
        std=data.std,
        augment=data.augment,
        flip=data.flip,
        transform=data.transform,
        seed=seed,
        device=device,
        part=part,
    )


def plain_step(learner: MultiTaskLearner, batch: Batch, limit: float | None) -> StepResult:
    """A training step and no meta step, its gradients clipped to a norm of ``limit`` if there is one."""
    if limit is None:
        return learner.train_step(batch.x, batch.primary, index=batch.index)
    learner.optimizer.zero_grad(set_to_none=True)
    result = learner.backward(batch.x, batch.primary, batch.index)
    torch.nn.utils.clip_grad_norm_(learner.weights().values(), limit)
    learner.optimizer.step()
    return result


def train_plainly(setup: Setup, stream: BatchStream, config: RunConfig) -> None:
    """All epochs of a run that takes plain steps, without looks and checkpoints: a network that another run needs first."""
    setup.train()
    for epoch in range(config.epochs):
        for i, batch in enumerate(stream.epoch(epoch)):
            setup.set_learning_rates(epoch, i, len(stream))
            plain_step(setup.learner, batch, config.max_grad_norm)


def taught_step(
    learner: MetaAuxiliaryLearner,
    x: Inputs,
    y: Tensor,
    index: Tensor,
    outer: tuple[Inputs, Tensor] | None,
    limit: float | None,
) -> StepResult:
    """A training step and the meta step after it, where one is due; gradients are clipped as in ``plain_step``."""
    if limit is None:
        return learner.step(x, y, index, outer)
    learner.optimizer.zero_grad(set_to_none=True)
    result = learner.backward(x, y, index, outer_batch=outer)
    torch.nn.utils.clip_grad_norm_(learner.weights().values(), limit)
    learner.optimizer.step()
    return result.with_meta(learner.meta_step())
