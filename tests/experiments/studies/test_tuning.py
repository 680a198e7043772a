"""A search: chosen by validation alone, the same with and without interruptions, and refused where it would say nothing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from _run_helpers import files, tiny
from _run_helpers import one_thread as one_thread
from maxl import experiments
from maxl.experiments.cli import main, parser, read_config
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.studies.space import (
    Between,
    OneOf,
    check_space,
    default_space,
    read_space,
    space_dict,
)
from maxl.experiments.studies.tuning import VALIDATION, Tuned, tune

pytest.importorskip("optuna", reason="the extra tune is not installed")
BASE = tiny(method="single", epochs=2)
RATES = {"learning_rate": Between(1e-4, 3e-2, log=True)}
SMALL = "--data digits --train-size 100 --trunk mlp --batch-size 25 --epochs 2 --device cpu --no-tensorboard"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A search of three trials without an interruption."""
    return tune(BASE, tmp_path_factory.mktemp("whole"), trials=3, space=RATES)


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "trials.csv")


# What is searched


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"method": "single"}, {"learning_rate", "weight_decay"}),
        ({"method": "uniform"}, {"learning_rate", "weight_decay", "auxiliary_weight", "psi"}),
        (
            {"method": "maxl"},
            {
                "learning_rate",
                "weight_decay",
                "auxiliary_weight",
                "psi",
                "meta_learning_rate",
                "entropy_weight",
            },
        ),
        (
            {"method": "maxl", "psi": [2] * 10},
            {"learning_rate", "weight_decay", "auxiliary_weight", "meta_learning_rate", "entropy_weight"},
        ),
    ],
)
def test_the_space_is_what_matters_to_the_method(changes: dict[str, Any], names: set[str]) -> None:
    base = tiny(**changes)
    space = default_space(base)
    assert set(space) == names
    check_space(space, base)
    assert set(default_space(base, ["learning_rate"])) == names - {"learning_rate"}


def test_the_space_of_sgd_has_larger_rates() -> None:
    rates = [default_space(tiny(optimizer=name))["learning_rate"] for name in ("adam", "sgd")]
    assert all(isinstance(rate, Between) for rate in rates)
    assert rates[1].ends > rates[0].ends


def test_a_file_changes_the_space(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "learning_rate: {low: 1e-3, high: 0.1, log: true}\nbatch_size: [20, 50]\nweight_decay: null\n"
        "psi: {low: 2, high: 4}\ndecay: [cosine, constant]\n"
    )
    space = read_space(file, default_space(tiny(method="uniform")))
    assert space == {
        "learning_rate": Between(1e-3, 0.1, log=True),
        "auxiliary_weight": Between(0.03, 3.0, log=True),
        "psi": Between(2, 4, whole=True),
        "batch_size": OneOf((20, 50)),
        "decay": OneOf(("cosine", "constant")),
    }
    import yaml

    file.write_text(yaml.safe_dump(space_dict(space)))
    assert read_space(file, {}) == space


MISTAKES = {
    "learning_rat: [1]": "unknown field 'learning_rat'; did you mean 'learning_rate'",
    "seed: [1, 2]": "cannot vary seed: .* luckiest",
    "epochs: [1, 2]": "cannot vary epochs: trials are compared epoch by epoch",
    "data: [a]": "cannot vary data",
    "train_size: {low: 10, high: 20}": "cannot vary train_size",
    "method: [single]": "maxl compare tells methods apart",
    "trunk: ['os:system']": "cannot vary trunk",
    "track: [wandb]": "cannot vary track",
    "learning_rate: 0.1": "needs {low: X, high: X, log: true or false}",
    "learning_rate: {low: 1}": "needs {low: X",
    "learning_rate: {low: 1, high: 0.1}": "low below high; got 1 and 0.1",
    "learning_rate: {low: 0, high: 1, log: true}": "low above 0; got 0",
    "learning_rate: {low: .nan, high: 1}": "low below high",
    "learning_rate: {low: a, high: 1}": "low needs to be a number; got 'a'",
    "batch_size: {low: 1.5, high: 4}": "low needs to be a whole number; got 1.5",
    "decay: {low: 1, high: 4}": "holds no numbers: give a list of choices",
    "decay: []": "at least one",
    "batch_size: [[1]]": "need to be numbers or words",
    "- a": "one 'name: range' a line; got list",
}


