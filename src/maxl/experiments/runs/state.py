"""All that the rest of a run depends on, as a checkpoint holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maxl.experiments.runs.machine import joined
from maxl.experiments.runs.memory import is_out_of_memory
from maxl.hypergradients import RandomState

if TYPE_CHECKING:
    from maxl.experiments.runs.trainer import Trainer


def state_of(trainer: Trainer) -> dict[str, Any]:
    """All that the rest of the run depends on; tensors, numbers and strings alone."""
    setup = trainer.setup
    state = {
        "epoch": trainer.epoch,
        "label": trainer.label,
        "identity": trainer.identity,
        "train_seconds": trainer.train_seconds,
        "network": setup.network.state_dict(),
        "generator": None if setup.generator is None else setup.generator.state_dict(),
        "optimizers": [o.state_dict() for o in setup.optimizers],
        "learner": on(setup.learner.state_dict(), torch.device("cpu")),  # other processes have other devices
        "random": RandomState.capture(trainer.device).state(),
        "origin": trainer.origin,
        "best": None if trainer.best is None else trainer.best.state_dict(),
        "stopped": trainer.stopped,
    }
    return trainer.processes.together(state, ("learner", "random"))


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Restores what ``state_of`` gave.

    Raises:
        ValueError: if it does not fit the run's networks and optimizers.
    """
    setup = trainer.setup
    try:
        state = trainer.processes.own(state)
        setup.network.load_state_dict(state["network"])
        if setup.generator is not None:
            setup.generator.load_state_dict(state["generator"])
            setup.generator.eval()
        for optimizer, saved in zip(setup.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        setup.learner.load_state_dict(on(state["learner"], trainer.device))
        RandomState.from_state(state["random"], trainer.device).restore()
        trainer.origin = joined(state.get("origin", trainer.origin), trainer.origin)
        if trainer.best is not None:
            trainer.best.load_state_dict(state["best"], stopped=state["stopped"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{trainer.folder.checkpoint} does not fit the run: {str(error).splitlines()[0]}; train it anew"
        ) from error
    trainer.epoch, trainer.train_seconds = state["epoch"], state["train_seconds"]
    trainer.label = state["label"]


def on(value: Any, device: torch.device) -> Any:
    """Nested dicts, lists and tuples with their tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: on(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on(item, device) for item in value)
    return value
