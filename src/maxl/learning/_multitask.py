"""The training step, and the learner for auxiliary labels that are given: none, random, k-means, human."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients import AuxiliaryLoss, CompiledPasses, PrimaryLoss, Signals
from maxl.learning._gate import Gate, Gradients, combine
from maxl.losses import focal_loss


@dataclass
class StepResult:
    """What a step did; scalars are detached tensors, so that reading them is the caller's choice.

    Attributes:
        primary_loss: L_pri of the training batch before the update.
        auxiliary_loss: L_aux of the training batch before the update; None without auxiliary labels.
        primary_logits: Logits of the training batch before the update, shape (N, C).
        labels: The auxiliary labels trained on, indices (N,) or soft (N, K); None without.
        gate: Factor on the auxiliary gradient of the shared weights, where there is a gate.
        outer_loss: L_pri(θ₁⁺), where a meta step was taken.
        label_entropy_term: H of the labels, where a meta step was taken.
        hypergradient_norm: ‖dL_pri(θ₁⁺)/dz‖ for labels t = softmax(z), where a meta step was taken.
        regulariser_norm: ‖d(λH)/dz‖ likewise: which of the two moves the labels?
    """

    primary_loss: Tensor | None = None
    auxiliary_loss: Tensor | None = None
    primary_logits: Tensor | None = None
    labels: Tensor | None = None
    gate: Tensor | None = None
    outer_loss: Tensor | None = None
    label_entropy_term: Tensor | None = None
    hypergradient_norm: Tensor | None = None
    regulariser_norm: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """L_pri + L_aux of the training batch."""
        if self.primary_loss is None:
            raise ValueError("a meta step has no training loss; read outer_loss, or take a training step")
        return self.primary_loss if self.auxiliary_loss is None else self.primary_loss + self.auxiliary_loss


def step_result(
    primary_loss: Tensor,
    auxiliary_loss: Tensor | None,
    primary: Tensor,
    signals: Signals,
    gate: Tensor | None = None,
) -> StepResult:
    """The training part of a result, detached."""
    return StepResult(
        primary_loss=primary_loss.detach(),
        auxiliary_loss=None if auxiliary_loss is None else auxiliary_loss.detach(),
        primary_logits=primary.detach(),
        labels=signals[0].detach() if signals else None,
        gate=gate,
    )


class MultiTaskLearner:
    """Trains θ₁ on the primary task and, where labels are given, on the auxiliary task.

    Args:
        network: Maps x to (primary, auxiliary) logits.
        optimizer: Holds the network's trainable weights.
        primary_loss: (logits, y) → scalar; the paper's focal loss by default.
        auxiliary_loss: (logits, labels) → scalar; likewise.
        autocast: Lower precision for the passes (``torch.bfloat16``), or None.
        check_finite: Raise before an update with a loss that is not finite. It reads the loss, which on a
            GPU waits for it: switch it off there and check every so often.
        gate: (∇L_pri, ∇L_aux) → factor on ∇L_aux for the weights that both tasks share, for instance
            ``maxl.learning.cosine_gate``; it costs a second backward pass. None: no gate.
        compile: Pass through ``torch.compile``; a pass that does not compile runs eagerly, with one warning.
            The first steps then take a minute or more. Dynamic shapes compile anew. Goes without a gate.

    Raises:
        ValueError: if a gate is to be compiled.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        primary_loss: PrimaryLoss = focal_loss,
        auxiliary_loss: AuxiliaryLoss = focal_loss,
        autocast: torch.dtype | None = None,
        check_finite: bool = True,
        gate: Gate | None = None,
        compile: bool = False,
    ) -> None:
        if gate is not None and compile:
            raise ValueError("a gate needs two backward passes through one pass; use it without compile=True")
        self.network = network
        self.optimizer = optimizer
        self.primary_loss = primary_loss
        self.auxiliary_loss = auxiliary_loss
        self.autocast = autocast
        self.check_finite = check_finite
        self.gate = gate
        self.passes = CompiledPasses(network, "network") if compile else None
        self.steps = 0
        self._gated: list[Tensor | None] = []  # factor on ∇L_aux by weight in the last step, None for 1

    def train_step(self, x: Tensor, y: Tensor, labels: Tensor | None = None) -> StepResult:
        """One update of θ₁ on L_pri(f(x), y) + L_aux(f(x), labels).

        Args:
            x: Inputs, as the network takes them.
            y: Primary labels, int64 of shape (N,).
            labels: Auxiliary labels, int64 of shape (N,) or soft of shape (N, K); None for single-task.

        Raises:
            FloatingPointError: if the loss is not finite; the weights are then unchanged.
        """
        return self._train_step(x, y, () if labels is None else (labels,))

    def _train_step(self, x: Tensor, y: Tensor, signals: Signals) -> StepResult:
        self.optimizer.zero_grad(set_to_none=True)
        result = self._backward(x, y, signals)
        self.optimizer.step()
        self.steps += 1
        return result

    def _backward(self, x: Tensor, y: Tensor, signals: Signals, share: float = 1.0) -> StepResult:
        """Adds to the gradients of θ₁; ``share`` is the samples' share of the whole batch."""
        with self._precision(x):
            if signals:
                primary, auxiliary = self._call(x)
            elif hasattr(self.network, "predict"):  # single-task training does not pay for the other head
                predict: Any = self.network.predict if self.passes is None else self.passes.predict
                primary = predict(x)
            else:
                primary = self._call(x)[0]
        primary_loss = self.primary_loss(primary, y)
        auxiliary_loss = self.auxiliary_loss(auxiliary, *signals) if signals else None
        loss = primary_loss if auxiliary_loss is None else primary_loss + auxiliary_loss
        self._require_finite(loss, "training")
        gate = None
        if self.gate is not None and auxiliary_loss is not None:
            gate = self._gated_backward(self._gradients(primary_loss, retain_graph=True), auxiliary_loss)
        else:
            (loss if share == 1.0 else share * loss).backward()  # type: ignore[no-untyped-call]
        return step_result(primary_loss, auxiliary_loss, primary, signals, gate)

    def _call(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The network's logits, as a training pass: BatchNorm keeps its statistics."""
        logits: tuple[Tensor, Tensor] = self.network(x) if self.passes is None else self.passes.call(x)
        return logits

    def _gradients(self, loss: Tensor, *, retain_graph: bool = False) -> Gradients:
        weights = list(self._weights().values())
        return torch.autograd.grad(loss, weights, retain_graph=retain_graph, allow_unused=True)

    def _gated_backward(self, primary: Gradients, auxiliary_loss: Tensor) -> Tensor:
        """Sets the gradients of θ₁ to ∇L_pri + s ∇L_aux, and returns s of the gate."""
        assert self.gate is not None
        total, self._gated, s = combine(self.gate, primary, self._gradients(auxiliary_loss))
        for p, g in zip(self._weights().values(), total, strict=True):
            p.grad = g
        return s

    def _weights(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        """What the learner itself remembers; the network and the optimizer not."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        self.steps = state["steps"]

    def _precision(self, x: Tensor) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast)

    def _require_finite(self, loss: Tensor, what: str) -> None:
        if self.check_finite and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the {what} loss needs to be finite; got {loss.item()} at step {self.steps + 1}: "
                "lower the learning rate, or look for NaN in the inputs"
            )
