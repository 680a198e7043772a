"""What processes say to each other beside all else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from maxl.worlds._bucketed_pass import BucketedPass


class Background:
    """A second group of all processes, whose messages cannot be taken for those of the first.

    Args:
        group: The messages' group.

    Attributes:
        unfinished: A pass whose messages have not all been sent: it goes on, or ended in an error.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.unfinished: BucketedPass | None = None

    def begin(self, new: BucketedPass) -> None:
        """The messages that follow are those of a new pass; what the last one owes is sent first, as zeros.

        Each process may have failed at another place in it.
        """
        if self.unfinished is not None:
            self.unfinished.abandon()
        self.unfinished = new


# One for each default group, as a group holds threads and sockets, and is not given back before the end.
_OF: WeakKeyDictionary[dist.ProcessGroup, Background] = WeakKeyDictionary()


def background() -> Background:
    """That of all processes; called by all of them, which make it the first time."""
    first = dist.group.WORLD
    assert first is not None
    if first not in _OF:
        made = dist.new_group(timeout=_patience(first))
        assert isinstance(made, dist.ProcessGroup)
        _OF[first] = Background(made)
    return _OF[first]


def _patience(group: dist.ProcessGroup) -> timedelta | None:
    """How long the processes of a group wait for each other; None where that cannot be read."""
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    options = getattr(group._get_backend(device), "options", None)
    found: timedelta | None = getattr(options, "_timeout", None)
    return found
