"""Who trains along: one process alone, or several that each take a part of the batch."""

from maxl.worlds._alone import Alone
from maxl.worlds._batch_norm import SyncBatchNorm
from maxl.worlds._data_parallel import DataParallel
from maxl.worlds._reducer import Reducer
from maxl.worlds._world import World

__all__ = ["Alone", "DataParallel", "Reducer", "SyncBatchNorm", "World"]
