"""What features keep of a column that training was not asked for, compared with single-task training."""

from __future__ import annotations

from collections.abc import Mapping

from maxl.experiments.runs.methods import HUMAN_METHODS
from maxl.experiments.studies.intervals import PairedDifference, paired_differences
from maxl.experiments.studies.statistics import intervals_text
from maxl.experiments.studies.variants import base_method

Probed = Mapping[str, Mapping[int, float]]  # the probe's accuracy, in percent, by method and seed


def against_single(probed: Probed) -> dict[str, PairedDifference]:
    """Each method's difference to single-task training in points, with intervals that hold together; none without it."""
    base = next((label for label in probed if base_method(label) == "single"), None)
    others = [label for label in probed if label != base]
    if base is None or not others:
        return {}
    found = paired_differences([(probed[label], probed[base]) for label in others])
    return dict(zip(others, found, strict=True))


def kept_text(probed: Probed) -> str:
    """Which methods keep more or less than single-task training, by those intervals; "" where nothing is compared."""
    said, differences = kept_sentences(probed), against_single(probed)
    if not said:
        return ""
    said.append(f"Differences have {intervals_text(d.comparisons for d in differences.values() if d.n > 1)}.")
    if told := [label for label in probed if base_method(label) in HUMAN_METHODS]:
        said.append(
            f"Labels by people ({', '.join(told)}) may be that very column: they show what there is to keep."
        )
    return " ".join(said)


def kept_sentences(probed: Probed) -> list[str]:
    """The methods alone: a sentence for those that keep more, one for those that keep less; [] where nothing is compared."""
    differences = {label: d for label, d in against_single(probed).items() if d.n > 1}
    if not differences:
        return []
    sides = {
        "more": [label for label, d in differences.items() if d.low > 0],
        "less": [label for label, d in differences.items() if d.high < 0],
    }
    said = [
        f"{side.capitalize()} than single-task training keeps: "
        + ", ".join(f"{label} ({differences[label].mean:+.1f} points)".replace("-", "−") for label in labels)
        + "."
        for side, labels in sides.items()
        if labels
    ]
    return said or ["None keeps more or less than single-task training, as far as so many seeds can tell."]
