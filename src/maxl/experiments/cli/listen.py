"""What a command says beside its result: messages of the package, which go through ``logging``, on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from maxl.experiments.cli.terminal import visible

_ROOT = "maxl"  # every logger of the package is below it


@contextmanager
def listening(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Within, messages of the package go to standard error, a line each; the logger is left as it was.

    Args:
        quiet: Warnings alone, and no progress.
        verbose: Also what is of interest when something does not go as it should, with the place that says it.
    """
    logger = logging.getLogger(_ROOT)
    handler = _Lines()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def note(text: str) -> None:
    """Says something to the user, each line as one of its own; not where they asked for quiet."""
    for line in text.splitlines():
        logging.getLogger(__name__).info("%s", line)


def talks() -> bool:
    """Whether anyone listens to notes, and so wants to see progress."""
    return logging.getLogger(__name__).isEnabledFor(logging.INFO)


class _Lines(logging.Handler):
    """Writes to whatever is standard error at the time, as a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = " ".join(visible(record.getMessage()).split())
            if record.levelno <= logging.DEBUG:
                text = f"{record.name}: {text}"
            print(f"maxl: note: {text}", file=sys.stderr)
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)
