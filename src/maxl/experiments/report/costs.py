"""What runs cost, in minutes of training."""

from __future__ import annotations

from collections.abc import Sequence

from maxl.experiments.report.runs import Run, Setting
from maxl.experiments.studies.variants import base_method


def minutes(runs: Sequence[Run]) -> float | None:
    """Mean training time of a method's runs, in minutes; None where it was not recorded."""
    seconds = [
        float(run.summary["seconds_total"]) for run in runs if run.summary.get("seconds_total") is not None
    ]
    return sum(seconds) / len(seconds) / 60 if seconds else None


def minutes_text(value: float) -> str:
    """ "12 minutes", "0.3 minutes"."""
    digits = 0 if value >= 10 else 1 if value >= 0.1 else 2
    number = f"{value:.{digits}f}"
    return f"{number} minute{'' if number == '1' else 's'}"


def cost_text(setting: Setting, base: str, methods: Sequence[str] = ()) -> str:
    """Minutes a run of the methods, or of the cheapest and the dearest, and of the reference."""
    times = {label: time for label, runs in setting.methods.items() if (time := minutes(runs)) is not None}
    if not times:
        return "not recorded"
    own = times.get(base)
    others = {label: times[label] for label in dict.fromkeys(methods) if label in times and label != base}
    if not others:
        rest = [time for label, time in times.items() if label != base]
        told = [] if own is None else [f"{minutes_text(own)} a run of {base}"]
        if rest:
            span = minutes_text(max(rest))
            if len(rest) > 1 and minutes_text(min(rest)) != span:
                span = f"{minutes_text(min(rest)).split(' ')[0]} to {span}"
            told.append(f"{span} a run of the others")
    else:
        told = [
            f"{minutes_text(time)} a run of {label}" + (f", {time / own:.1f} times {base}" if own else "")
            for label, time in others.items()
        ]
        told += [] if own is None else [f"{minutes_text(own)} a run of {base}"]
    every = [run for runs in setting.methods.values() for run in runs]
    spent = sum(float(run.summary.get("seconds_total") or 0) for run in every) / 60
    return f"{'; '.join(told)}. The whole comparison took {minutes_text(spent)} of training, looks at the test part not counted"


def minutes_of(setting: Setting, methods: Sequence[str], seeds: int) -> str:
    """What so many seeds of some methods take, as the end of a sentence; "" where none of them was timed."""
    times = {base_method(label): minutes(runs) for label, runs in setting.methods.items()}
    known = [time for name in methods if (time := times.get(name)) is not None]
    return f", about {minutes_text(seeds * sum(known))} of training" if known else ""
