"""Data: a data set by name, decoded once into tensors, and batches made from them on the device.

`load` gives a `DataSet` of `Split`s; `BatchStream` and `evaluation_batches` turn a split into `Batch`es.
"""

from maxl.data._cifar100 import LEVEL_3_OF_LEVEL_10, LEVEL_10_OF_COARSE, LEVELS
from maxl.data._features import TextFeatures
from maxl.data._load import load
from maxl.data._open import NAMES
from maxl.data._stream import Batch, BatchStream, augment_batch, evaluation_batches, normalise
from maxl.data._types import DataSet, Split

__all__ = [
    "LEVELS",
    "LEVEL_3_OF_LEVEL_10",
    "LEVEL_10_OF_COARSE",
    "NAMES",
    "Batch",
    "BatchStream",
    "DataSet",
    "Split",
    "TextFeatures",
    "augment_batch",
    "evaluation_batches",
    "load",
    "normalise",
]
