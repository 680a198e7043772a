"""Memory that runs out: how PyTorch says so on each device."""

from __future__ import annotations

import torch

# Of errors without a type of their own: the CPU's allocator, on Linux and on Windows, MPS, a CUDA context that gets no
# memory, its libraries, and sizes in bytes beyond 64 bits.
_WORDS = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED"),
    *("size calculation overflowed", "numel: integer multiplication overflow"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of its accelerator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
