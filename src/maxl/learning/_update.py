"""A training step that was taken, remembered so that a meta step can differentiate through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maxl.hypergradients import Factor, Problem, RandomState, Signals


@dataclass
class Update:
    """What the meta step needs of a training step.

    Attributes:
        problem: The batch, and the weights before the step.
        factor: −∂U/∂∇ of the step.
        signals: The labels that were trained on, constant.
        graph: The same with the generator's graph, or None to make it again when it is needed.
        label_random: State of the random generators before the labels were made.
    """

    problem: Problem
    factor: list[Factor]
    signals: Signals
    graph: Signals | None
    label_random: RandomState

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers alone; without the graph, which can be made again."""
        return {
            "weights": dict(self.problem.weights),
            "x": self.problem.x,
            "y": self.problem.y,
            "random": self.problem.random.state(),
            "label_random": self.label_random.state(),
            "factor": self.factor,
            "signals": self.signals,
        }
