"""What torchrun tells the processes that it starts; known without torch."""

from __future__ import annotations

import os


class Elsewhere(Exception):
    """Another process of the run has failed, and says why."""


def launched() -> int:
    """Processes that torchrun has started beside each other; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def follows() -> bool:
    """Whether this is not the first of them, which speaks for all."""
    return launched() > 1 and int(os.environ.get("RANK", "0")) > 0


def restarts() -> int:
    """How often torchrun has started them again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if launched() > 1 else 0
