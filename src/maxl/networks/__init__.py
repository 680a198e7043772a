"""The multi-task network f (weights θ₁) and label-generation networks g (weights θ₂).

Shapes: N samples, D trunk features, C primary classes, K auxiliary classes.
"""

from maxl.networks._networks import (
    LabelGenerator,
    Logits,
    MultiTaskNetwork,
    PowerOfTwo,
    SharedTrunk,
    WeightedLabelGenerator,
    bounded_weight,
    head,
    masked_softmax,
)
from maxl.networks._prototypes import PrototypeGenerator

__all__ = [
    "LabelGenerator",
    "Logits",
    "MultiTaskNetwork",
    "PowerOfTwo",
    "PrototypeGenerator",
    "SharedTrunk",
    "WeightedLabelGenerator",
    "bounded_weight",
    "head",
    "masked_softmax",
]
