"""MAXL: the training step for θ₁ and the meta step for θ₂ (paper, section 3)."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from maxl.hypergradients import (
    Check,
    Inputs,
    OrReverse,
    Outputs,
    Problem,
    RandomState,
    Recording,
    Signals,
    UpdateRule,
    Way,
    copied,
    device_of,
    scale,
    spare_buffers,
)
from maxl.learning._lookahead import Judged, Lookahead
from maxl.learning._losses import check_gate, check_within, gradients
from maxl.learning._mix import Mix, Mixed
from maxl.learning._multitask import MultiTaskLearner, factor_of
from maxl.learning._outer import OuterBatch, outer_gradient
from maxl.learning._part import check_sampled, drawn
from maxl.learning._record import Batch, MicroBatch, Update
from maxl.learning._result import StepResult
from maxl.learning._schedule import Schedule
from maxl.learning._teacher import Teacher, require_finite
from maxl.learning._tracker import UpdateTracker
from maxl.learning._virtual import update_on
from maxl.learning._words import check_pair, choose
from maxl.supervision import Generated, Losses, Supervision, generated
from maxl.tasks import Task
from maxl.worlds import World


class MetaAuxiliaryLearner(MultiTaskLearner):
    """Trains a network θ₁, and a generator θ₂ of the signals that it is trained with.

    Args:
        network: f, maps x to (primary, auxiliary) outputs, or to primary ones where the supervision needs no others.
        generator: g, maps (x, y) to what the supervision takes: labels (N, K), or (labels, weights), or weights (N,).
            In training mode its BatchNorm uses batch statistics, so a label depends on its batch; put it
            in eval mode for labels that depend on the sample alone.
        optimizer: Holds θ₁.
        meta_optimizer: Holds θ₂.
        task: What the primary outputs mean; the network's ``task``, else ``maxl.Classification()``, by default.
        supervision: What signals do to the training loss; ``maxl.supervision.AuxiliaryLabels()`` by default, or
            ``WeightedLabels()`` for a ``WeightedLabelGenerator``.
        way: How to differentiate: ``maxl.Forward()`` (exact, fast) by default, ``Reverse()`` (exact, slow) or
            ``FiniteDifference()``.
        lookahead: Through which step, and judged by what: ``maxl.Taken()`` by default, ``Next()`` or ``Virtual()``.
        schedule: When a meta step is due: ``maxl.Every(1)`` by default.
        mix: As for ``MultiTaskLearner``; a gate goes with a lookahead that follows the step taken.
        world, autocast, check_finite: As for ``MultiTaskLearner``.
        check: Compare the hypergradient with ordinary gradients at neighbouring signals, which detects whatever in the
            network hides its derivative: at the "first" meta step, "never", or at every k-th. It costs two gradients
            of the training loss. Where they differ, reverse mode takes over, with a warning.
        compile: As there; also for the generator. Reverse mode stays eager, as it differentiates twice.
        words: Options as words and numbers in place of objects, as in ``maxl.PRESETS``: hypergradient ("forward", "reverse", "finite-difference"),
            lookahead ("update", "virtual"), lookahead_rule ("optimizer", "sgd"), evaluate ("same", "next"), meta_every
            (k), favour ("time", "memory"), cache_size (training samples whose last labels are kept between meta steps;
            needs ``index``), entropy_weight, regulariser, primary_loss, auxiliary_loss, gate.

    Raises:
        ValueError: if a choice is unknown or two of them do not go together, or if network and generator share
            trainable weights.
    """

    def __init__(
        self,
        network: nn.Module,
        generator: nn.Module,
        optimizer: Optimizer,
        meta_optimizer: Optimizer,
        *,
        task: Task | None = None,
        supervision: Supervision | None = None,
        way: Way | None = None,
        lookahead: Lookahead | str | None = None,
        schedule: Schedule | None = None,
        mix: Mix | None = None,
        world: World | None = None,
        autocast: torch.dtype | None = None,
        check_finite: bool = True,
        check: Check = "first",
        compile: bool = False,
        **words: Any,
    ) -> None:
        chosen = choose(
            *(network, generator, optimizer, words),
            task=task,
            supervision=supervision,
            mix=mix,
            way=way,
            lookahead=lookahead,
            schedule=schedule,
            world=world,
            autocast=autocast,
        )
        check_pair(network, generator, meta_optimizer, compile=compile)
        source = generated(generator, chosen.cache_size, chosen.world, autocast=autocast, compile=compile)
        self._set_up(network, optimizer, chosen, source, autocast, check_finite, compile, source.shares)
        self.labels: Generated = source
        self.generator, self.meta_optimizer = generator, meta_optimizer
        self._teacher = Teacher(network, source, meta_optimizer, self.supervision, self.world)
        self.way, self.schedule = OrReverse(chosen.way, check), chosen.schedule
        self.lookahead = copy.deepcopy(chosen.lookahead)
        self._tracker, self.judging = UpdateTracker(), self.world.reducer()
        self.lookahead.check(self)  # fail now, not at the first meta step

    def backward(
        self,
        x: Inputs,
        y: Tensor,
        index: Tensor | None = None,
        *,
        outer_batch: tuple[Inputs, Tensor] | None = None,
        labels: Tensor | None = None,
        share: float = 1.0,
        scaler: GradScaler | None = None,
    ) -> StepResult:
        """∇_θ₁ L_in into ``p.grad``, the generator's signals held constant. Moves no weight of θ₁.

        Then follow the caller's ``optimizer.step()`` and ``meta_step()``. What multiplies the gradients in between,
        clipping by norm or a gradient scaler, is a constant factor to the hypergradient. Called again before the
        optimizer's step, it adds a further part of the same batch.

        Args:
            x, y, index, share, scaler: As for ``MultiTaskLearner``.
            outer_batch: (x, y) on which θ₁⁺ is judged, a held-out batch for instance; the batch itself by default.
            labels: Refused: the generator gives them.

        Raises:
            FloatingPointError: if the loss is not finite; no gradient is added then.
            ValueError: if labels are given.
        """
        factor = factor_of(scaler, y.device)
        result = self._backward(Batch(x, y, index, labels, share, factor, outer_batch))
        self._tracker.seal(outside=self.lookahead.follows)
        return result

    def meta_step(
        self,
        x: Inputs | None = None,
        y: Tensor | None = None,
        outer_batch: tuple[Inputs, Tensor] | None = None,
    ) -> StepResult:
        """θ₂ ← step on L_pri(f(x; θ₁⁺), y) + λH, where θ₁⁺ depends on θ₂ through the signals of (x, y).

        Changes θ₂ and its optimizer's state alone, and draws random numbers where the network does. Does nothing where
        none is due, where a gradient scaler has left the optimizer's step out, or where a later batch judges.

        Args:
            x, y: The batch of the training step just taken, which is the default. With ``maxl.Virtual()`` any other
                batch: θ₁⁺ is then a step on that.
            outer_batch: (x, y) on which θ₁⁺ is judged; by default that of ``backward``, else the batch itself.

        Raises:
            ValueError: if no training step has been taken since the last call, or its batch has been changed.
            FloatingPointError: if the outer loss is not finite; the weights are then unchanged.
        """
        if x is not None:
            if y is None:
                raise ValueError("meta_step needs the targets of the batch too: pass x and y, or neither")
            self._aim(x, y, outer_batch)
        elif outer_batch is not None and self.update is not None:
            self.update.judge_by(outer_batch)
        if self._tracker.left_out:
            self._note_used_gradients()
        update = self._tracker.take()
        with gradients(wanted_anyway=True):
            return StepResult() if update is None else self.lookahead.teach(self, update)

    def train_step(
        self, x: Inputs, y: Tensor, labels: Tensor | None = None, *, index: Tensor | None = None
    ) -> StepResult:
        """θ₁ ← U(θ₁, ∇L_in), the signals held constant; a ``meta_step`` may follow.

        Args:
            x, y, index: As for ``backward``.
            labels: Refused: the generator gives them.

        Raises:
            FloatingPointError: if the loss is not finite; the weights are then unchanged.
        """
        result = super().train_step(x, y, labels, index=index)
        if self.update is not None and not self.lookahead.follows:
            self.update.drop_graphs()  # a virtual step may be taken much later, or never
        return result

    def step(
        self,
        x: Inputs,
        y: Tensor,
        index: Tensor | None = None,
        outer_batch: tuple[Inputs, Tensor] | None = None,
    ) -> StepResult:
        """``backward`` with its arguments, a step of the optimizer, and ``meta_step``."""
        self.optimizer.zero_grad(set_to_none=True)
        trained = self._backward(Batch(x, y, index, outer=outer_batch))
        self.optimizer.step()
        if self.lookahead.recompute:
            self.optimizer.zero_grad(set_to_none=True)
        return trained.with_meta(self.meta_step())

    def outer_gradient(
        self, update: Update, weights: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The outer loss and v = ∇L_out at ``weights`` (default: θ₁ as it is), on the batch that judges the update."""
        batches, at = self._outer_batches(update), weights or self.weights()
        return self.summed(*outer_gradient(self.problem, batches, at, self.judging.watching))

    def _outer_batches(self, update: Update) -> list[OuterBatch]:
        return update.outer_batches(self.share_of)

    def summed(self, outer: Tensor, v: list[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """An outer loss and its gradient, from each process's summands."""
        *v, everybodys = self.judging.sum(v, list(self.weights().values()), outer)
        assert everybodys is not None
        return everybodys, v

    def teach_through(self, update: Update, outer: Tensor, v: list[Tensor | None]) -> StepResult:
        """The meta step through an update that was taken.

        Args:
            update: The training step.
            outer: The outer loss, a scalar.
            v: ∇L_out at θ₁⁺ by weight; emptied.
        """
        self._require_finite(outer, "outer")
        for part in update.parts:
            part.check_unchanged()
        u = scale(update.in_order(self.weights(), v), update.factor)
        gradients = [self.way.along(part.problem, part.signals, u) for part in update.parts]
        u.clear()
        return self.teach(update, gradients, outer)

    def teach(self, update: Update, gradients: list[Signals], outer: Tensor) -> StepResult:
        """A step of θ₂: one backward through the generator with dL_out/dt and the slope of the penalty.

        Args:
            update: The training step whose signals are taught.
            gradients: dL_out/dt for each of its parts.
            outer: The outer loss, a scalar.
        """
        self._require_finite(outer, "outer")
        if self.check_finite and not update.scaled:
            require_finite(gradients, self.world)
        self.way.count += 1
        return self._teacher.step(update, gradients, outer)

    @property
    def update(self) -> Update | None:
        """The step that was taken and has not been judged yet."""
        return self._tracker.update

    def take_update(self) -> Update | None:
        """The same; it is the caller's then."""
        return self._tracker.take_update()

    def keep_update(self, update: Update) -> None:
        """Leaves it to a later batch to judge."""
        self._tracker.update = update

    def problem(self, x: Inputs, y: Tensor, weights: dict[str, Tensor] | None = None, **more: Any) -> Problem:
        """The two-level problem of a batch at the network as it stands.

        Args:
            x, y, weights: The batch, and θ₁ by name where it has been looked up.
            more: Of the ``Problem``: ``recording``, ``share`` and ``outer_share``, or ``random`` of an earlier pass.
        """
        return Problem(
            network=self.network,
            weights=self.weights() if weights is None else weights,
            x=x,
            y=y,
            # Of copies: a weight of theirs may be annealed before the step is judged.
            training_loss=copy.copy(self.supervision).bind(copy.copy(self.task)),
            outer_loss=self.task.loss,
            autocast=self.autocast,
            passes=self.passes if self.way.way.compiles else None,
            total=None if self.world.alone else self.world.sum,
            every=self.world.every,
            **{"random": RandomState.capture(device_of(x)), **more},
        )

    def rule(self, *, plain: bool = False) -> UpdateRule:
        """The optimizer's next step as a function; with ``plain``, SGD's with the same learning rates."""
        return UpdateRule.of(self.optimizer, self._theta(), plain=plain)

    def state_dict(self) -> dict[str, Any]:
        """What the learner itself remembers, tensors and numbers alone; networks and optimizers not."""
        return {
            "steps": self.steps,
            "cache": self.labels.state_dict(),
            "lookahead": self.lookahead.state_dict(),
            "update": None if self.update is None else self.update.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave, once the networks and optimizers are restored."""
        self.steps = state["steps"]
        self.labels.load_state_dict(state["cache"])
        self.lookahead.load_state_dict(state.get("lookahead", {}))
        self._tracker = UpdateTracker()
        if state["update"] is not None:
            self.keep_update(Update.restored(state["update"], self.problem))

    # The sequence of a training step: ``MultiTaskLearner._backward``.
    def _outputs(self, batch: Batch) -> Outputs:
        if batch.labels is not None:
            raise ValueError(
                "the generator gives this learner its labels; got others: train on those with maxl.MultiTaskLearner"
            )
        self._tracker.begin(batch.weights, batch.outer, keep=self.lookahead.waits, whole=self.mix.splits)
        batch.due = self.schedule.due(self.steps)
        if batch.due:
            batch.rows = drawn(self.schedule, batch, self._tracker.parts, follows=self.lookahead.follows)
        batch.problem = self.problem(batch.x, batch.y, batch.weights, share=batch.part)
        if batch.due and self.lookahead.follows:
            batch.problem.buffers = spare_buffers(self.network)
            keep = not self.lookahead.recompute and batch.rows is None
            batch.problem.recording = self.recording(outputs=keep)
        with batch.problem.recording or nullcontext(), self.labels.watching(self.passes) as features:
            outputs = super()._outputs(batch)
        batch.features = features[0] if features else None
        if self.lookahead.follows:
            batch.problem.expected = copied(outputs)
        return outputs

    def _judge(self, batch: Batch, outputs: Outputs) -> Judged:
        return self.lookahead.judge(self, batch, outputs)

    def _losses(self, batch: Batch, outputs: Outputs, signals: Signals) -> Losses:
        losses = super()._losses(batch, outputs, signals)
        check_gate(losses, self.mix.splits, self.supervision)
        if batch.rows is not None:
            judges = batch.outer is None and not self.lookahead.waits
            check_sampled(self.supervision, self.task, outputs, batch.y, signals, judges=judges)
        if batch.due and self.way.is_due():
            check_within(losses, self.network, self.optimizer)
        return losses

    def _signals(self, batch: Batch) -> Signals:
        of = batch.x, batch.y, batch.index, batch.features
        if not batch.due:
            return self.supervision.check_signals(self.labels.constant(*of))
        batch.label_random = RandomState.capture(device_of(batch.x))
        batch.label_buffers = spare_buffers(self.generator)
        keep = not self.lookahead.recompute and batch.rows is None
        graph = self.supervision.check_signals(self.labels.fresh(*of, graph=keep))
        batch.graph = graph if keep else None
        return tuple(s.detach() for s in graph)

    def _remember(self, batch: Batch, signals: Signals, mixed: Mixed) -> None:
        part = MicroBatch.of(batch, signals) if batch.due else None
        update = self._tracker.add(part, batch.weights, scaled=batch.scale is not None)
        update.gated, update.scale = mixed.factors, batch.scale
        update.judge_by(batch.outer or update.outer)
        if batch.rows is not None and batch.outer is None and not self.lookahead.waits:
            update.judge_by_some(batch.x, batch.y, batch.rows[1])
        self._tracker.seal(outside=False, compare=self.way.is_due() and self.lookahead.follows)

    def _before_step(self) -> None:
        if self.lookahead.follows:
            self._tracker.before_step(self.weights(), self.optimizer, predict=self.way.is_due())

    def _after_step(self) -> None:
        super()._after_step()
        self._tracker.after_step(self.weights())

    def _aim(self, x: Inputs, y: Tensor, outer_batch: tuple[Inputs, Tensor] | None) -> None:
        """What a meta step on a named batch learns from."""
        update = self.update
        if update is not None and len(update.parts) == 1 and update.parts[0].is_of(x, y):
            update.judge_by(outer_batch or update.outer or (x, y))
        elif self.lookahead.follows:
            raise ValueError(
                "meta_step differentiates through the update just taken: it needs the very x of the training step just "
                "taken and its y, or neither; got others: use lookahead=maxl.Virtual() to learn from another batch"
            )
        else:
            update = update_on(self, x, y, outer_batch)
        self._tracker.aim(update)

    def recording(self, *, outputs: bool = True) -> Recording | None:
        """What a training pass notes for the way to differentiate, ``outputs`` of layers among it; a compiled pass cannot."""
        return Recording(outputs=outputs and self.way.way.reuses_outputs) if self.passes is None else None
