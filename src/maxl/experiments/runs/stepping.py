"""Batches and steps of training, which a run and what precedes it share."""

from __future__ import annotations

import torch
from torch import Tensor

from maxl.experiments.data import Batch, BatchStream, DataSet, Split
from maxl.experiments.runs.config import RunConfig
from maxl.hypergradients import Inputs
from maxl.learning import MetaAuxiliaryLearner, MultiTaskLearner, StepResult


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
