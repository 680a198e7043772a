"""An update in the making: from ``backward`` to the optimizer's step, whoever takes it, to the meta step."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from maxl.hypergradients import Inputs, UpdateRule
from maxl.learning._fingerprint import Fingerprint
from maxl.learning._record import MicroBatch, Update, is_same_batch
from maxl.learning._unmoved import Unmoved


class UpdateTracker:
    """Remembers what a training step is made of, and how its result depends on the gradient that was stepped.

    Attributes:
        update: The step that was taken and has not been judged yet, or None.
    """

    def __init__(self) -> None:
        self.update: Update | None = None
        self._pending: Update | None = None  # gradients are there, and not yet stepped
        self._state = "idle"  # then "filled", then "stepped"
        self._scaled = False
        self._fingerprint: Fingerprint | None = None
        self._outside = False  # whether the gradients may be multiplied before they are stepped
        self._versions: list[tuple[int, int] | None] = []
        self._theta: list[Tensor] = []  # of the last part
        self._unmoved: Unmoved | None = None  # since the first part of the step in the making

    @property
    def filled(self) -> bool:
        """Whether gradients wait for the optimizer's step."""
        return self._state == "filled"

    @property
    def parts(self) -> list[MicroBatch]:
        """What the step in the making has been given so far, where a meta step is due for it."""
        return [] if self._pending is None else self._pending.parts

    @property
    def left_out(self) -> bool:
        """Whether a meta step now means that a gradient scaler has left the optimizer's step out."""
        return self.filled and self._scaled

    def begin(
        self, weights: dict[str, Tensor], outer: tuple[Inputs, Tensor] | None, *, keep: bool, whole: bool
    ) -> None:
        """A further ``backward`` for θ₁.

        Args:
            weights: θ₁ by name.
            outer: (x, y) that is to judge the step, or None.
            keep: Whether to keep the update that a batch has yet to judge.
            whole: Whether the step needs a whole batch.

        Raises:
            ValueError: if a trainable weight has a hook, which may change its gradient on the way to the optimizer, or if
                this is a further part of a step that needs a whole batch, or that another batch is to judge.
        """
        for name, p in weights.items():
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                raise ValueError(
                    f"the gradients of trained weights need to reach the optimizer as they are; {name} has a gradient "
                    "hook: remove it, and clip or log gradients between learner.backward and optimizer.step()"
                )
        self._fingerprint = None
        if self.filled and self._dropped(weights):
            self._state = "idle"
        if self.filled and whole:
            raise ValueError(
                "a gate compares the gradients of whole batches; got a further part of one: step between two calls of "
                "backward, or drop the gate"
            )
        known = self._pending.outer if self.filled and self._pending is not None else None
        if known is not None and outer is not None and not is_same_batch(known, *outer):
            raise ValueError(
                "one batch judges a step; a further part of it came with another outer_batch: pass the same one with every part"
            )
        if not self.filled:
            self._pending = None
            self.update = self.update if keep else None

    def add(self, part: MicroBatch | None, weights: dict[str, Tensor], *, scaled: bool) -> Update:
        """A batch whose gradient has been filled in, ``scaled`` or not; None where no meta step is due for it.

        Raises:
            ValueError: if a weight was written to since the first part.
        """
        if self.filled:
            self._check_unmoved(weights)
        else:
            self._unmoved = Unmoved(weights)  # after the pass, in which an embedding may renormalise itself
        self._state, self._scaled, self._theta = "filled", scaled, list(weights.values())
        update = self._pending or Update()
        if part is not None:
            update.parts.append(part)
            self._pending = update
        return update

    def seal(self, *, outside: bool, compare: bool = False) -> None:
        """Notes the gradients as they are.

        Args:
            outside: Whether they may be multiplied before they are stepped.
            compare: Whether they are looked at before the step, if not: what is written through ``p.grad.data`` is not
                counted as a write.
        """
        gradients = [p.grad for p in self._theta]
        self._versions, self._outside = _versions(gradients), outside
        if self._pending is not None:
            self._fingerprint = Fingerprint(gradients) if outside or compare else None

    def before_step(self, weights: dict[str, Tensor], optimizer: Optimizer, *, predict: bool) -> None:
        """Right before the optimizer's step: the old weights, and how the new ones depend on the gradient.

        Args:
            weights: θ₁ by name.
            optimizer: Whose step it is.
            predict: Also where the step leads by that rule, for the weights that are judged to be compared with.
        """
        update = self._pending
        if update is None:
            return
        self._check_unmoved(weights)
        theta = list(weights.values())
        gradients = [p.grad for p in theta]
        steps = UpdateRule.of(optimizer, theta)
        factor = steps.factor(theta, gradients)
        if predict:
            with torch.no_grad():
                ahead = [p.detach() for p in steps.step(theta, gradients)]
                update.predicted = dict(zip(weights, ahead, strict=True))
        for by in (self._between(update, gradients), update.gated):
            if by is not None:
                factor = [f if f is None or c is None else c * f for f, c in zip(factor, by, strict=True)]
        update.factor = factor
        update.set_weights({name: p.detach().clone() for name, p in weights.items()})

    def after_step(self, weights: dict[str, Tensor]) -> None:
        """Right after it."""
        if self.filled:
            if self._pending is not None:
                self._pending.unmoved = Unmoved(weights)
            self.update, self._pending, self._state = self._pending or self.update, None, "stepped"

    def aim(self, update: Update) -> None:
        """Sets what the next meta step learns from."""
        self.update, self._state = update, "stepped"

    def take(self) -> Update | None:
        """What a meta step learns from, once; None where none is due.

        Raises:
            ValueError: if no training step has been taken since the last call.
        """
        if self.left_out:
            self._state, self._pending = "idle", None
            return None
        if self._state != "stepped":
            raise ValueError(
                "meta_step learns from a training step: call backward and optimizer.step() before it"
                + ("; got no optimizer.step() since backward" if self.filled else "")
            )
        self._state = "idle"
        return self.take_update()

    def take_update(self) -> Update | None:
        """The update that has not been judged yet; it is the caller's then."""
        update, self.update = self.update, None
        return update

    def copied(self) -> UpdateTracker:
        """As it is now, to go back to where a part of a batch fails."""
        kept = copy.copy(self)
        if self._pending is not None:
            kept._pending = replace(self._pending, parts=[*self._pending.parts])
        return kept

    def rewritten(self) -> None:
        """The gradients that wait hold what they held, written back."""
        self._versions = _versions([p.grad for p in self._theta])

    def _dropped(self, weights: dict[str, Tensor]) -> bool:
        """Whether the gradients that waited are gone, since a batch was left out.

        Raises:
            ValueError: if they have been changed instead, between two parts of a batch.
        """
        gradients = [p.grad for p in weights.values()]
        if self._versions == _versions(gradients):
            return False
        if all(g is None or not bool(g.any()) for g in gradients):
            return True
        raise ValueError(
            "gradients need to stay as they are between parts of a batch; got some that were changed: clip after the last "
            "part, or call zero_grad() to leave the batch out"
        )

    def _check_unmoved(self, weights: dict[str, Tensor]) -> None:
        if self._unmoved is not None:
            self._unmoved.check(
                weights,
                "learner.backward and the optimizer's step",
                "change them before backward, or after meta_step",
            )

    def _between(self, update: Update, gradients: list[Tensor | None]) -> list[Tensor | None] | None:
        """By what each gradient differs from that of the loss without a scaler; None for nothing."""
        if self._fingerprint is not None and self._outside:
            factors = self._fingerprint.factors(gradients)
            return [c if c is None or update.scale is None else c * update.scale for c in factors]
        looked_at = self._fingerprint is not None and not self._fingerprint.is_of(gradients)
        if looked_at or self._versions != _versions(gradients):
            raise ValueError(
                "a hook of the optimizer changes the gradients within learner.step, through which the hypergradient "
                "cannot follow: call learner.backward, optimizer.step and learner.meta_step one by one"
            )
        return None


def _versions(gradients: list[Tensor | None]) -> list[tuple[int, int] | None]:
    return [None if g is None else (id(g), g._version) for g in gradients]
