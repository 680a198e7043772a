"""Learners by optimizer and lookahead, and a step by three verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import maxl
from _networks import flatten, pair

KINDS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
}


LOOKAHEADS: dict[str, Callable[[], Any]] = {
    "taken": maxl.Taken,
    "taken, recomputed": lambda: maxl.Taken(recompute=True),
    "next": maxl.Next,
    "virtual": maxl.Virtual,
    "virtual sgd": lambda: maxl.Virtual("sgd"),
}


def make(kind: str = "sgd", build: Any = maxl.MetaAuxiliaryLearner, **options: Any) -> Any:
    network, generator = pair()
    return build(
        network,
        generator,
        KINDS[kind](network.parameters()),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        **options,
    )


def weights(learner: Any) -> Tensor:
    return flatten([*learner.network.state_dict().values(), *learner.generator.state_dict().values()])


def by_verbs(learner: Any, x: Tensor, y: Tensor, **given: Any) -> maxl.StepResult:
    result = learner.backward(x, y, **given)
    learner.optimizer.step()
    return result.with_meta(learner.meta_step())
