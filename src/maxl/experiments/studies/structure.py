"""What features keep of a column that training was not asked for, compared with single-task training."""

from __future__ import annotations

from collections.abc import Mapping

from maxl.experiments.runs.methods import HUMAN_METHODS
from maxl.experiments.studies.intervals import PairedDifference, paired_differences
from maxl.experiments.studies.statistics import intervals_text
from maxl.experiments.studies.variants import base_method, same_setting

Probed = Mapping[str, Mapping[int, float]]  # the probe's accuracy, in percent, by method and seed


def against_single(probed: Probed) -> dict[str, PairedDifference]:
    """Each method's difference to single-task training at the same setting in points, with intervals that hold together;
    none where that was not run."""
    singles = [label for label in probed if base_method(label) == "single"]
    beside = {label: next((s for s in singles if same_setting(label, s)), None) for label in probed}
    pairs = {label: single for label, single in beside.items() if single is not None}
    found = paired_differences([(probed[label], probed[single]) for label, single in pairs.items()])
    return dict(zip(pairs, found, strict=True))


def against_inputs(probed: Probed, inputs: Probed) -> dict[str, PairedDifference]:
    """Each method's difference to the probe of its own runs' raw inputs, likewise; none without a common seed."""
    found = paired_differences([(values, inputs.get(label, {})) for label, values in probed.items()])
    return {label: d for label, d in zip(probed, found, strict=True) if d.n > 0}


def kept_text(probed: Probed, inputs: Probed | None = None) -> str:
    """Which methods keep more or less than single-task training and the inputs; "" where nothing is compared."""
    said = kept_sentences(probed, inputs)
    if not said:
        return ""
    every = [*against_single(probed).values(), *against_inputs(probed, inputs or {}).values()]
    said.append(f"Differences have {intervals_text(d.comparisons for d in every if d.n > 1)}.")
    if told := [label for label in probed if base_method(label) in HUMAN_METHODS]:
        said.append(
            f"Labels by people ({', '.join(told)}) may be that very column: they show what there is to keep."
        )
    return " ".join(said)


def kept_sentences(probed: Probed, inputs: Probed | None = None) -> list[str]:
    """The methods alone: those that keep more, and less, than single-task training, and than the raw inputs.

    Args:
        probed: Of the methods.
        inputs: The same of the raw inputs, as the runs of each method had them, where it was taken.

    Returns:
        Sentences; [] where nothing is compared.
    """
    said = []
    if differences := {label: d for label, d in against_single(probed).items() if d.n > 1}:
        said = _sides(differences, "single-task training keeps")
        said = said or [
            "None keeps more or less than single-task training, as far as so many seeds can tell."
        ]
    if beside := {label: d for label, d in against_inputs(probed, inputs or {}).items() if d.n > 1}:
        said += _sides(beside, "the raw inputs keep")
        unclear = [label for label, d in beside.items() if not (d.low > 0 or d.high < 0)]
        said += [f"Not shown to differ from the raw inputs: {', '.join(unclear)}."] if unclear else []
    return said


def _sides(differences: Mapping[str, PairedDifference], than: str) -> list[str]:
    sides = {
        "more": [label for label, d in differences.items() if d.low > 0],
        "less": [label for label, d in differences.items() if d.high < 0],
    }
    return [
        f"{side.capitalize()} than {than}: "
        + ", ".join(f"{label} ({differences[label].mean:+.1f} points)".replace("-", "−") for label in labels)
        + "."
        for side, labels in sides.items()
        if labels
    ]
