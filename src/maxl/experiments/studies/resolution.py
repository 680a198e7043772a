"""What a test part of so many samples can show, however many seeds agree on it.

Intervals over seeds cover the randomness of training. All seeds look at the same test samples, and so agree closely where
these are few: on eight of them a difference of nought in every seed excludes nothing.
"""

from __future__ import annotations

import math

RULE_OF_THREE = 3  # of n samples none changed: up to 3 in n may in truth, with 95 % confidence (Hanley, 1983)
SIGNS = 5  # so many changed for the better and none for the worse are the fewest that chance explains in under 5 %

_COUNTED = ("classification", "multi-label")  # tasks whose measures count samples


def counted(task: str, samples: float | None) -> int | None:
    """Test samples, where the task's measures count them; None where they do not, or nobody knows how many there are."""
    if samples is None or not math.isfinite(samples) or task not in _COUNTED:
        return None
    return int(samples)


def excludes(samples: int | None, gain: float) -> bool:
    """Whether so many test samples can exclude a gain, a share: at least 300 for 0.01."""
    return samples is None or samples * gain * (1 + 1e-9) >= RULE_OF_THREE


def shows(samples: int | None, gain: float) -> bool:
    """Whether a gain, a share, is one of enough of the test samples not to be luck with a few of them."""
    return samples is None or samples * gain * (1 + 1e-9) >= SIGNS


def lacking(samples: int, gain: float, relevant: str) -> str:
    """Why a difference says nothing, in a sentence; ``relevant`` is the gain to be excluded, in words."""
    if gain > 0 and not shows(samples, gain):
        return f"the test part has {samples} samples, and a gain on fewer than {SIGNS} of them may be luck with those"
    return f"the test part has {samples} samples, too few to exclude a gain of {relevant}"
