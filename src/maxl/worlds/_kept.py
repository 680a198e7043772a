"""A group of processes that PyTorch keeps beyond its end."""

from __future__ import annotations

import sys
from types import FunctionType

import torch.distributed as dist


def let_go() -> None:
    """Frees what ``torch.distributed.nn.functional`` keeps: the group of the moment at which it was imported.

    Which is that of all processes where the first optimizer, which imports it, came after ``init_process_group``. It is a
    default argument there, and otherwise None, which stands for the same group.
    """
    module = sys.modules.get("torch.distributed.nn.functional")
    for function in vars(module).values() if module else ():
        if isinstance(function, FunctionType) and function.__defaults__:
            defaults = (None if isinstance(d, dist.ProcessGroup) else d for d in function.__defaults__)
            function.__defaults__ = tuple(defaults)
