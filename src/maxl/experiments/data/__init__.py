"""Data: a data set by name, decoded once into tensors or left on disk, and batches made from them on the device.

``load`` gives a ``DataSet`` of splits; ``BatchStream`` and ``evaluation_batches`` turn a split into batches.
"""

from maxl.experiments.data._arrow_rows import read_features, read_texts
from maxl.experiments.data._cifar100 import LEVEL_3_OF_LEVEL_10, LEVEL_10_OF_COARSE, LEVELS
from maxl.experiments.data._column_values import read_columns
from maxl.experiments.data._columns import Columns
from maxl.experiments.data._features import LEAST_STD, TextFeatures
from maxl.experiments.data._files import IMAGE_SUFFIXES, image_files, is_table, require_regular
from maxl.experiments.data._finer import as_cell, finer_csv
from maxl.experiments.data._folders import class_folders
from maxl.experiments.data._frames import load_arrays, load_frames
from maxl.experiments.data._image_transform import ImageTransform
from maxl.experiments.data._images import decode, stretch, to_channels
from maxl.experiments.data._labelled import class_codes, image_items, images_of_column, table_targets
from maxl.experiments.data._load import load
from maxl.experiments.data._masks import IGNORED, labelled_masks
from maxl.experiments.data._mixed import MixedShape, beside, image_shape
from maxl.experiments.data._open import NAMES, label_column
from maxl.experiments.data._select import order_to_set_aside, proportional_order
from maxl.experiments.data._stream import Batch, BatchStream, augment_batch, evaluation_batches, normalise
from maxl.experiments.data._streamed import Samples, StreamedSamples, Unreadable, read_batches, read_pieces
from maxl.experiments.data._tables import Table, read_table
from maxl.experiments.data._targets import TASKS
from maxl.experiments.data._tokens import NO_TOKEN, Tokens
from maxl.experiments.data._trusted import read_trusted_rows
from maxl.experiments.data._types import DataSet, Features, Split
from maxl.experiments.data._walk import files_below

__all__ = [
    "IGNORED",
    "IMAGE_SUFFIXES",
    "LEAST_STD",
    "LEVELS",
    "LEVEL_3_OF_LEVEL_10",
    "LEVEL_10_OF_COARSE",
    "NAMES",
    "NO_TOKEN",
    "TASKS",
    "Batch",
    "BatchStream",
    "Columns",
    "DataSet",
    "Features",
    "ImageTransform",
    "MixedShape",
    "Samples",
    "Split",
    "StreamedSamples",
    "Table",
    "TextFeatures",
    "Tokens",
    "Unreadable",
    "as_cell",
    "augment_batch",
    "beside",
    "class_codes",
    "class_folders",
    "decode",
    "evaluation_batches",
    "files_below",
    "finer_csv",
    "image_files",
    "image_items",
    "image_shape",
    "images_of_column",
    "is_table",
    "label_column",
    "labelled_masks",
    "load",
    "load_arrays",
    "load_frames",
    "normalise",
    "order_to_set_aside",
    "proportional_order",
    "read_batches",
    "read_columns",
    "read_features",
    "read_pieces",
    "read_table",
    "read_texts",
    "read_trusted_rows",
    "require_regular",
    "stretch",
    "table_targets",
    "to_channels",
]
