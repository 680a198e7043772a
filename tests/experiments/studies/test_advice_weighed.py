"""Advice weighs what its gain rests on: the control's own runs, the task's own measure, what is shown elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from _advice_helpers import Runs, config, folder
from _advice_helpers import pretend as pretend
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.report import write_images, write_markdown, write_report
from maxl.experiments.runs.measures import ACCURACY, PROBE
from maxl.experiments.studies.advice import FINAL_SEEDS, SCREENING_SEEDS, advise
from maxl.experiments.studies.conclusion import conclude
from maxl.experiments.studies.decisions import end_text, judge, span, words
from maxl.experiments.studies.intervals import PairedDifference, paired_difference


def results(of: Mapping[str, Mapping[int, float]], **columns: Mapping[str, float]) -> pd.DataFrame:
    """Of the final step; ``columns`` are further ones, a value a method."""
    rows = [
        {"method": method, "seed": seed, "test_accuracy": value, "seconds_total": 1.0}
        | {name: by[method] + 0.001 * (seed % 3) for name, by in columns.items()}
        for method, found in of.items()
        for seed, value in found.items()
    ]
    return pd.DataFrame(rows)


def plan(methods: list[str], aim: str = "accuracy", seeds: int = 10, **changes: Any) -> dict[str, Any]:
    return {
        **{"aim": aim, "final": {"methods": methods, "seeds": list(range(seeds))}},
        **{"config": {"cluster_features": "input"}, "screening": {"no_effect": False}},
        **{"learned": "run", "learning_rate": 0.01, **changes},
    }


def around(mean: float, seeds: int = 10, step: float = 0.001) -> dict[int, float]:
    return {seed: mean + step * (seed * 7 % 5 - 2) for seed in range(seeds)}


METHODS = ["single", "kmeans", "kmeans-shuffled"]


def test_a_gain_over_a_control_that_rests_on_its_collapsed_runs_is_not_credited() -> None:
    of = {
        "single": around(0.80),
        "kmeans": around(0.83, step=0.0013),
        "kmeans-shuffled": around(0.83, step=0.0007),
    }
    of["kmeans-shuffled"] |= dict.fromkeys((1, 4, 8, 9), 0.2)
    given = conclude(results(of), plan(METHODS), "classification", 2000)
    assert given["verdict"] == "helps"
    assert given["control"]["difference"] > 0.2
    assert given["control"]["shown"] is False
    assert "It is not shown to beat kmeans-shuffled" in " ".join(given["sentences"])


def test_a_control_that_harms_proves_little() -> None:
    of = {"single": around(0.80), "kmeans": around(0.83), "kmeans-shuffled": around(0.70)}
    given = conclude(results(of), plan(METHODS), "classification", 2000)
    assert given["control"]["shown"] is True
    assert (
        "kmeans-shuffled is itself worse than single-task training by 10 points: to beat it says little."
        in given["sentences"]
    )


def test_a_control_that_helps_where_the_candidate_does_not_is_told() -> None:
    of = {"single": around(0.80), "kmeans": around(0.80, step=0.0012), "kmeans-shuffled": around(0.83)}
    given = conclude(results(of), plan(METHODS), "classification", 2000)
    assert (given["verdict"], given["recommended"]) == ("does not help", "single")
    assert any(
        said.startswith("kmeans-shuffled beats tuned single-task training by +3.0")
        for said in given["sentences"]
    )


def test_the_price_of_structure_in_the_tasks_own_measure_is_told(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={"kmeans": 0.04}, inputs=0.01)
    flags = [
        "--data",
        str(folder(tmp_path / "data")),
        "--primary",
        "label",
        "--probe",
        "breed",
        "--aim",
        "structure",
    ]
    flags += [
        "--trunk",
        "mlp",
        "--cluster-features",
        "input",
        "--epochs",
        "1",
        "--budget",
        "1e6",
        "--jobs",
        "1",
    ]
    out = tmp_path / "out"
    assert main(["advise", *flags, "--out", str(out)]) == 0
    table = out / "final" / "results.csv"
    rows = pd.read_csv(table)
    rows.loc[rows.method == "kmeans", "test_accuracy"] -= 0.2
    found = json.loads((out / "plan.json").read_text())
    given = conclude(rows, found, "classification", 1000)
    assert given["primary"]["method"] == "kmeans"
    assert given["primary"]["measure"] == "test_accuracy"
    paired = rows.pivot_table(index="seed", columns="method", values="test_accuracy")
    assert given["primary"]["difference"] == pytest.approx((paired["kmeans"] - paired["single"]).mean())
    assert any(
        said.startswith("In accuracy kmeans is worse than single-task training: −1")
        for said in given["sentences"]
    )
    assert given["sentences"][0].startswith(
        "kmeans beats tuned single-task training in the few-shot probe by"
    )
    old = json.loads((out / "advice.json").read_text())
    (out / "advice.json").write_text(json.dumps({**old, **given}))
    rows.to_csv(table, index=False)
    page = write_report(out).read_text()
    assert "better than tuned single-task training in the few-shot probe by" in page
    assert "kmeans loses 1" in page
    assert " points of accuracy." in page
    assert "Mean test accuracy (%)" in page


def test_what_the_test_part_shows_is_not_taken_back() -> None:
    of = {"single": around(0.80), "kmeans": around(0.83)}
    changes = {"screening": {"no_effect": True}, "learned": "not needed"}
    given = conclude(results(of), plan(METHODS[:2], **changes), "classification", 2000)
    told = " ".join(given["sentences"])
    assert given["verdict"] == "helps"
    assert "no effect here" not in told
    assert "On validation data none that was tried can gain 1 point; learned labels were not run." in told
    level = {"single": around(0.80), "kmeans": around(0.80, step=0.0012)}
    given = conclude(results(level), plan(METHODS[:2], **changes), "classification", 2000)
    assert "Finer labels show no effect here: on validation data none" in " ".join(given["sentences"])


def test_methods_without_a_seed_in_common_end_in_a_report(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    later = list(FINAL_SEEDS[5:])
    pretend(
        gains={"kmeans": 0.03},
        noise=0.004,
        diverged={"kmeans": FINAL_SEEDS[:3], "kmeans-shuffled": [*FINAL_SEEDS[3:5], *later]},
    )
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6)
    assert given["control"]["difference"] is None
    assert "against kmeans-shuffled: no seed in common" in write_report(tmp_path / "out").read_text()
    assert "nan" not in " ".join(given["sentences"])


def test_a_difference_without_a_seed_is_none() -> None:
    nothing = paired_difference({0: 0.8}, {1: 0.8})
    assert span(nothing, ACCURACY) == "no seed in common"
    assert words("maxl", nothing, ACCURACY) == "maxl cannot be told from single: no seed in common"
    assert "1 seed says +1.0 points" in words("maxl", paired_difference({0: 0.81}, {0: 0.8}), ACCURACY)


def test_equal_seeds_that_are_too_few_exclude_nothing() -> None:
    for count, told in ((2, "cannot tell"), (5, "cannot tell"), (6, "does not help")):
        same = dict.fromkeys(range(count), 0.8)
        assert judge(paired_difference(same, same), 2000) == told, count


@pytest.mark.parametrize("end", [-0.02, -0.0001, -1e-7, 0.0, 0.0003, 0.00996, 0.01, 0.01004, 0.05])
def test_an_end_is_shown_on_its_side_of_zero_and_of_a_point(end: float) -> None:
    text = end_text(end, ACCURACY, unit=False).replace("−", "-")
    shown = float(text)
    for edge in (0.0, 1.0):
        if abs(100 * end - edge) > 1e-4:  # four digits at most
            assert (shown > edge) == (100 * end > edge), text
            assert (shown < edge) == (100 * end < edge), text
    assert shown == pytest.approx(100 * end, abs=0.051)


def test_a_verdict_and_its_interval_agree_as_they_are_read() -> None:
    close = PairedDifference(0.004, -0.001, 0.00996, 0.2, 6, 4, 0, 10)
    assert words("maxl", close, ACCURACY).startswith(
        "maxl does not help: +0.4 points (−0.1 to +0.996 points) over 10 seeds against"
    )
    least = PairedDifference(0.02, 0.0003, 0.04, 0.04, 8, 2, 0, 10)
    assert "(+0.03 to +4.0 points)" in words("maxl", least, PROBE)


def test_the_folder_of_an_advice_is_no_study(pretend: Callable[..., Runs], tmp_path: Path) -> None:
    pretend(gains={"kmeans": 0.05}, diverged={"uniform": SCREENING_SEEDS[1:2]})
    out = tmp_path / "out"
    advise(config(folder(tmp_path / "data")), out, budget=1e6)
    assert "diverged, and so no candidate: uniform 2001" in write_report(out).read_text()
    for write in (write_markdown, write_images):
        with pytest.raises(ValueError, match="is an advice, whose report is a page"):
            write(out)
    lacking = tmp_path / "lacking"
    shutil.copytree(out, lacking)
    advice = json.loads((lacking / "advice.json").read_text())
    del advice["control"]
    (lacking / "advice.json").write_text(json.dumps(advice))
    with pytest.raises(ValueError, match="needs 'control', which is missing"):
        write_report(lacking)
    (out / "advice.json").unlink()
    with pytest.raises(ValueError, match="needs a finished advice"):
        write_report(out)
