"""The training step for θ₁ and the meta step for θ₂."""

from maxl.learning._accumulating import AccumulatingLearner
from maxl.learning._gate import Gate, Gradients, combine, cosine_gate, sign_gate
from maxl.learning._meta import MetaAuxiliaryLearner
from maxl.learning._multitask import MultiTaskLearner, StepResult

__all__ = [
    "AccumulatingLearner",
    "Gate",
    "Gradients",
    "MetaAuxiliaryLearner",
    "MultiTaskLearner",
    "StepResult",
    "combine",
    "cosine_gate",
    "sign_gate",
]
