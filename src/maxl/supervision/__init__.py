"""What a generator decides, and where its signals come from."""

from maxl.supervision._cache import LabelCache
from maxl.supervision._labels import LabelSource

__all__ = ["LabelCache", "LabelSource"]
