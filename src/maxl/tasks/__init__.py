"""What the primary outputs mean: their number, their loss, and which auxiliary classes a target may use."""

from maxl.tasks._classification import Classification
from maxl.tasks._multi_label import MultiLabel
from maxl.tasks._regression import Regression
from maxl.tasks._segmentation import Segmentation
from maxl.tasks._task import Task, is_dense, positions_that_count
from maxl.tasks._with_loss import WithLoss

__all__ = [
    "Classification",
    "MultiLabel",
    "Regression",
    "Segmentation",
    "Task",
    "WithLoss",
    "is_dense",
    "positions_that_count",
]
