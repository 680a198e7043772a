"""Trackers by the names that the command line knows."""

from __future__ import annotations

from importlib.util import find_spec

from maxl.experiments.tracking._mlflow import MLflow
from maxl.experiments.tracking._tensorboard import TensorBoard
from maxl.experiments.tracking._tracker import TrackerFactory
from maxl.experiments.tracking._wandb import WandB
from maxl.presets import check_choice

# Name: the tracker, the package that it imports, the extra that brings it.
_TRACKERS: dict[str, tuple[TrackerFactory, str, str]] = {
    "tensorboard": (TensorBoard, "tensorboard", "experiments"),
    "mlflow": (MLflow, "mlflow", "mlflow"),
    "wandb": (WandB, "wandb", "wandb"),
}
NAMES = tuple(_TRACKERS)


def tracker_named(name: str) -> TrackerFactory:
    """The tracker of a name.

    Raises:
        ValueError: if it is unknown.
    """
    check_choice("--track", name, NAMES)
    return _TRACKERS[name][0]


def require_installed(name: str) -> None:
    """ValueError, with what to do, if a tracker is unknown or its package is not installed."""
    check_choice("--track", name, NAMES)
    _, package, extra = _TRACKERS[name]
    spec = find_spec(package)
    if (
        spec is None or spec.origin is None
    ):  # a mere folder of that name, such as Weights & Biases leaves, is no package
        raise ValueError(f'--track {name} needs {package}: pip install "maxl-torch[{extra}]"')
