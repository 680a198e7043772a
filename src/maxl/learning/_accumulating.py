"""Gradient accumulation: a step on a batch that does not fit memory at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maxl.hypergradients import Problem, RandomState, Signals, logit_gradient, regulariser_slope, scale
from maxl.learning._meta import MetaAuxiliaryLearner
from maxl.learning._multitask import StepResult


class AccumulatingLearner(MetaAuxiliaryLearner):
    """A learner whose ``step`` works through each batch in parts and updates each network once.

    The update just taken is the lookahead and the batch itself judges it, as with
    ``PRESETS["exact"]``; memory is that of one part. The result is that of the whole batch for networks whose
    samples do not interact; BatchNorm on batch statistics normalises within a part instead.

    Args:
        microbatch: Samples in a part.
        args, options: As for ``MetaAuxiliaryLearner``; ``lookahead`` and ``evaluate`` are set here.

    Raises:
        ValueError: if ``microbatch`` is below 1, or a gate is given.
    """

    def __init__(self, *args: Any, microbatch: int, **options: Any) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch needs to be at least 1; got {microbatch}")
        if options.get("gate") is not None:
            raise ValueError("a gate needs the gradients of a whole batch; use MetaAuxiliaryLearner with it")
        super().__init__(*args, **{**options, "lookahead": "update", "evaluate": "same"})
        self.microbatch = microbatch

    def step(
        self,
        x: Tensor,
        y: Tensor,
        index: Tensor | None = None,
        outer_batch: tuple[Tensor, Tensor] | None = None,
    ) -> StepResult:
        """As ``MetaAuxiliaryLearner.step``, part by part."""
        due = self.steps % self.meta_every == 0
        parts, trained = self._accumulate(x, y, index, fresh=due)
        factor = self._factor() if due else []
        before = self._weights_before() if due else {}
        self.optimizer.step()
        self.steps += 1
        if not due:
            return trained
        outer, v = self._outer_gradient(*(outer_batch or (x, y)))
        self._require_finite(outer, "outer")
        u = scale(v, factor, in_place=True)
        labels = torch.cat([signals[0] for _, signals, _ in parts])
        slopes, term = regulariser_slope(labels, y, self.entropy_weight, self.regulariser)
        norm = torch.zeros((), device=x.device)
        self.meta_optimizer.zero_grad(set_to_none=True)
        for (problem, signals, label_random), slope in zip(
            parts, torch.split(slopes, self.microbatch), strict=True
        ):
            problem.weights = before
            share = len(problem.x) / len(x)
            gradients = [share * g for g in self._along(problem, signals, u)]
            norm = norm + logit_gradient(signals[0], gradients[0]).square().sum()
            with label_random.replay():
                graph = self.labels.with_graph(problem.x, problem.y)
            torch.autograd.backward(graph, [gradients[0] + slope, *gradients[1:]])
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad(set_to_none=True)
        trained.outer_loss, trained.label_entropy_term = outer, term
        trained.hypergradient_norm, trained.regulariser_norm = (
            norm.sqrt(),
            logit_gradient(labels, slopes).norm(),
        )
        return trained

    def _accumulate(
        self, x: Tensor, y: Tensor, index: Tensor | None, *, fresh: bool
    ) -> tuple[list[tuple[Problem, Signals, RandomState]], StepResult]:
        """Fills the gradients of θ₁; returns the parts as the meta step needs them, and the batch's result."""
        self.optimizer.zero_grad(set_to_none=True)
        parts, results, shares = [], [], []
        indices = [None] * len(x) if index is None else torch.split(index, self.microbatch)
        for x_part, y_part, i_part in zip(
            torch.split(x, self.microbatch), torch.split(y, self.microbatch), indices, strict=False
        ):
            label_random = RandomState.capture(x.device)
            make = self.labels.fresh if fresh else self.labels.constant
            signals = make(x_part, y_part, i_part)
            random = RandomState.capture(x.device)
            shares.append(len(x_part) / len(x))
            results.append(self._backward(x_part, y_part, signals, shares[-1]))
            parts.append((self._problem({}, x_part, y_part, random, None), signals, label_random))

        def mean(name: str) -> Tensor:
            return torch.stack([s * getattr(r, name) for s, r in zip(shares, results, strict=True)]).sum()

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(r, name) for r in results])

        return parts, StepResult(
            primary_loss=mean("primary_loss"),
            auxiliary_loss=mean("auxiliary_loss"),
            primary_logits=joined("primary_logits"),
            labels=joined("labels"),
        )

    def _outer_gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """L_pri and its gradient at the current weights, part by part."""
        loss = torch.zeros((), device=x.device)
        total: list[Tensor | None] = []
        for x_part, y_part in zip(
            torch.split(x, self.microbatch), torch.split(y, self.microbatch), strict=True
        ):
            share = len(x_part) / len(x)
            problem = self._problem({}, x_part, y_part, RandomState.capture(x.device), None)
            part_loss, v = problem.outer_gradient(self._weights(), x_part, y_part)
            loss = loss + share * part_loss
            scaled = [None if g is None else share * g for g in v]
            total = (
                scaled
                if not total
                else [
                    a if b is None else b if a is None else a.add_(b)
                    for a, b in zip(total, scaled, strict=True)
                ]
            )
        return loss, total
