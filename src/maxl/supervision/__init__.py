"""What signals do to the training loss, and where they come from.

A supervision is the training loss as a function of outputs, targets and signals; a source gives the signals. Generators
of labels for a second task are in ``maxl.networks``; those of weights and corrections of given labels are here.
"""

from maxl.supervision._auxiliary_labels import AuxiliaryLabels, Regulariser
from maxl.supervision._corrected_labels import CorrectedLabels
from maxl.supervision._fixed import FixedLabels, NoLabels, UniformLabels
from maxl.supervision._generalized_cross_entropy import GeneralizedCrossEntropy
from maxl.supervision._generated import Cached, Generated, generated
from maxl.supervision._label_cache import LabelCache
from maxl.supervision._label_corrector import LabelCorrector
from maxl.supervision._sample_weights import SampleWeights
from maxl.supervision._small_losses import SmallLosses
from maxl.supervision._source import Source
from maxl.supervision._supervision import Losses, Supervision
from maxl.supervision._weight_generator import WeightGenerator
from maxl.supervision._weighted_labels import WeightedLabels

__all__ = [
    "AuxiliaryLabels",
    "Cached",
    "CorrectedLabels",
    "FixedLabels",
    "GeneralizedCrossEntropy",
    "Generated",
    "LabelCache",
    "LabelCorrector",
    "Losses",
    "NoLabels",
    "Regulariser",
    "SampleWeights",
    "SmallLosses",
    "Source",
    "Supervision",
    "UniformLabels",
    "WeightGenerator",
    "WeightedLabels",
    "generated",
]
