"""maxl: learn auxiliary labels that make a model generalise better (meta auxiliary learning)."""

from maxl.accumulation import AccumulatingLearner
from maxl.check import HypergradientReport, check_hypergradient
from maxl.hierarchy import Hierarchy
from maxl.hypergradients import hypergradient
from maxl.learner import MetaAuxiliaryLearner
from maxl.losses import focal_loss, negative_entropy, weighted_focal_loss
from maxl.multitask import MultiTaskLearner, StepResult
from maxl.networks import LabelGenerator, Logits, MultiTaskNetwork, WeightedLabelGenerator, masked_softmax
from maxl.presets import PRESETS
from maxl.regularisers import label_information

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AccumulatingLearner",
    "Hierarchy",
    "HypergradientReport",
    "LabelGenerator",
    "Logits",
    "MetaAuxiliaryLearner",
    "MultiTaskLearner",
    "MultiTaskNetwork",
    "StepResult",
    "WeightedLabelGenerator",
    "check_hypergradient",
    "focal_loss",
    "hypergradient",
    "label_information",
    "masked_softmax",
    "negative_entropy",
    "weighted_focal_loss",
]
