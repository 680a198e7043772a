"""Named ways to share passes between training steps and meta steps, and the check that a name exists."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The lookahead is a further step from the current weights, not taken. Exact; shares the labels alone.
    "paper": {"lookahead": "virtual", "lookahead_rule": "sgd"},
    # The update just taken is the lookahead, judged on its own batch. Exact; shares its gradient and layer outputs.
    "exact": {"lookahead": "update"},
    # Judged by the next batch, whose primary gradient the next training step needs anyway. Exact.
    "next": {"lookahead": "update", "evaluate": "next"},
    # The same every eighth step, exact where a meta step is taken. A generator that shares the network's trunk makes
    # labels of the other steps for nothing; for one with a trunk of its own ``cache_size`` keeps each sample's last.
    "everyday": {"lookahead": "update", "evaluate": "next", "meta_every": 8},
}
"""Keyword arguments of ``MetaAuxiliaryLearner``, and fields of a run's config, by name. "exact" is the default."""


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """ValueError with all choices, and the nearest where one is near, unless ``value`` is among them."""
    names = list(choices)
    if value not in names:
        hint = did_you_mean(str(value), names)
        raise ValueError(f"{what} needs to be one of {', '.join(names)}; got {value!r}{hint}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, as the end of a message: "; did you mean 'maxl'?"; "" where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean '{by_lower[near[0]]}'?" if near else ""
