"""Where runs are tracked besides their own folders: TensorBoard, MLflow, Weights & Biases, or a tracker of yours."""

from maxl.experiments.tracking._mlflow import MLflow
from maxl.experiments.tracking._named import NAMES, require_installed, tracker_named
from maxl.experiments.tracking._tensorboard import TensorBoard
from maxl.experiments.tracking._tracker import Tracker, TrackerFactory
from maxl.experiments.tracking._wandb import WandB

__all__ = [
    "NAMES",
    "MLflow",
    "TensorBoard",
    "Tracker",
    "TrackerFactory",
    "WandB",
    "require_installed",
    "tracker_named",
]
