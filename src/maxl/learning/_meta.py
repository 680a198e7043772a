"""MAXL: the training step for θ₁ and the meta step for θ₂ (paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients import (
    METHODS,
    AuxiliaryLoss,
    CompiledPasses,
    Factor,
    Lookahead,
    PrimaryLoss,
    Problem,
    RandomState,
    Recording,
    Regulariser,
    Signals,
    check_method,
    label_gradient,
    logit_gradient,
    missing_forward_formula,
    pull_back,
    regulariser_slope,
    scale,
    warn_fallback,
)
from maxl.learning._gate import Gate
from maxl.learning._multitask import MultiTaskLearner, StepResult, step_result
from maxl.learning._update import Update
from maxl.losses import focal_loss
from maxl.supervision import LabelSource

_Result = TypeVar("_Result")


class MetaAuxiliaryLearner(MultiTaskLearner):
    """Trains a multi-task network θ₁ and a label generator θ₂ together.

    Args:
        network: f, maps x to (primary, auxiliary) logits.
        generator: g, maps (x, y) to soft labels (N, K), or to (labels, weights) with one factor a sample.
            In training mode its BatchNorm uses batch statistics, so a label depends on its batch; put it
            in eval mode for labels that depend on the sample alone.
        optimizer: Holds θ₁.
        meta_optimizer: Holds θ₂.
        hypergradient: "forward" (exact, fast), "reverse" (exact, slow) or "finite-difference".
        entropy_weight: λ, weight of the anti-collapse term.
        lookahead: What the meta step differentiates through. "virtual", as in the paper: a further step
            from the current θ₁ that is not taken. "update": the training step that was taken just before,
            which saves computing another one; ``meta_step`` without one falls back to a virtual step.
        lookahead_rule: "optimizer" to step as the optimizer does (SGD, Adam, AdamW with all options), "sgd"
            for the paper's plain step with the optimizer's learning rates.
        evaluate: Batch for the outer loss in ``step``: "same", or "next", which judges an update by the next
            batch, whose primary gradient the next training step needs anyway. "next" needs "update".
            Compiled, it saves nothing: the primary gradient then takes a pass of its own.
        meta_every: A meta step in every so-many-th call of ``step``.
        cache_labels: Number of training samples whose last labels are kept, so that steps between meta
            steps need no pass of the generator; then ``index`` is needed. The labels used there are as old
            as the sample's last meta step and belong to its augmentation at that time. 0 keeps none.
        favour: "time" keeps the generator's graph and the outputs of the network's layers from the training
            pass for the meta step; "memory" makes them again. The results are the same.
        regulariser: (labels, y) → scalar, replaces the negative entropy of the mean label.
        primary_loss, auxiliary_loss, autocast, check_finite: As for ``MultiTaskLearner``.
        compile: As there; also for the generator. Reverse mode stays eager, as it differentiates twice.
        gate: As there. The meta step takes its factor as a constant; it needs lookahead="update".

    Raises:
        ValueError: if a choice is unknown or two of them do not go together.
    """

    def __init__(
        self,
        network: nn.Module,
        generator: nn.Module,
        optimizer: Optimizer,
        meta_optimizer: Optimizer,
        *,
        hypergradient: str = "forward",
        entropy_weight: float = 0.2,
        lookahead: Literal["virtual", "update"] = "virtual",
        lookahead_rule: Literal["optimizer", "sgd"] = "optimizer",
        evaluate: Literal["same", "next"] = "same",
        meta_every: int = 1,
        cache_labels: int = 0,
        favour: Literal["time", "memory"] = "time",
        regulariser: Regulariser | None = None,
        primary_loss: PrimaryLoss = focal_loss,
        auxiliary_loss: AuxiliaryLoss = focal_loss,
        autocast: torch.dtype | None = None,
        check_finite: bool = True,
        gate: Gate | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(
            network,
            optimizer,
            primary_loss=primary_loss,
            auxiliary_loss=auxiliary_loss,
            autocast=autocast,
            check_finite=check_finite,
            gate=gate,
            compile=compile,
        )
        _check_choice("lookahead", lookahead, ("virtual", "update"))
        _check_choice("lookahead_rule", lookahead_rule, ("optimizer", "sgd"))
        _check_choice("favour", favour, ("time", "memory"))
        _check_choice("evaluate", evaluate, ("same", "next"))
        if evaluate == "next" and lookahead != "update":
            raise ValueError('evaluate="next" judges the update just taken; pass lookahead="update" with it')
        if gate is not None and lookahead != "update":
            raise ValueError('a gate acts on the update that is taken; pass lookahead="update" with it')
        if meta_every < 1:
            raise ValueError(f"meta_every needs to be at least 1; got {meta_every}")
        self.generator = generator
        self.meta_optimizer = meta_optimizer
        self.method = check_method(hypergradient)
        self.entropy_weight = entropy_weight
        self.regulariser = regulariser
        self.lookahead = lookahead
        self.lookahead_rule = lookahead_rule
        self.evaluate = evaluate
        self.meta_every = meta_every
        self.favour = favour
        self.labels = LabelSource(
            generator, cache_labels, autocast, CompiledPasses(generator, "generator") if compile else None
        )
        self.update: Update | None = None
        self._lookahead()  # fail now, not at the first meta step, if this optimizer cannot be followed

    def train_step(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> StepResult:
        """θ₁ ← U(θ₁, ∇[L_pri(f(x), y) + L_aux(f(x), g(x, y))]), the labels held constant.

        Args:
            x: Inputs, as the networks take them.
            y: Primary labels, int64 of shape (N,).
            index: Positions of the samples in the training set, int64 of shape (N,); for ``cache_labels``.

        Raises:
            FloatingPointError: if the loss is not finite; the weights are then unchanged.
        """
        label_random = RandomState.capture(x.device)
        signals = self.labels.constant(x, y, index)
        return self._train(x, y, signals, label_random if self.lookahead == "update" else None)

    def meta_step(self, x: Tensor, y: Tensor, outer_batch: tuple[Tensor, Tensor] | None = None) -> StepResult:
        """θ₂ ← step on L_pri(f(x; θ₁⁺), y) + λH, where θ₁⁺ depends on θ₂ through the labels of (x, y).

        Changes θ₂ and its optimizer's state alone. With lookahead="update" and the very tensor ``x`` of the
        training step just taken, θ₁⁺ is the network as it stands; otherwise a virtual step is taken.

        Args:
            x: Inputs, as the networks take them.
            y: Primary labels, int64 of shape (N,).
            outer_batch: (x, y) on which θ₁⁺ is judged, a held-out batch for instance; (x, y) by default.

        Raises:
            FloatingPointError: if the outer loss is not finite; the weights are then unchanged.
        """
        outer_batch = outer_batch or (x, y)
        if self.update is None or self.update.problem.x is not x:
            if self.gate is not None:
                raise ValueError("with a gate, meta_step needs the very x of the training step just taken")
            return self._meta_virtual(x, y, self.labels.with_graph(x, y), outer_batch)
        outer, v = self.update.problem.outer_gradient(self._weights(), *outer_batch)
        return self._meta_through(outer, scale(v, self.update.factor, in_place=True))

    def step(
        self,
        x: Tensor,
        y: Tensor,
        index: Tensor | None = None,
        outer_batch: tuple[Tensor, Tensor] | None = None,
    ) -> StepResult:
        """A training step, and a meta step where one is due, sharing every pass that can be shared.

        With evaluate="same" it equals ``train_step`` followed by ``meta_step``; the labels are made once.

        Args:
            x, y, index: As for ``train_step``.
            outer_batch: As for ``meta_step``; goes with evaluate="same".
        """
        due = self.steps % self.meta_every == 0
        if self.evaluate == "next":
            if outer_batch is not None:
                raise ValueError('evaluate="next" takes the next batch as the outer batch; drop outer_batch=')
            return self._step_next(x, y, index, due)
        if not due:
            return self._train(x, y, self.labels.constant(x, y, index), None)
        label_random = RandomState.capture(x.device)
        remember = label_random if self.lookahead == "update" else None
        if self.favour == "memory":
            trained = self._train(x, y, self.labels.fresh(x, y, index), remember)
            return _merge(trained, self.meta_step(x, y, outer_batch))
        graph = self.labels.tracked_with_graph(x, y, index)
        signals = tuple(s.detach() for s in graph)
        if self.lookahead == "virtual":
            trained = self._train(x, y, signals, None)
            return _merge(trained, self._meta_virtual(x, y, graph, outer_batch or (x, y)))
        trained = self._train(x, y, signals, remember, graph)
        del graph  # it is the update's to free
        return _merge(trained, self.meta_step(x, y, outer_batch))

    def state_dict(self) -> dict[str, Any]:
        """What the learner itself remembers, tensors and numbers alone; the networks and optimizers not."""
        return {
            "steps": self.steps,
            "cache": None if self.labels.cache is None else self.labels.cache.state_dict(),
            "update": None if self.update is None else self.update.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave, after the networks and optimizers have been restored."""
        self.steps = state["steps"]
        if self.labels.cache is not None and state["cache"] is not None:
            self.labels.cache.load_state_dict(state["cache"])
        self.update = None
        if (saved := state["update"]) is not None:
            random = RandomState.from_state(saved["random"], saved["x"].device)
            problem = self._problem(saved["weights"], saved["x"], saved["y"], random, None)
            label_random = RandomState.from_state(saved["label_random"], saved["x"].device)
            self.update = Update(problem, saved["factor"], saved["signals"], None, label_random)

    def _step_next(self, x: Tensor, y: Tensor, index: Tensor | None, due: bool) -> StepResult:
        """Judges the last update by this batch, then trains on it; ∇L_pri is computed once for both."""
        self.optimizer.zero_grad(set_to_none=True)
        random = RandomState.capture(x.device)
        meta, v = None, None
        if self.passes is not None and self.update is not None:
            # No two backward passes go through one compiled pass, so the judging gradient takes its own.
            judge = self._problem(self._weights(), x, y, random, None)
            with random.replay():
                outer, judged = judge.outer_gradient(self._weights(), x, y)
            meta = self._meta_through(outer, scale(judged, self.update.factor, in_place=True))
        recording = self._recording() if due else None
        with recording or nullcontext(), self._precision(x):
            primary, auxiliary = self._call(x)
        primary_loss = self.primary_loss(primary, y)
        if self.update is not None or self.gate is not None:
            v = self._gradients(primary_loss, retain_graph=True)
        if self.update is not None:
            assert v is not None
            meta = self._meta_through(primary_loss.detach(), scale(v, self.update.factor))
        label_random = RandomState.capture(x.device)
        graph = None
        if due and self.favour == "time":
            graph = self.labels.tracked_with_graph(x, y, index)
            signals = tuple(s.detach() for s in graph)
        else:
            signals = self.labels.fresh(x, y, index) if due else self.labels.constant(x, y, index)
        auxiliary_loss = self.auxiliary_loss(auxiliary, *signals)
        self._require_finite(primary_loss + auxiliary_loss, "training")
        gate = None
        if v is None:
            (primary_loss + auxiliary_loss).backward()  # type: ignore[no-untyped-call]
        elif self.gate is not None:
            gate = self._gated_backward(v, auxiliary_loss)
        else:
            auxiliary_loss.backward()  # type: ignore[no-untyped-call]
            self._add_gradients(v)
        if due:
            problem = self._problem(self._weights_before(), x, y, random, recording)
            self.update = Update(problem, self._factor(), signals, graph, label_random)
        self.optimizer.step()
        self.steps += 1
        trained = step_result(primary_loss, auxiliary_loss, primary, signals, gate)
        return trained if meta is None else _merge(trained, meta)

    def _train(
        self,
        x: Tensor,
        y: Tensor,
        signals: Signals,
        label_random: RandomState | None,
        graph: Signals | None = None,
    ) -> StepResult:
        """The training step; ``label_random`` is given where a meta step may differentiate through it."""
        self.update = None
        self.optimizer.zero_grad(set_to_none=True)
        if label_random is None:
            result = self._backward(x, y, signals)
        else:
            random, recording = RandomState.capture(x.device), self._recording()
            with recording or nullcontext():
                result = self._backward(x, y, signals)
            problem = self._problem(self._weights_before(), x, y, random, recording)
            self.update = Update(problem, self._factor(), signals, graph, label_random)
        self.optimizer.step()
        self.steps += 1
        return result

    def _meta_virtual(
        self, x: Tensor, y: Tensor, signals: Signals, outer_batch: tuple[Tensor, Tensor]
    ) -> StepResult:
        """The paper's meta step: θ₁⁺ is a further step from the current θ₁."""
        random = RandomState.capture(x.device)
        problem = self._problem(self._weights(), x, y, random, self._recording())
        outer, gradients = self._or_reverse(
            problem,
            lambda: label_gradient(self.method, problem, signals, self._lookahead(), *outer_batch),
        )
        return self._update_generator(signals, gradients, outer, y)

    def _meta_through(self, outer: Tensor, u: list[Tensor | None]) -> StepResult:
        """The meta step through the update that was taken: θ₁⁺ is the network as it stands."""
        update, self.update = self.update, None
        assert update is not None
        self._require_finite(outer, "outer")
        problem, graph = update.problem, update.graph
        gradients = self._along(problem, update.signals, u)
        x, y, label_random = problem.x, problem.y, update.label_random
        u.clear()
        del update, problem  # the old weights and layer outputs are not needed for the generator's backward
        if graph is None:
            with label_random.replay():
                graph = self.labels.with_graph(x, y)
        return self._update_generator(graph, gradients, outer, y)

    def _along(self, problem: Problem, signals: Signals, u: list[Tensor | None]) -> Signals:
        """dL_pri(θ₁⁺)/dt by the chosen method, or by reverse mode where that cannot be."""
        return self._or_reverse(problem, lambda: METHODS[self.method](problem, signals, u))

    def _update_generator(self, signals: Signals, gradients: Signals, outer: Tensor, y: Tensor) -> StepResult:
        """One backward through the generator with dL_pri(θ₁⁺)/dt + λ dH/dt, and a step of θ₂."""
        self._require_finite(outer, "outer")
        slope, term = regulariser_slope(signals[0], y, self.entropy_weight, self.regulariser)
        seeds = (gradients[0] + slope, *gradients[1:])
        theta = [p for p in self.generator.parameters() if p.requires_grad]
        for p, g in zip(theta, pull_back(signals, seeds, theta), strict=True):
            p.grad = g
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad(set_to_none=True)
        return StepResult(
            outer_loss=outer,
            label_entropy_term=term,
            hypergradient_norm=logit_gradient(signals[0].detach(), gradients[0]).norm(),
            regulariser_norm=logit_gradient(signals[0].detach(), slope).norm(),
        )

    def _problem(
        self,
        weights: dict[str, Tensor],
        x: Tensor,
        y: Tensor,
        random: RandomState,
        recording: Recording | None,
    ) -> Problem:
        return Problem(
            network=self.network,
            weights=weights,
            x=x,
            y=y,
            primary_loss=self.primary_loss,
            auxiliary_loss=self.auxiliary_loss,
            random=random,
            autocast=self.autocast,
            recording=recording,
            passes=self.passes if self.method != "reverse" else None,
        )

    def _recording(self) -> Recording | None:
        eager = self.passes is None  # nothing can be recorded within a compiled pass
        return Recording() if eager and self.method == "forward" and self.favour == "time" else None

    def _factor(self) -> list[Factor]:
        """−∂U/∂∇ of the update that the gradients now in place will make."""
        theta = list(self._weights().values())
        factors = self._lookahead().factor(theta, [p.grad for p in theta])
        if self.gate is None:
            return factors
        # The labels reach θ₁⁺ through s ∇L_aux, so s belongs to the derivative of the update by ∇L_aux.
        return [f if s is None or f is None else s * f for f, s in zip(factors, self._gated, strict=True)]

    def _weights_before(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._weights().items()}

    def _lookahead(self) -> Lookahead:
        theta = list(self._weights().values())
        return Lookahead.of(self.optimizer, theta, plain=self.lookahead_rule == "sgd")

    def _add_gradients(self, v: Sequence[Tensor | None]) -> None:
        for p, v_p in zip(self._weights().values(), v, strict=True):
            if v_p is not None:
                p.grad = v_p if p.grad is None else p.grad.add_(v_p)

    def _or_reverse(self, problem: Problem, compute: Callable[[], _Result]) -> _Result:
        """``compute()`` by the chosen method; by reverse mode from now on, with one warning, where that cannot be."""
        try:
            return compute()
        except NotImplementedError as error:
            operator = missing_forward_formula(error)
            if operator is None or self.method != "forward":
                raise
            warn_fallback(operator)
            self.method, problem.passes = "reverse", None
            return compute()


def _merge(trained: StepResult, meta: StepResult) -> StepResult:
    return replace(
        trained,
        outer_loss=meta.outer_loss,
        label_entropy_term=meta.label_entropy_term,
        hypergradient_norm=meta.hypergradient_norm,
        regulariser_norm=meta.regulariser_norm,
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} needs to be one of {', '.join(choices)}; got {value!r}")
