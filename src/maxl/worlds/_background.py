"""What processes say to each other beside all else."""

from __future__ import annotations

import atexit
import sys
from datetime import timedelta
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from maxl.worlds._kept import let_go


class Background:
    """A second group of all processes, whose messages cannot be taken for those of the first.

    Args:
        group: That group.

    Attributes:
        under_way: Whether a pass has begun here that has not been finished: it goes on, or has failed.
        passes: How many have begun.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.under_way = False
        self.passes = 0

    def begin(self) -> int:
        """The number of a new pass.

        Raises:
            RuntimeError: if one is under way.
        """
        if self.under_way:
            raise RuntimeError(
                "gradients are summed one after another; got a new one while another is under way, or has failed: begin "
                "a step with world.share, after which what has failed is forgotten"
            )
        self.under_way = True
        self.passes += 1
        return self.passes


# One for each default group, as a group holds threads and sockets, and is not given back before the end.
_OF: WeakKeyDictionary[dist.ProcessGroup, Background] = WeakKeyDictionary()


def background() -> Background:
    """That of all processes; called by all of them, which make it the first time."""
    if _first() not in _OF:
        forget()
    return _OF[_first()]


def has_failed() -> bool:
    """Whether a pass before this moment, at which none goes on, has failed in this process."""
    return _first() in _OF and _OF[_first()].under_way


def forget() -> None:
    """A new group in place of the one there was; called by all processes.

    Where a pass has failed, each may have sent another number of messages, and would take what is left for the next ones.
    """
    made = dist.new_group(timeout=_patience(_first()))
    assert isinstance(made, dist.ProcessGroup)
    _OF[_first()] = Background(made)


def leave_in_order() -> None:
    """Has groups that are destroyed by the end of this process freed before Python ends; to say it again changes nothing.

    A group of gloo has threads, and one of them that has yet to free the last message by then aborts the process.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    """Where no pass goes on or has failed and no error ends the process: what is not finished would be waited for."""
    if not hasattr(sys, "last_type") and not any(made.under_way for made in _OF.values()):
        let_go()


def _first() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def _patience(group: dist.ProcessGroup) -> timedelta | None:
    """How long the processes of a group wait for each other; None where that cannot be read."""
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    options = getattr(group._get_backend(device), "options", None)
    found: timedelta | None = getattr(options, "_timeout", None)
    return found
