"""Ctrl-C and SIGTERM while a run trains: at once, unless something that was reported is not saved yet."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_HELD = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """A context in which signals can be held back and released again.

    A second signal of the same kind is not held back. Outside the main thread, where Python handles no signals,
    nothing is held.

    Attributes:
        pending: The signal that came while it was held back, or None.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.release()
        else:
            self._restore()

    def hold(self) -> None:
        """From here on signals wait."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in _HELD}

    def release(self) -> None:
        """From here on signals act; one that waits acts now."""
        self._restore()
        if (waiting := self.pending) is not None:
            self.pending = None
            signal.raise_signal(waiting)

    def _restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self.release()
        self.pending = number
