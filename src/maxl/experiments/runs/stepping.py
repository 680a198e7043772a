"""Batches and steps of training without a generator, which a run and what precedes it share."""

from __future__ import annotations

import torch

from maxl.experiments.data import Batch, BatchStream, DataSet, Split
from maxl.experiments.runs.config import RunConfig
from maxl.learning import MultiTaskLearner, StepResult


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
