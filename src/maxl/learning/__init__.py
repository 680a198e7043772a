"""The training step for θ₁ and the meta step for θ₂."""

from maxl.learning._accumulating import AccumulatingLearner
from maxl.learning._lookahead import Judged, Lookahead
from maxl.learning._losses import check_mean
from maxl.learning._meta import MetaAuxiliaryLearner
from maxl.learning._mix import (
    Gate,
    Gated,
    Gradients,
    Mix,
    Mixed,
    Sum,
    add_gradients,
    combine,
    cosine_gate,
    sign_gate,
)
from maxl.learning._multitask import MultiTaskLearner
from maxl.learning._next import Next
from maxl.learning._part import Part
from maxl.learning._record import Batch, MicroBatch, Update
from maxl.learning._result import StepResult
from maxl.learning._schedule import Every, Schedule
from maxl.learning._taken import Taken
from maxl.learning._virtual import Virtual

__all__ = [
    "AccumulatingLearner",
    "Batch",
    "Every",
    "Gate",
    "Gated",
    "Gradients",
    "Judged",
    "Lookahead",
    "MetaAuxiliaryLearner",
    "MicroBatch",
    "Mix",
    "Mixed",
    "MultiTaskLearner",
    "Next",
    "Part",
    "Schedule",
    "StepResult",
    "Sum",
    "Taken",
    "Update",
    "Virtual",
    "add_gradients",
    "check_mean",
    "combine",
    "cosine_gate",
    "sign_gate",
]
