"""The decisions of advice, from results alone."""

from __future__ import annotations

import pandas as pd
import pytest

from _advice_helpers import values
from maxl.experiments.runs.measures import ACCURACY
from maxl.experiments.studies.decisions import (
    best_rate,
    blind,
    further_rate,
    judge,
    screen,
    words,
)
from maxl.experiments.studies.intervals import paired_difference


def test_a_rate_that_diverges_with_a_seed_is_no_choice_and_edges_are_looked_beyond() -> None:
    assert best_rate({0.1: [0.5, 0.6], 1.0: [0.9], 0.01: [0.4, 0.4]}, 2) == 0.1
    assert best_rate({0.1: [0.5], 0.01: [0.5]}, 1) == 0.01
    with pytest.raises(ValueError, match=r"does not diverge; none of 0\.1, 1 is one"):
        best_rate({0.1: [], 1.0: [0.9]}, 2)
    assert (further_rate([0.1, 0.3, 0.9], 0.3), further_rate([0.1, 0.3], 0.3)) == (None, 0.9)
    assert further_rate([0.1, 0.3], 0.1) == pytest.approx(0.0333)


def test_decisions_see_nothing_of_the_test_part() -> None:
    frame = pd.DataFrame(
        {"test_accuracy": [1], "test_probe": [1], "worst_group": [1], "validation_accuracy": [1]}
    )
    assert list(blind(frame)) == ["validation_accuracy"]


def test_screening_stops_where_nothing_can_help_and_never_recommends_a_control() -> None:
    level = screen({"single": values(0, -1), "uniform": values(0), "kmeans": values(-0.02)})
    assert level.no_effect
    assert not level.open
    few = {"single": values(0, -1), "uniform": values(0), "kmeans": values(-0.02)}
    assert [screen(few, samples).no_effect for samples in (299, 300)] == [False, True]
    wide = values(0, 30)
    unclear = screen({"single": values(0), "uniform": wide})
    assert unclear.open
    assert not unclear.no_effect
    better = screen({"single": values(0, -1), "uniform": values(0.03), "kmeans-shuffled": values(0.09)})
    assert (better.open, better.no_effect, better.candidate) == (False, False, "uniform")
    with pytest.raises(ValueError, match="single-task training and another method that do not diverge"):
        screen({"single": values(0), "kmeans-shuffled": values(0)})


@pytest.mark.parametrize(
    ("shift", "sign", "verdict", "said"),
    [
        (0.03, -1, "helps", "maxl beats tuned single-task training by +3.0 points"),
        (
            0.004,
            -0.1,
            "helps",
            "+0.4 points (+0.2 to +0.6 points) over 5 seeds, less than 1 point, too little to act on",
        ),
        (-0.03, -1, "does not help", "maxl does not help: −3.0 points"),
        (0.0, -1, "does not help", "less than 1 point of gain"),
        (0.0, 30, "cannot tell", "cannot tell whether maxl helps"),
    ],
)
def test_verdicts(shift: float, sign: float, verdict: str, said: str) -> None:
    difference = paired_difference(values(shift, sign), values(0))
    assert judge(difference) == verdict
    assert said in words("maxl", difference, ACCURACY)


@pytest.mark.parametrize(
    ("shift", "samples", "verdict", "said"),
    [
        (0.0, 300, "does not help", "less than 1 point of gain"),
        (0.0, 299, "cannot tell", "but the test part has 299 samples, too few to exclude a gain of 1 point"),
        (0.05, 101, "helps", "beats tuned single-task training by +5.0 points"),
        (0.05, 99, "cannot tell", "a gain on fewer than 5 of them may be luck with those"),
        (0.0, 8, "cannot tell", "the test part has 8 samples"),
    ],
)
def test_a_small_test_part_tells_nothing_however_many_seeds_agree(
    shift: float, samples: int, verdict: str, said: str
) -> None:
    difference = paired_difference(values(shift, -1), values(0))
    assert judge(difference, samples) == verdict
    assert said in words("maxl", difference, ACCURACY, samples)
    assert judge(difference) == ("helps" if shift else "does not help")


def test_seeds_that_agree_but_are_too_few_tell_nothing() -> None:
    difference = paired_difference({0: 0.9, 1: 0.9, 2: 0.9}, {0: 0.8, 1: 0.8, 2: 0.8})
    assert judge(difference) == "cannot tell"
    assert "too few to claim it" in words("maxl", difference, ACCURACY)
