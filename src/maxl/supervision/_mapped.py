"""Tensors wider than memory: in a file without a name, of which the system keeps in memory what there is room for."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor


def mapped_zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU whose memory is a temporary file; it is gone with the tensor, and when the process ends.

    Args:
        shape: At least one number in all.
        dtype: Of real or complex numbers.

    Raises:
        OSError: if the disk of temporary files has no room for it; ``TMPDIR`` names another.
    """
    size = math.prod(shape) * dtype.itemsize
    with tempfile.TemporaryFile(prefix="maxl-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process, at some later write
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            room = mmap.mmap(file.fileno(), size)  # keeps the file
        except OSError as error:
            raise OSError(
                f"labels that are kept for each sample need {size / 2**30:.2f} GiB on the disk of temporary files; "
                f"{tempfile.gettempdir()} does not give them ({error.strerror}): set TMPDIR to a folder of another disk, or keep no "
                "labels (cache_size=0)"
            ) from error
    return torch.frombuffer(room, dtype=dtype).view(*shape)
