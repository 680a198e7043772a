"""Memory that runs out, and the sentence that is made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from maxl.hypergradients import is_out_of_memory

__all__ = ["OutOfMemory", "bytes_asked", "is_out_of_memory", "needing_memory", "sentence", "smaller_batch"]

_ASKED = re.compile(r"ried to allocate ([0-9.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class OutOfMemory(MemoryError):
    """Memory ran out; the message says for what, and what to do."""


def bytes_asked(error: BaseException) -> int | None:
    """How many bytes were asked for when memory ran out, where the error says so."""
    found = _ASKED.search(str(error))
    return None if found is None else round(float(found[1]) * _UNITS[found[2]])


def sentence(error: BaseException, what: str, advice: str) -> str:
    """Says that memory ran out in ``what``, how much was asked for, and what to do."""
    asked = bytes_asked(error)
    amount = "" if asked is None else f" ({asked / (1 << 30):,.2f} GiB more were asked for)"
    return f"memory ran out in {what}{amount}: {advice}"


def smaller_batch(size: int) -> str:
    """What to do where memory is not enough for a step on a batch of that size."""
    if size == 1:
        return "train anew with a smaller --trunk or --image-size"
    return f"train anew with smaller batches than {size}, such as --batch-size {size // 2}"


@contextmanager
def needing_memory(what: str, advice: str) -> Iterator[None]:
    """Within: an error that says that memory ran out becomes ``OutOfMemory``.

    Args:
        what: What needs the memory, as in "memory ran out in a training step".
        advice: What to do.
    """
    try:
        yield
    except OutOfMemory:  # said already
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(sentence(error, what, advice)) from error
