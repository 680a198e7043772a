"""The training step, and the learner for labels that no generator is trained to give."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from maxl.hypergradients import (
    CompiledPasses,
    Inputs,
    Outputs,
    Signals,
    all_finite,
    device_of,
    gradient_hook,
    in_float,
)
from maxl.learning import _alike
from maxl.learning._losses import Rows, check_part, check_positions, gradients, primary_loss
from maxl.learning._mix import Gradients, Mix, Mixed, Sum, copy_gradients
from maxl.learning._record import Batch
from maxl.learning._result import StepResult
from maxl.learning._watch import StepWatch
from maxl.learning._words import Choices, choose
from maxl.networks import MultiTaskNetwork
from maxl.supervision import Losses, NoLabels, Source, Supervision
from maxl.tasks import Task, is_dense
from maxl.worlds import World


def factor_of(scaler: GradScaler | None, device: torch.device) -> Tensor | None:
    """What a gradient scaler multiplies the loss by; None without one, or where it is switched off."""
    if scaler is None or not scaler.is_enabled():
        return None
    factor: Tensor = scaler.scale(torch.ones((), device=device))
    return factor


class MultiTaskLearner:
    """Trains θ₁ on the primary task and, where there are labels, on the auxiliary task.

    Args:
        network: Maps x to (primary, auxiliary) outputs, or to primary ones alone.
        optimizer: Holds the network's trainable weights.
        source: Where auxiliary labels come from: ``maxl.supervision.UniformLabels``, ``FixedLabels``, a generator that
            is not trained (``Generated``). None by default: single-task, or labels given to each step.
        task: What the primary outputs mean; the network's ``task``, else ``maxl.Classification()``, by default.
        supervision: What labels do to the training loss; ``maxl.supervision.AuxiliaryLabels()`` by default.
        mix: How the gradients of both tasks meet: their sum by default, or ``maxl.Gated(gate)``, which costs a
            second backward pass.
        world: Who trains along: ``maxl.DataParallel()`` where each process takes its part of every batch; nobody by
            default. The weights of the first process are then everybody's.
        autocast: Lower precision for the passes (``torch.bfloat16``), or None; losses are taken in float32.
        check_finite: Raise before an update with a loss that is not finite. Reading the loss waits for
            a GPU: switch this off there, and check the loss yourself now and then.
        compile: Pass through ``torch.compile``; a pass that does not compile runs eagerly, with one warning.
            The first steps then take a minute or more. Dynamic shapes compile anew. Goes without a gate, and in one
            process.
        words: Options in place of objects: primary_loss, auxiliary_loss and gate, functions.

    Raises:
        ValueError: if choices do not go together.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        source: Source | None = None,
        task: Task | None = None,
        supervision: Supervision | None = None,
        mix: Mix | None = None,
        world: World | None = None,
        autocast: torch.dtype | None = None,
        check_finite: bool = True,
        compile: bool = False,
        **words: Any,
    ) -> None:
        chosen = choose(
            network, None, optimizer, words, task=task, supervision=supervision, mix=mix, world=world
        )
        self._set_up(network, optimizer, chosen, source or NoLabels(), autocast, check_finite, compile)

    def _set_up(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        chosen: Choices,
        source: Source,
        autocast: torch.dtype | None,
        check_finite: bool,
        compile: bool,
        features: bool = False,
    ) -> None:
        if chosen.mix.splits and compile:
            raise ValueError("a gate needs two backward passes through one pass; use it without compile=True")
        if compile and not chosen.world.alone:
            raise ValueError(
                "a pass that does not compile in one of several processes would make them take different ways: train in one "
                "process, or drop compile=True"
            )
        if not chosen.world.alone:
            _require_within(network, optimizer)
        self.network = network
        self.optimizer = optimizer
        self.task = chosen.task
        self.supervision = chosen.supervision
        self.mix = chosen.mix
        self.world: World = chosen.world
        self._reducer = self.world.reducer()
        self.source = source
        self.autocast = autocast
        self.check_finite = check_finite
        self.passes = CompiledPasses(network, "network", features=features) if compile else None
        self.steps = 0
        self._part: Rows | None = None  # rows of the last part of a batch
        self._filled = False  # whether gradients of this learner wait for the optimizer's step
        self._scale: Tensor | None = None  # on the last loss, of a gradient scaler
        self._watch = StepWatch()
        self._used: list[tuple[weakref.ref[Tensor], weakref.ref[Tensor], int]] = []
        self.world.align(*(module for module, _ in self._held()))
        self._watch.set(optimizer, self._before_step, self._after_step)

    def backward(
        self,
        x: Inputs,
        y: Tensor,
        index: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        share: float = 1.0,
        scaler: GradScaler | None = None,
    ) -> StepResult:
        """Fills the gradients of θ₁, as ``loss.backward()`` does, and moves no weight of it.

        Gradients that the last step of the optimizer has used are dropped first; others are added to, so that a
        batch can come in parts.

        Args:
            x: Inputs, as the network takes them: a tensor, or tensors by name in a mapping.
            y: Targets of the primary task; classes, int64 of shape (N,), for classification.
            index: Positions of the samples in the training set, int64 of shape (N,), for sources that need them.
            labels: Auxiliary labels, int64 of shape (N,) or soft of shape (N, K), in place of the source's.
            share: Share of these samples in those of the whole step, a factor on their loss.
            scaler: Multiplies the loss; call its ``step`` and ``update`` afterwards.

        Raises:
            FloatingPointError: if the loss is not finite; no gradient is added then.
        """
        return self._backward(Batch(x, y, index, labels, share, factor_of(scaler, y.device)))

    def train_step(
        self, x: Inputs, y: Tensor, labels: Tensor | None = None, *, index: Tensor | None = None
    ) -> StepResult:
        """θ₁ ← U(θ₁, ∇L_in): ``backward`` and a step of the optimizer.

        Args:
            x, y, labels, index: As for ``backward``.

        Raises:
            FloatingPointError: if the loss is not finite; the weights are then unchanged.
        """
        self.optimizer.zero_grad(set_to_none=True)
        result = self._backward(Batch(x, y, index, labels))
        self.optimizer.step()
        return result

    def step(self, x: Inputs, y: Tensor, index: Tensor | None = None) -> StepResult:
        """``train_step`` with the source's labels."""
        return self.train_step(x, y, index=index)

    def _backward(self, batch: Batch) -> StepResult:
        self._drop_used_gradients()
        self._drop_left_out(batch.scale)
        if self.mix.splits and batch.share != 1.0:
            raise ValueError(
                "a gate compares the gradients of whole batches; got a part of one: drop share=, or the gate"
            )
        batch.part = batch.share * self._share(batch)
        self._watch.set(self.optimizer, self._before_step, self._after_step)
        batch.weights = self.weights()
        theta = list(batch.weights.values())
        with gradients():
            outputs = self._outputs(batch)
        judged, primary_gradient = self._judge(batch, outputs)
        signals = self._signals(batch)
        losses = self._losses(batch, outputs, signals)
        everybodys = self._everybodys(losses, batch, self._has_other_gradients())
        self._require_finite(everybodys.total(), "training")
        mixed = self._fill(_scaled(losses, batch), theta, primary_gradient)
        self._filled = True
        self._remember(batch, signals, mixed)
        trained = self._result(everybodys, outputs, signals, mixed)
        return trained if judged is None else trained.with_meta(judged)

    def share_of(self, count: int, y: Tensor) -> float:
        """The share of a number of samples in those of all processes, from it and from targets like theirs."""
        return self.world.share(count, _alike.positions(self.task, y))

    def _share(self, batch: Batch) -> float:
        """Of a batch that is trained on; all processes have to hold the same."""
        if self.world.alone:
            return self.world.share(batch.count)
        held, of_batch = self._held(), _alike.positions(self.task, batch.y)
        share = self.world.share(batch.count, {**_alike.numbers(held, self.steps), **of_batch})
        if not self._filled:  # not for each part of a batch
            _alike.check(self.world, held, self.steps)
        return share

    def _held(self) -> _alike.Held:
        """What each of several processes has a copy of."""
        generator = getattr(self.source, "generator", None)
        if not isinstance(generator, nn.Module):
            return [(self.network, self.optimizer)]
        return [(self.network, self.optimizer), (generator, getattr(self, "meta_optimizer", None))]

    def _fill(self, losses: Losses, theta: list[Tensor], primary: Gradients | None) -> Mixed:
        """Everybody's gradient, into ``p.grad``."""
        # Sums may be sent early where nothing writes to p.grad once the pass has added to it.
        overlap = not self.world.alone and type(self.mix) is Sum and gradient_hook(self.network) is None
        with self._reducer.summing(theta, overlap=overlap):
            if not overlap or primary is None:
                return self.mix.backward(losses, theta, primary)
            copy_gradients(theta, primary)  # what the mix would add afterwards
            if losses.auxiliary is not None:
                losses.auxiliary.backward()  # type: ignore[no-untyped-call]
            return Mixed()

    def _outputs(self, batch: Batch) -> Outputs:
        """The network's outputs, as a training pass: BatchNorm keeps its statistics."""
        with self._precision(batch.x):
            if self._single_task(batch):  # does not pay for the other head
                predict: Any = self.network.predict if self.passes is None else self.passes.predict
                return in_float(predict(batch.x))
            return in_float(self.network(batch.x) if self.passes is None else self.passes.call(batch.x))

    def _single_task(self, batch: Batch) -> bool:
        silent = batch.labels is None and isinstance(self.source, NoLabels)
        return silent and isinstance(self.network, MultiTaskNetwork)

    def _judge(self, batch: Batch, outputs: Outputs) -> tuple[StepResult | None, list[Tensor | None] | None]:
        """Where a batch judges the step before: what that gave, and ∇L_pri on the batch if it is trained on too."""
        return None, None

    def _signals(self, batch: Batch) -> Signals:
        if batch.labels is not None:
            return (batch.labels,)
        return self.source.constant(batch.x, batch.y, batch.index)

    def _losses(self, batch: Batch, outputs: Outputs, signals: Signals) -> Losses:
        if batch.part != 1.0:
            self._check_means(outputs, batch.y, signals)
        return self.supervision.losses(self.task, outputs, batch.y, signals)

    def _check_means(self, outputs: Outputs, y: Tensor, signals: Signals) -> None:
        if is_dense(self.task) and self._filled and self._part is not None:
            check_positions(self._part[1], y, self._theta())
        part = tuple(o.detach() for o in outputs), y, tuple(s.detach() for s in signals)
        losses = self.supervision.bind(self.task), primary_loss(self.task)
        self._part = check_part(losses, part, self._part)

    def _has_other_gradients(self) -> bool:
        """Whether another loss has filled gradients before, which would stay this process's own of several."""
        if self.world.alone or self._filled:
            return False
        return any(p.grad is not None and bool(p.grad.any()) for p in self._theta())

    def _everybodys(self, losses: Losses, batch: Batch, others: bool) -> Losses:
        """The losses over the samples of all processes, without a graph.

        Raises:
            ValueError: in every process, if one of several has gradients of other losses.
        """
        share = batch.part / batch.share
        own = [None if loss is None else share * loss.detach() for loss in losses]
        like = losses.primary
        primary, auxiliary, found = self.world.sum([*own, torch.full_like(like, others)], [like, like, like])
        assert primary is not None
        if not self.world.alone and found:
            raise ValueError(
                "in several processes gradients of other losses are not summed over them; got some before learner.backward: "
                "add such a loss to the task's (maxl.Classification(loss)), or drop them (optimizer.zero_grad())"
            )
        return Losses(primary, auxiliary)

    def _remember(self, batch: Batch, signals: Signals, mixed: Mixed) -> None:
        """Where a meta step will follow."""

    def _before_step(self) -> None:
        """Right before the optimizer's step, gradients as they will be stepped."""

    def _after_step(self) -> None:
        if self._filled:  # others may step this optimizer too
            self._note_used_gradients()
            self.steps += 1
        self._filled = False

    def _note_used_gradients(self) -> None:
        """Those that are there now will not be added to."""
        self._used = [
            (weakref.ref(p), weakref.ref(p.grad), p.grad._version)
            for p in self._theta()
            if p.grad is not None
        ]

    def _drop_used_gradients(self) -> None:
        for weight, gradient, version in self._used:  # of weights that were frozen since, too
            p = weight()
            if p is not None and p.grad is not None and p.grad is gradient() and p.grad._version == version:
                p.grad = None
        self._used = []

    def _drop_left_out(self, scale: Tensor | None) -> None:
        """Drops the gradients of a step that a scaler has left out, for it lowers its factor then."""
        before, self._scale = self._scale, scale
        if scale is None or before is None or not self._filled or not bool(scale < before):
            return
        if not all_finite(p.grad for p in self._theta() if p.grad is not None):  # else another loss's
            self.optimizer.zero_grad(set_to_none=True)
        self._filled = False

    def _result(self, losses: Losses, outputs: Outputs, signals: Signals, mixed: Mixed) -> StepResult:
        named = dict(zip(self.supervision.signals, signals, strict=False))
        return StepResult(
            primary_loss=losses.primary,
            auxiliary_loss=losses.auxiliary,
            primary_logits=outputs[0].detach(),
            labels=named.get("labels"),
            weights=named.get("weights"),
            gate=mixed.gate,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose gradients are not these."""
        return {**self.__dict__, "_used": [], "_part": None, "_scale": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch.set(self.optimizer, self._before_step, self._after_step)

    def weights(self) -> dict[str, Tensor]:
        """θ₁: the network's trainable weights by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def _theta(self) -> Sequence[Tensor]:
        return list(self.weights().values())

    def state_dict(self) -> dict[str, Any]:
        """What the learner itself remembers; the network and the optimizer not."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        self.steps = state["steps"]

    def _precision(self, x: Inputs) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(device_of(x).type, self.autocast)

    def _require_finite(self, loss: Tensor, what: str) -> None:
        if self.check_finite and not math.isfinite(value := loss.item()):
            raise FloatingPointError(
                f"the {what} loss needs to be finite; got {value} at step {self.steps + 1}: "
                "lower the learning rate, or look for NaN in the inputs"
            )


def _scaled(losses: Losses, batch: Batch) -> Losses:
    if batch.part == 1.0 and batch.scale is None:
        return losses
    factor = batch.part if batch.scale is None else batch.part * batch.scale
    return Losses(factor * losses.primary, None if losses.auxiliary is None else factor * losses.auxiliary)


def _require_within(network: nn.Module, optimizer: Optimizer) -> None:
    """ValueError if an optimizer trains what is outside the network: its gradients would stay each process's own."""
    own = {id(p) for p in network.parameters()}
    outside = sum(id(p) not in own for group in optimizer.param_groups for p in group["params"])
    if outside:
        raise ValueError(
            f"in several processes an optimizer needs to train weights of the network alone; got {outside} tensors of others, "
            "such as a loss's: make them part of the network, or train in one process"
        )
