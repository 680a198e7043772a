"""Text for a terminal, whichever it is: nothing that it would obey, nothing that its encoding lacks."""

from __future__ import annotations

import io
import os
import sys
import unicodedata

# What statistics print, for encodings without these characters.
_PLAIN = str.maketrans(
    {"±": "+/-", "−": "-", "–": "-", "×": "x", "…": "...", "≈": "~", "²": "^2", "ψ": "psi", "θ": "theta"}
)


def visible(text: str) -> str:
    """`text` with control characters written out (\\x1b), but for newlines and tabs.

    Names of classes and files come from anywhere: an escape sequence in one could rename the terminal's window,
    move its cursor or hide what stands before it, and a bidirectional override reverses what follows.
    """
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _is_harmless(c: str) -> bool:
    if c in "\n\t":
        return True
    embeds = unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return not embeds and unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp")


def shown(text: object) -> str:
    """As ``visible``, and in plainer characters where standard output lacks them."""
    written = visible(str(text))
    try:
        written.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return written.translate(_PLAIN)  # what is still missing is written out by the stream
    return written


def prepare_streams() -> None:
    """Characters that the encoding of standard output lacks are written out (\\xe9), not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_quietly() -> None:
    """What is still to be printed goes nowhere, since nobody reads it: else Python complains when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)
