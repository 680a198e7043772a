"""Agreement filtering: train on the samples whose given label another network, which has not seen them, agrees with.

The method ``agreement``: the training samples are cut into two halves with the same classes, a network is trained on each by the primary
task alone and for as many epochs as the run has, and predicts the labels of the other (cross-validation to find wrong labels:
Brodley and Friedl, JAIR 1999; confident learning keeps samples likewise, Northcutt et al., JAIR 2021). Where the run starts
from another one, which may have been trained on the very labels, these networks start from fresh weights. Trusted samples stay
whatever is predicted, and so do those of a class of which no sample would.

All of it is a function of the config and the data. A run that goes on does it again.
"""

from __future__ import annotations

import dataclasses
import logging

import torch
from torch import Tensor

from maxl.experiments.data import DataSet, evaluation_batches
from maxl.experiments.runs.build import build, choose_hierarchy
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.evaluation import evaluating
from maxl.experiments.runs.machine import tensor_float32
from maxl.experiments.runs.outer import folds
from maxl.experiments.runs.start import load_start, without_run
from maxl.experiments.runs.stepping import train_plainly, training_stream
from maxl.hypergradients import RandomState

_BATCH = 500  # samples predicted at a time
_logger = logging.getLogger(__name__)


def agreeing(config: RunConfig, data: DataSet, device: torch.device) -> Tensor:
    """Positions of the training samples to train on, int64 and sorted.

    Torch's global generator is left as it was. Passes are eager, whatever the config says of compilation.

    Args:
        config: The run.
        data: Its data, a classification.
        device: Where to compute.

    Raises:
        ValueError: if there are fewer than two samples, or no classes.
        FloatingPointError: if the training diverges.
    """
    choose_hierarchy(config, data)  # refuses other tasks
    if len(data.train) < 2:
        raise ValueError(
            f"--method agreement needs a training sample for each of two networks; got {len(data.train)}"
        )
    config = dataclasses.replace(
        without_run(config), method="single", compile=False, patience=None, keep="last", trusted_epochs=None
    )
    halves = folds(data.train, 2, config.seed)
    predicted = torch.empty_like(data.train.primary)
    with RandomState.capture(device).replay(), tensor_float32(config.precision != "float32"):
        for seen, unseen in (halves, halves[::-1]):
            predicted[unseen] = _predictions(config, data, seen, unseen, device)
    keep = predicted == data.train.primary
    if data.train.trusted is not None:
        keep |= data.train.trusted
    lost = torch.bincount(data.train.primary[keep], minlength=data.num_primary) == 0
    keep |= lost[data.train.primary]
    _logger.debug("agreement: %d of %d training samples are kept", int(keep.sum()), len(keep))
    return keep.nonzero().flatten()


def _predictions(
    config: RunConfig, data: DataSet, seen: Tensor, unseen: Tensor, device: torch.device
) -> Tensor:
    """Classes of some training samples by a network that is trained on others."""
    torch.manual_seed(config.seed)
    part = dataclasses.replace(data, train=data.train.select(seen))
    setup = build(config, part, device, load_start(config, part, choose_hierarchy(config, part)))
    batches = evaluation_batches(data.train.select(unseen), _BATCH, data.mean, data.std, device)
    try:
        train_plainly(setup, training_stream(config, part, part.train, config.seed, device), config)
        with evaluating(setup.network):
            outputs = torch.cat([setup.network.predict(batch.x).cpu() for batch in batches])
    except FloatingPointError:
        outputs = torch.full((1,), torch.nan)
    if not outputs.isfinite().all():
        raise FloatingPointError(
            "--method agreement trains networks on parts of the samples; a loss or output of theirs is not finite: lower "
            "--learning-rate"
        )
    return outputs.argmax(1)
