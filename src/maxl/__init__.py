"""maxl: learn auxiliary labels that make a model generalise better (meta auxiliary learning)."""

from maxl.hierarchy import Hierarchy
from maxl.hypergradients import hypergradient
from maxl.learner import MetaAuxiliaryLearner
from maxl.losses import focal_loss, negative_entropy
from maxl.multitask import MultiTaskLearner, StepResult
from maxl.networks import LabelGenerator, Logits, MultiTaskNetwork, masked_softmax

__version__ = "0.1.0"

__all__ = [
    "Hierarchy",
    "LabelGenerator",
    "Logits",
    "MetaAuxiliaryLearner",
    "MultiTaskLearner",
    "MultiTaskNetwork",
    "StepResult",
    "focal_loss",
    "hypergradient",
    "masked_softmax",
    "negative_entropy",
]
