"""Named ways to share passes between training steps and meta steps."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The lookahead is a further step from the current weights, not taken. Exact; shares the labels alone.
    "paper": {"lookahead": "virtual", "lookahead_rule": "sgd"},
    # The update just taken is the lookahead, judged on its own batch. Exact; shares its gradient and layer outputs.
    "exact": {"lookahead": "update"},
    # Judged by the next batch, whose primary gradient the next training step needs anyway. Exact.
    "next": {"lookahead": "update", "evaluate": "next"},
    # The same every sixth step. Exact where a meta step is taken; with ``cache_labels`` the other steps train on
    # each sample's last label instead of making it anew, a label that is some epochs and another crop old.
    "everyday": {"lookahead": "update", "evaluate": "next", "meta_every": 6},
}
"""Keyword arguments of ``MetaAuxiliaryLearner``, and fields of a run's config, by name."""
