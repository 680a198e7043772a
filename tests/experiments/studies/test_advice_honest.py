"""Advice is not given in silence where the data changed, runs diverged, nothing is learned, or an interruption came."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _advice_helpers import Runs, config, folder
from _advice_helpers import pretend as pretend
from maxl.experiments.report.advice import decided, write_advice
from maxl.experiments.studies.advice import FINAL_SEEDS, SCREENING_SEEDS, advise
from maxl.experiments.studies.study import Study


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("x,0", "y,0", "its samples or labels"),
        ("\n", "\nx,0,0.5,0.5\n", "number"),
        (",0,0", ",0,7", "features"),
    ],
)
def test_changed_data_are_refused(
    old: str, new: str, what: str, finished: bool, pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={})
    file = folder(tmp_path / "data") / "train.csv"
    runs.stop_after = None if finished else 20
    base, out = config(tmp_path / "data"), tmp_path / "out"
    if finished:
        advise(base, out, budget=1e6)
    else:
        with pytest.raises(KeyboardInterrupt):
            advise(base, out, budget=1e6)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"was begun with other data: .*{what}.* changed"):
        advise(base, out, budget=1e6)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.mark.parametrize("minutes", [40, 60, 100, 150, 200])
def test_an_interruption_changes_no_decision_that_a_tight_budget_made(
    minutes: float, pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    base = config(folder(tmp_path / "data"))
    whole, decisions = pretend(gains={"maxl": 0.02}, seconds=60), []
    uninterrupted = advise(base, tmp_path / "whole", budget=minutes, jobs=1)
    plan = json.loads((tmp_path / "whole" / "plan.json").read_text())
    decisions = [plan["learned"], plan["candidate"], plan["screening"]["seeds"]]
    for after in range(8, len(whole.trained), 7):
        runs, out = pretend(gains={"maxl": 0.02}, seconds=60), tmp_path / str(after)
        runs.stop_after = after
        with pytest.raises(KeyboardInterrupt):
            advise(base, out, budget=minutes, jobs=1)
        runs.stop_after = None
        given = advise(base, out, budget=minutes, jobs=1)
        plan = json.loads((out / "plan.json").read_text())
        assert [plan["learned"], plan["candidate"], plan["screening"]["seeds"]] == decisions, after
        assert given["verdict"] == uninterrupted["verdict"]


@pytest.mark.parametrize(("method", "lost"), [("kmeans", 7), ("kmeans", 1), ("single", 2)])
def test_a_verdict_that_lacks_runs_which_diverged_is_none(
    method: str, lost: int, pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={"kmeans": 0.05}, noise=0.02, diverged={method: FINAL_SEEDS[:lost]})
    out = tmp_path / "out"
    given = advise(config(folder(tmp_path / "data")), out, budget=1e6)
    assert (given["verdict"], given["recommended"]) == ("cannot tell", "single")
    assert given["diverged"] == {method: list(FINAL_SEEDS[:lost])}
    assert f"{lost} of " in (told := " ".join(given["sentences"]))
    assert f"runs of {method} diverged." in told
    assert "More seeds would not help where training diverges" in decided(out).advice
    assert write_advice(out).exists()


def test_a_control_that_diverged_is_told_of(pretend: Callable[..., Runs], tmp_path: Path) -> None:
    pretend(gains={"kmeans": 0.05}, diverged={"kmeans-shuffled": FINAL_SEEDS})
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6)
    assert (given["verdict"], given["control"]) == ("helps", None)
    assert "kmeans-shuffled cannot say what a gain is due to." in given["sentences"]


def test_what_diverges_in_screening_is_no_candidate(pretend: Callable[..., Runs], tmp_path: Path) -> None:
    pretend(gains={"kmeans": 0.09, "uniform": 0.04}, diverged={"kmeans": SCREENING_SEEDS[1:2]})
    told: list[str] = []
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6, tell=told.append)
    assert given["method"] == "uniform"
    assert any("runs of kmeans diverged" in line for line in told)


@pytest.mark.parametrize(
    ("constant", "verdict"), [(0.75, "cannot tell"), (0.4, "does not help"), (None, "does not help")]
)
def test_where_nothing_is_learned_nothing_is_denied(
    constant: float | None, verdict: str, pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={}, noise=1e-4, constant=constant)
    out = tmp_path / "out"
    given: dict[str, Any] = advise(config(folder(tmp_path / "data")), out, budget=1e6)
    assert given["verdict"] == verdict
    assert given["nothing_learned"] == (verdict == "cannot tell")
    if verdict == "cannot tell":
        assert given["sentences"][1].startswith("Nothing is learned yet: no method gets more than one answer")
        assert decided(out).advice.startswith("Train longer, or at another learning rate")


def test_what_a_method_does_not_fit_is_refused_before_anything_is_timed(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{n / 7:.3f},{n % 5},{'yes' if n % 3 == 0 else 'no'}" for n in range(60)]
    table.write_text("\n".join(["price,a,checked", *rows]) + "\n")
    base = config(table, primary="price", trusted="checked", batch_size=5, epochs=10)
    with pytest.raises(ValueError, match="is for classes that are partly wrong; the task is regression"):
        advise(base, tmp_path / "out", aim="noise")
    assert not (tmp_path / "out").exists()


def test_decisions_need_a_sample_to_be_made_by(tmp_path: Path) -> None:
    base = config(folder(tmp_path / "data"), validation_size=0.001)
    with pytest.raises(
        ValueError, match=r"--validation-size needs to leave a sample to decide by; got 0\.001"
    ):
        advise(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gain", "verdict"), [(0.0, "does not help"), (0.03, "helps")])
def test_runs_that_all_agree_are_enough_to_conclude(
    gain: float, verdict: str, pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains=dict.fromkeys(("uniform", "kmeans", "kmeans-shuffled", "maxl", "wamal"), gain), noise=0.0)
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6)
    assert (given["verdict"], given["seeds"]) == (verdict, 6)


def test_classes_that_are_smaller_than_their_clusters_are_told_at_once(tmp_path: Path) -> None:
    base = config(folder(tmp_path / "data"), psi=[80])
    with pytest.raises(
        ValueError, match=r"--method kmeans needs as many .* class 'x' has \d+ for 80: lower --psi"
    ):
        advise(base, tmp_path / "out")
    study = Study(base, ["single", "kmeans"], [0])
    with pytest.raises(ValueError, match="--method kmeans needs as many training samples of each class"):
        study.run(tmp_path / "study", jobs=1)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "study").exists()
