"""A LightningModule around a learner: ``Trainer(...).fit(MAXLModule(learner), loader)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from maxl.learning import AccumulatingLearner, MetaAuxiliaryLearner, MultiTaskLearner
from maxl.tasks import Classification


class MAXLModule(LightningModule):
    """Trains with a learner's ``backward`` and ``meta_step`` under Lightning's manual optimization, in your own Trainer.

    Batches are (x, y) or (x, y, index), index being the samples' positions in the training set. The Trainer's ``global_step``
    counts the optimizer's steps; checkpoints hold both networks, both optimizers and what the learner remembers, with
    PyTorch's random numbers, so that training goes on as if it had not been interrupted where an epoch has ended (from a
    checkpoint by the count of steps, ``every_n_train_steps``, with another order of the samples).
    Logged, as means over an epoch: ``train_loss``, ``train_primary_loss``, ``train_auxiliary_loss``, and the task's loss in
    validation and test, ``val_loss`` and ``test_loss``, with ``val_accuracy`` and ``test_accuracy`` for classes.

    Lightning refuses its own clipping and accumulation in manual optimization, so they are arguments here. Several
    devices are refused: strategies' hooks do not see a hypergradient. Train by ``torchrun`` with a loop of your own and
    ``world=maxl.DataParallel()``.

    Args:
        learner: Holds networks and optimizers.
        schedulers: Of learning rates, stepped after the last batch of each epoch.
        max_grad_norm: Clip the gradient's norm to this before a step; None leaves it as it is.
        accumulate: Batches in a step, at least 1; the last step of an epoch may have fewer.

    Raises:
        ValueError: if ``accumulate`` or ``max_grad_norm`` is out of range, the learner makes parts of its own, or a scheduler
            waits for a figure. When training begins: if the Trainer has several devices, or trains in float16.
    """

    def __init__(
        self,
        learner: MultiTaskLearner,
        *,
        schedulers: Sequence[LRScheduler] = (),
        max_grad_norm: float | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"accumulate needs to be at least 1; got {accumulate}")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm needs to be above 0, or None; got {max_grad_norm}")
        if isinstance(learner, AccumulatingLearner):
            raise ValueError(
                "a learner in Lightning needs to take batches whole; got an AccumulatingLearner: use MetaAuxiliaryLearner "
                "with accumulate="
            )
        if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
            raise ValueError(
                "schedulers are stepped after each epoch, without a figure to look at; got ReduceLROnPlateau: step it in "
                "on_validation_epoch_end of a class of your own"
            )
        self.automatic_optimization = False
        self.learner = learner
        self.network = learner.network
        if isinstance(learner, MetaAuxiliaryLearner):
            self.generator = learner.generator
        self.schedulers = list(schedulers)
        self.max_grad_norm = max_grad_norm
        self.accumulate = accumulate
        self._waiting: list[Any] = []
        self._random: Tensor | None = None  # of a checkpoint, until the epoch that it ended is over

    def setup(self, stage: str) -> None:
        """ValueError for what would be trained wrongly."""
        if self.trainer.world_size > 1:
            raise ValueError(
                f"MAXLModule trains on one device, as a strategy's hooks do not see a hypergradient; got {self.trainer.world_size} "
                "devices: pass devices=1, or use torchrun with a loop of your own and world=maxl.DataParallel()"
            )
        if self.trainer.precision in ("16-mixed", "16-true"):
            raise ValueError(
                "MAXLModule has no gradient scaler, which float16 needs; got "
                f"precision={self.trainer.precision}: use bf16-mixed"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Primary outputs: the generator and the auxiliary head are not there at test time."""
        predict = getattr(self.network, "predict", None)
        outputs: Tensor = self.network(x)[0] if predict is None else predict(x)
        return outputs

    def configure_optimizers(self) -> Any:
        """The learner's, with the schedulers."""
        optimizers = [self.learner.optimizer]
        if isinstance(self.learner, MetaAuxiliaryLearner):
            optimizers.append(self.learner.meta_optimizer)
        return optimizers, self.schedulers

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """``backward`` on the batch, or on those that have waited for it; a step; ``meta_step``."""
        self._waiting.append(batch)
        if len(self._waiting) < self.accumulate and not self.trainer.is_last_batch:
            return
        batches, self._waiting = self._waiting, []
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        optimizer.zero_grad()
        count = sum(len(y) for _, y, *_ in batches)
        for x, y, *index in batches:
            result = self.learner.backward(x, y, *index, share=len(y) / count)
            losses = {
                "train_loss": result.loss,
                "train_primary_loss": result.primary_loss,
                "train_auxiliary_loss": result.auxiliary_loss,
            }
            self.log_dict(
                {name: value for name, value in losses.items() if value is not None},
                on_step=False,
                on_epoch=True,
                batch_size=len(y),
            )
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        optimizer.step()
        if isinstance(self.learner, MetaAuxiliaryLearner):
            self.learner.meta_step()
        if self.trainer.is_last_batch:  # here, so that a checkpoint of the epoch's last step has it
            for scheduler in self.schedulers:
                scheduler.step()

    def on_train_epoch_start(self) -> None:
        """Drops the batches that a training which was stopped has left waiting."""
        self._waiting = []

    def on_train_epoch_end(self) -> None:
        """Of an epoch that a checkpoint has ended: the Trainer has drawn the order of its samples once more."""
        if self._random is not None and self.trainer.fit_loop.restarting:
            torch.set_rng_state(self._random)
        self._random = None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Logs the task's loss, and accuracy with ``maxl.Classification``; of several loaders each by its own name."""
        self._judge(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As ``validation_step``."""
        self._judge(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Primary outputs of x, or of the x of (x, y)."""
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)  # type: ignore[no-any-return]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the learner remembers."""
        checkpoint["maxl"] = {"learner": self.learner.state_dict(), "random": torch.get_rng_state()}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restores it, and the random numbers of training: the next ones are drawn for the order of the samples."""
        self.learner.load_state_dict(checkpoint["maxl"]["learner"])
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._random = checkpoint["maxl"]["random"].cpu()
            torch.set_rng_state(self._random)

    def _judge(self, batch: Any, stage: str) -> None:
        x, y, *_ = batch
        outputs = self(x)
        task = self.learner.task
        found = {f"{stage}_loss": task.loss(outputs, y)}
        if isinstance(task, Classification) and y.dim() == 1:
            found[f"{stage}_accuracy"] = (outputs.argmax(1) == y).float().mean()
        self.log_dict(found, batch_size=len(y), prog_bar=True)
