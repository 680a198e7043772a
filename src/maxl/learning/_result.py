"""What a step did."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor


@dataclass(repr=False)
class StepResult:
    """What a step did; scalars are detached tensors, so that reading them is the caller's choice.

    Attributes:
        primary_loss: The training loss on the primary outputs before the update.
        auxiliary_loss: The training loss on the auxiliary outputs before the update; None without.
        primary_logits: Primary outputs of the training batch before the update, shape (N, C).
        labels: The labels trained on, indices (N,) or soft (N, K); None without.
        weights: The sample weights trained with, shape (N,); None without.
        gate: Factor on the auxiliary gradient of the shared weights, where there is a gate.
        outer_loss: L_pri(θ₁⁺), where a meta step was taken.
        label_entropy_term: H of the labels, where a meta step was taken and there are soft labels.
        hypergradient_norm: ‖dL_pri(θ₁⁺)/dz‖ for labels t = softmax(z), where a meta step was taken; for other
            signals ‖dL_pri(θ₁⁺)/dt‖.
        regulariser_norm: ‖d(λH)/dz‖ likewise: which of the two moves the labels?
    """

    primary_loss: Tensor | None = None
    auxiliary_loss: Tensor | None = None
    primary_logits: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None
    gate: Tensor | None = None
    outer_loss: Tensor | None = None
    label_entropy_term: Tensor | None = None
    hypergradient_norm: Tensor | None = None
    regulariser_norm: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The training loss of the batch, L_pri + L_aux."""
        if self.primary_loss is None:
            raise ValueError("a meta step has no training loss; read outer_loss, or take a training step")
        return self.primary_loss if self.auxiliary_loss is None else self.primary_loss + self.auxiliary_loss

    def with_meta(self, meta: StepResult) -> StepResult:
        """This training step's result and that of a meta step, where one was taken."""
        if meta.outer_loss is None:
            return self
        return replace(self, **{name: getattr(meta, name) for name in _TAUGHT})

    def __repr__(self) -> str:
        """One line: the scalars by value, the rest by shape."""
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                shown.append(
                    f"{f.name}={float(value):.4g}" if value.numel() == 1 else f"{f.name}={tuple(value.shape)}"
                )
        return f"StepResult({', '.join(shown)})"


_TAUGHT = ("outer_loss", "label_entropy_term", "hypergradient_norm", "regulariser_norm")