@pytest.mark.parametrize("content", MISTAKES)
def test_a_file_that_cannot_be_searched_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=MISTAKES[content]):
        read_space(file, {})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "a field to vary"),
        ({"psi": Between(2, 4, whole=True)}, "--method single does not depend on psi"),
        ({"learning_rate": Between(-1.0, 1.0)}, "--learning-rate needs to be above 0"),
        ({"decay": OneOf(("cosine", "linear"))}, "--decay needs to be one of"),
        ({"batch_size": OneOf(("many",))}, "batch_size needs a value of kind int"),
    ],
)
def test_a_space_that_does_not_fit_writes_nothing(space: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tune(BASE, tmp_path / "tune", space=space)
    assert not (tmp_path / "tune").exists()


# What is found


def test_a_search_keeps_the_best_by_validation(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    found = tune(BASE, tmp_path, trials=3, space=RATES, progress=lambda *said: seen.append(said))
    trials = table(tmp_path)
    assert list(trials["state"]) == ["finished"] * 3  # none is pruned before five have ended
    assert found.value == trials["value"].max()
    assert found.measure == "validation_accuracy"
    best = int(trials["value"].idxmax())
    summary = RunFolder(tmp_path / "trials" / f"{best:04d}").read_summary()
    assert summary["validation_accuracy"] == found.value
    stored = RunFolder(tmp_path / "trials" / f"{best:04d}").read_config()
    assert stored.validation_size == VALIDATION
    assert found.best == RunConfig.read(tmp_path / "best.yaml")
    assert found.best.learning_rate == stored.learning_rate
    assert found.best.to_dict() | {"learning_rate": 0.0} == BASE.to_dict() | {"learning_rate": 0.0}
    assert seen[-1][:2] == (3, 3)
    assert seen[-1][2].startswith("best ")
    assert list(found.ranked(2)["value"]) == sorted(trials["value"], reverse=True)[:2]
    assert "<table" in found._repr_html_()
    assert not list(tmp_path.glob("trials/*/checkpoint"))
    assert experiments.tune is tune


def test_the_test_part_decides_nothing(tmp_path: Path) -> None:
    """The same table with other labels in its test part: the same trials, the same settings."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 3))
    y = (x[:, 0] + 0.5 * draw.standard_normal(200) > 0).astype(int)
    for name, labels in (("a", y[150:]), ("b", draw.permutation(y[150:]))):
        (tmp_path / name).mkdir()
        frame = pd.DataFrame(x, columns=list("pqr"))
        frame[:150].assign(label=y[:150]).to_csv(tmp_path / name / "train.csv", index=False)
        frame[150:].assign(label=labels).to_csv(tmp_path / name / "test.csv", index=False)
    results = [
        tune(
            tiny(method="single", data=str(tmp_path / name), train_size=None),
            tmp_path / f"tune-{name}",
            trials=3,
            space=RATES,
        )
        for name in ("a", "b")
    ]
    pd.testing.assert_frame_equal(results[0].trials, results[1].trials)
    assert not {name for name in results[0].trials if "test" in name}
    assert results[0].best.learning_rate == results[1].best.learning_rate


@pytest.mark.parametrize(("trial", "epoch"), [(0, 1), (1, 2)])
def test_an_interrupted_search_goes_on_to_the_same_end(
    trial: int, epoch: int, whole: Tuned, tmp_path: Path
) -> None:
    def interrupt(done: int, _: int, said: str) -> None:
        if (done, said) == (trial, f"epoch {epoch} of 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(BASE, tmp_path, trials=3, space=RATES, progress=interrupt)
    assert not (tmp_path / "best.yaml").exists()
    again = tune(BASE, tmp_path, trials=3, space=RATES)
    pd.testing.assert_frame_equal(again.trials, whole.trials)
    assert again.best == whole.best


def test_more_trials_are_added_and_none_is_repeated(whole: Tuned, tmp_path: Path) -> None:
    tune(BASE, tmp_path, trials=1, space=RATES)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("trials/*/summary.json")}
    second = tune(BASE, tmp_path, trials=3, space=RATES)
    pd.testing.assert_frame_equal(second.trials, whole.trials)
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert second.trials["learning_rate"].nunique() == 3


def test_trials_that_fall_behind_are_pruned(tmp_path: Path) -> None:
    base = tiny(method="single", epochs=4)
    found = tune(base, tmp_path, trials=8, space={"learning_rate": Between(1e-6, 3e-2, log=True)})
    pruned = found.trials[found.trials["state"] == "pruned"]
    assert len(pruned)
    assert (pruned["epochs"] < 4).all()
    assert pruned["value"].isna().all()
    assert found.best.learning_rate not in set(pruned["learning_rate"])
    assert (found.trials["state"][:5] == "finished").all()


def test_a_diverging_trial_is_left_out(tmp_path: Path) -> None:
    found = tune(BASE, tmp_path, trials=3, space={"learning_rate": OneOf((1e-3, 1e30))})
    states = dict(zip(found.trials["learning_rate"], found.trials["state"], strict=True))
    assert states == {1e-3: "finished", 1e30: "diverged"}
    assert found.best.learning_rate == 1e-3


def test_a_search_in_which_all_diverge_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trial of .* has ended without diverging"):
        tune(BASE, tmp_path, trials=2, space={"learning_rate": OneOf((1e30, 1e31))})
    assert not (tmp_path / "best.yaml").exists()


def test_how_long_a_search_takes_is_said_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxl.experiments.studies.tuning.time_single", lambda *_: 45.0)
    told: list[str] = []

    def search(name: str, base: RunConfig, **options: float) -> None:
        tune(base, tmp_path / name, space=RATES, estimate=told.append, **options)  # type: ignore[arg-type]

    search("a", BASE, trials=3)
    search("a", BASE, trials=4)  # goes on
    search("b", tiny(method="maxl", epochs=1), trials=2, budget=1e-9)
    assert told == [
        "about 45 seconds a trial, 2 minutes for 3; those that fall behind end earlier",
        "about 3 minutes a trial, 6 minutes for 2, of which the budget allows 1 second; those that fall behind end earlier",
    ]


def test_one_trial_runs_in_the_smallest_budget(tmp_path: Path) -> None:
    assert len(tune(BASE, tmp_path, trials=9, budget=1e-9, space=RATES).trials) == 1
    assert len(tune(BASE, tmp_path, trials=9, budget=1e-9, space=RATES).trials) == 1  # its time is kept
    assert json.loads((tmp_path / "search.json").read_text())["seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"learning_rate": Between(1e-4, 1e-2)}}, "was made with learning_rate"),
        ({"base": tiny(method="single", epochs=3)}, "was made with epochs 2, not 3"),
        ({"trials": 0}, "--trials needs to be at least 1; got 0"),
        ({"budget": 0.0}, "--budget needs to be a number of minutes above 0; got 0"),
        ({"budget": math.nan}, "--budget needs to be a number"),
    ],
)
def test_another_search_is_refused(changes: dict[str, Any], message: str, whole: Tuned) -> None:
    given: dict[str, Any] = {"base": BASE, "trials": 1, "space": RATES}
    before = files(whole.out)
    with pytest.raises(ValueError, match=message):
        tune(out=whole.out, **given | changes)
    assert files(whole.out) == before


def test_a_search_is_not_gone_on_with_on_other_data(tmp_path: Path) -> None:
    file, out = tmp_path / "t.csv", tmp_path / "out"
    file.write_text("label,x\n" + "".join(f"{'ab'[i % 2]},{i % 7}\n" for i in range(60)))
    base = tiny(method="single", data=str(file), primary="label", train_size=None, epochs=1)
    tune(base, out, trials=1, space=RATES)
    file.write_text(file.read_text().replace("a,0", "b,0", 1))
    with pytest.raises(
        ValueError, match=r"one of the same search; .* other data: its samples or labels changed"
    ):
        tune(base, out, trials=2, space=RATES)
    assert len(table(out)) == 1


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        tune(BASE, tmp_path, trials=1, space=RATES)


def test_a_trial_that_was_changed_is_refused(tmp_path: Path) -> None:
    def interrupt(*said: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(BASE, tmp_path, trials=1, space=RATES, progress=interrupt)
    run = RunFolder(tmp_path / "trials" / "0000")
    run.create(tiny(method="single", epochs=2, trunk="os:system"))
    with pytest.raises(ValueError, match="has other settings: it was changed"):
        tune(BASE, tmp_path, trials=1, space=RATES)


# The command line


def test_the_command_ends_with_a_table_and_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("batch_size: [20, 50]\n")
    line = (
        f"tune {SMALL.replace('--batch-size 25 ', '')} --method uniform --psi 3 --trials 2 --space space.yaml"
    )
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert re.search(
        r"about \d+ seconds? a trial, \d+ seconds? for 2; those that fall behind end earlier\n", err
    )
    assert "uniform on digits" in out
    assert "batch size" in out
    assert "psi" not in out  # it was given
    assert "2 trials: 2 finished. Chosen by validation results" in out
    assert [one for one in err.splitlines() if "tune:" in one][-1].startswith(
        "maxl: note: tune: 2 of 2 trials, best "
    )
    following = out.splitlines()[-1].removeprefix("Next: maxl ")
    assert following == "train --config tune/best.yaml --out run"
    best = RunFolder(tmp_path / "tune" / "best.yaml")
    assert best.path.is_file()
    assert main([*following.split(), "--quiet"]) == 0
    stored = RunFolder(tmp_path / "run").read_config()
    assert (stored.psi, stored.validation_size) == ((3,), 0.0)
    assert stored.batch_size in (20, 50)
    assert stored == read_config(parser().parse_checked(["train", "--config", "tune/best.yaml"]))
    assert main([*line.replace("--trials 2", "--trials 3").split(), "--budget", "1e-9", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "2 trials: 2 finished. The budget ended it before 3. Chosen" in out
    assert out.endswith("--config tune/best.yaml --out run-2\n")


def test_an_interrupt_names_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maxl.experiments.studies.tuning.train", interrupted)
    line = f"tune {SMALL} --method single --trials 2"
    assert main(line.split()) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"maxl: interrupted; what is finished is kept; continue with: maxl {line}"


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxl.experiments.studies.tuning.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'a search needs optuna: pip install "maxl-torch\[tune\]"'):
        tune(BASE, tmp_path, trials=1, space=RATES)
