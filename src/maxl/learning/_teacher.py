"""The step of θ₂, once it is known how the outer loss depends on the signals."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maxl.hypergradients import Signals, alike, all_finite, logit_gradient, pull_back, rounding_of, slopes
from maxl.learning._mix import add_gradients, added
from maxl.learning._record import MicroBatch, Update
from maxl.learning._result import StepResult
from maxl.learning._words import check_pair
from maxl.losses import negative_entropy
from maxl.supervision import Generated, Supervision
from maxl.worlds import World


class Teacher:
    """Pulls gradients for signals back to the generator's weights, and steps.

    Args:
        network: Which is not to be moved.
        source: The generator's signals.
        optimizer: Holds θ₂.
        supervision: Says what is added to the outer loss for the signals alone.
        world: Who teaches along, each with the signals of its own samples.
    """

    def __init__(
        self,
        network: nn.Module,
        source: Generated,
        optimizer: Optimizer,
        supervision: Supervision,
        world: World,
    ) -> None:
        self.network = network
        self.source = source
        self.optimizer = optimizer
        self.supervision = supervision
        self.world = world
        self._reducer = world.reducer()
        self._trained = self._trainable()

    def _trainable(self) -> list[int]:
        return [
            id(p) for m in (self.network, self.source.generator) for p in m.parameters() if p.requires_grad
        ]

    def step(self, update: Update, gradients: list[Signals], outer: Tensor) -> StepResult:
        """One ordinary backward through the generator for each part of the update, and a step of its optimizer.

        Args:
            update: The training step whose signals are taught; its old weights and layer outputs are let go.
            gradients: dL_out/dt for each of its parts.
            outer: The outer loss, a scalar, for the result.

        Raises:
            ValueError: if weights were frozen or unfrozen since, and the step would now move others than the generator's.
        """
        theta = [p for p in self.source.generator.parameters() if p.requires_grad]
        if theta and (now := self._trainable()) != self._trained:
            check_pair(self.network, self.source.generator, self.optimizer)
            self._trained = now
        update.release()
        mine = _joined([part.signals for part in update.parts])
        (targets,) = _joined([(part.problem.y,) for part in update.parts])
        (*everybodys, y), first = self.world.gather(*mine, targets)
        signals = tuple(everybodys)
        penalty = slopes(lambda t: self.supervision.penalty(t, y), signals)
        own = tuple(s[first : first + len(targets)] for s in penalty)
        found = self._gradient_of(update, gradients, own, theta)
        for p in theta:
            p.grad = None
        add_gradients(theta, self._reducer.sum(found, theta))
        # In half precision a gradient may overflow; the scaler then leaves steps out and lowers its factor.
        if not update.scaled or all_finite(p.grad for p in theta if p.grad is not None):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        moved = logit_gradient(mine[0], _joined(gradients)[0]).norm()
        if not self.world.alone:  # of the whole batch: its rows belong to several processes
            (square,) = self.world.sum([moved**2], [moved])
            moved = moved if square is None else square.sqrt()
        return StepResult(
            outer_loss=outer,
            label_entropy_term=negative_entropy(signals[0]) if signals[0].dim() == 2 else None,
            hypergradient_norm=moved,
            regulariser_norm=logit_gradient(signals[0], penalty[0]).norm(),
        )

    def _gradient_of(
        self, update: Update, gradients: list[Signals], penalty: Signals, theta: list[nn.Parameter]
    ) -> list[Tensor | None]:
        """dL_out/dθ₂ and the penalty's gradient, of this process's samples."""
        total: list[Tensor | None] = [None] * len(theta)
        start, once = 0, len(update.parts) == 1
        for part, gradient in zip(update.parts, gradients, strict=True):
            end = start + len(part.signals[0])
            seeds = tuple(g + s[start:end] for g, s in zip(gradient, penalty, strict=True))
            graph = self._graph(part)
            with self._reducer.watching(theta if once else ()):
                found = pull_back(graph, seeds, theta)
            total = added(total, found)
            start = end
        return total

    def _graph(self, part: MicroBatch) -> Signals:
        graph, part.graph = part.graph, None
        if graph is not None:
            return graph
        with part.label_random.replay():
            made = self.source.again(part.problem.x, part.problem.y, part.features, part.label_buffers)
        if part.given is None:  # some samples of a batch may have other statistics
            self._require_repeated(part, made)
        return made

    def _require_repeated(self, part: MicroBatch, made: Signals) -> None:
        def rounding() -> float:
            kinds = [p.dtype for p in self.source.generator.parameters()]
            own = rounding_of([*kinds, self.source.autocast or torch.float64])
            return max(own, part.problem.rounding())

        if not all(alike([a], [b], rounding) for a, b in zip(made, part.signals, strict=True)):
            raise ValueError(
                "a generator's pass is repeated for its gradient and needs to give the same signals; it gave others: keep what "
                "changes from call to call in buffers, do not let it read the network, or keep its graph (recompute=False)"
            )


def _joined(parts: list[Signals]) -> Signals:
    return parts[0] if len(parts) == 1 else tuple(torch.cat(same) for same in zip(*parts, strict=True))


def require_finite(gradients: list[Signals], world: World) -> None:
    """FloatingPointError in every process unless dL_out/dt is finite in all, which it may not be where the losses are.

    A root at 0 has an infinite slope, for instance.
    """
    if not world.every(all_finite(g for part in gradients for g in part)):
        raise FloatingPointError(
            "the hypergradient needs to be finite; got nan or infinite numbers though the losses are finite: look in the "
            "network for roots, norms or divisions at 0"
        )
