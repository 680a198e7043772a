"""Advice: chosen by validation, reported on fresh seeds, and never by the test part."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from _advice_helpers import Runs, config, folder
from _advice_helpers import pretend as pretend
from _run_helpers import one_thread as one_thread
from _run_helpers import runs_here
from maxl import experiments
from maxl.experiments.cli import main
from maxl.experiments.report.advice import write_advice
from maxl.experiments.studies import advice as procedure
from maxl.experiments.studies.advice import FINAL_SEEDS, SCREENING_SEEDS, TUNING_SEEDS, advise
from maxl.experiments.studies.remaining import COST


@pytest.fixture
def few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real runs, one after another in this process, as few as show what there is to show."""
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 1)
    monkeypatch.setattr(procedure, "time_runs", lambda _: (1.0, 0.0))
    for name, value in (
        ("TUNING_SEEDS", range(1000, 1001)),
        ("SCREENING_SEEDS", range(2000, 2002)),
        ("FINAL_SEEDS", range(3000, 3002)),
        ("FEWEST", 2),
        ("_LOOKS", ()),
        ("_EXTENSIONS", 0),
        ("LEARNED", ("maxl",)),
    ):
        monkeypatch.setattr(procedure, name, value)


def choices(out: Path) -> dict[str, Any]:
    plan = json.loads((out / "plan.json").read_text())
    others = ("seconds", "pace", "startup", "seconds_per_run", "predicted_minutes", "config", "fingerprints")
    return {name: value for name, value in plan.items() if name not in others}


def test_the_page_of_commands_tells_of_every_entry_of_an_advice(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={"maxl": 0.03})
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6, jobs=1)
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    table = page.partition("## Advice")[2].partition("## ")[0].partition("| entry | what |")[2]
    entries = {
        name for line in table.splitlines() for name in re.findall("`([a-z_]+)`", line.partition(" | ")[0])
    }
    assert entries == {*given}


def test_whatever_the_test_part_says_the_choices_are_the_same(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    base = config(folder(tmp_path / "data"))
    gains = {"maxl": 0.03, "kmeans": -0.01}
    for name, test_gains in (("one", gains), ("other", {"maxl": -0.2, "kmeans": 0.2, "uniform": 0.1})):
        pretend(gains=gains, test_gains=test_gains)
        advise(base, tmp_path / name, budget=1e6, jobs=1)
    assert choices(tmp_path / "one") == choices(tmp_path / "other")
    verdicts = [json.loads((tmp_path / n / "advice.json").read_text())["verdict"] for n in ("one", "other")]
    assert verdicts == ["does not help", "helps"]  # of uniform labels, both times


@pytest.mark.slow
@pytest.mark.usefixtures("few_seeds")
def test_permuted_test_labels_change_no_choice(tmp_path: Path) -> None:
    found = {}
    for name in ("as it is", "permuted"):
        data = folder(tmp_path / name, permuted=name == "permuted")
        base = config(data, probe="breed", validation_size=0.3)
        found[name] = advise(base, tmp_path / f"{name} out", aim="structure", budget=1e6)
    one, other = found.values()
    assert choices(tmp_path / "as it is out") == choices(tmp_path / "permuted out")
    assert one["method"] == other["method"]
    assert one["learning_rate"] == other["learning_rate"]
    means = [
        pd.read_csv(tmp_path / f"{name} out" / "final" / "results.csv")[one["measure"]].mean()
        for name in found
    ]
    assert means[0] > means[1]  # the permutation did reach what is reported


@pytest.mark.parametrize(("told", "again"), [(1.0, False), (0.2, True)])
def test_runs_that_take_longer_than_estimated_are_told_of_after_tuning(
    told: float, again: bool, pretend: Callable[..., Runs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(gains={}, seconds=1.0)
    monkeypatch.setattr(procedure, "time_runs", lambda _: (told, 0.0))
    said: list[str] = []
    advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6, jobs=1, tell=said.append)
    found = [one for one in said if "times as long as estimated" in one]
    assert len(found) == again
    if again:
        assert re.match(
            r"runs take 5\.0 times as long as estimated: usually about \d+\.\d minutes in all, then$",
            found[0],
        )


def test_advice_holds_what_it_promises_and_repeats_itself(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={"human": 0.03, "kmeans": -0.03})
    said: list[str] = []
    steps: list[str] = []
    out = tmp_path / "out"
    base = config(folder(tmp_path / "data"), human="breed")
    given = experiments.advise(
        base, out, budget=1e6, tell=said.append, progress=lambda step, done, total, note: steps.append(step)
    )
    assert given == json.loads((out / "advice.json").read_text())
    assert (given["verdict"], given["method"], given["against"]) == ("helps", "human", "single")
    assert given["measure"] == "test_accuracy"
    assert given["learning_rate"] == 0.009  # 1e-3 / 3, 1e-3 and 3e-3 were tried, and then what lies beyond
    assert given["control"]["against"] == "human-shuffled"
    assert given["interval"][0] < given["difference"] < given["interval"][1]
    assert (given["cost"], given["minutes"] > 0) == (1.0, True)
    assert list(dict.fromkeys(steps)) == ["tuning", "screening", "final"]
    assert any("minutes" in sentence for sentence in said)
    results = {step: pd.read_csv(out / step / "results.csv") for step in ("tuning", "screening", "final")}
    seeds = [set(frame["seed"]) for frame in results.values()]
    assert not seeds[0] & seeds[1]
    assert not (seeds[0] | seeds[1]) & seeds[2]
    assert {"human", "human-shuffled", "kmeans", "kmeans-shuffled"} <= set(results["screening"]["method"])
    final = results["final"].pivot_table(index="seed", columns="method", values="test_accuracy")
    assert given["difference"] == pytest.approx((final["human"] - final["single"]).mean())
    assert given["seeds"] == len(final) >= 5
    page = write_advice(out).read_text()
    assert re.search(
        r'data-answer="yes"><p class="answer">Yes: human is better than tuned single-task training by', page
    )
    assert f"{given['sentences'][0][1:]}" in page  # its first letter is a capital there
    assert "Use human." in page
    trained = len(runs.trained)
    assert advise(base, out, budget=2e6, tell=said.append) == given
    assert "chosen by the test part" in said[-1]
    assert len(runs.trained) == trained
    with pytest.raises(
        ValueError, match=r"--out needs a new folder or one of the same advice.*epochs 1, not 2"
    ):
        advise(config(tmp_path / "data", human="breed", epochs=2), out)


def test_learned_labels_are_left_out_where_nothing_can_help(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={"kmeans": -0.03})
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6)
    assert (given["verdict"], given["method"]) == ("does not help", "uniform")
    assert given["sentences"][1:] == [
        "Finer labels show no effect here: on validation data none that was tried can gain 1 point; learned labels were "
        "not run."
    ]
    assert given["recommended"] == "single"
    assert runs.seeds("maxl", 2000) == []
    assert len(runs.seeds("uniform", 2000)) < len(SCREENING_SEEDS)  # fewer are enough to know


def test_seeds_are_added_while_it_is_open_and_the_budget_holds_them(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={}, noise=0.05)
    data = folder(tmp_path / "data")
    given = advise(config(data), tmp_path / "much", budget=1e6)
    assert runs.seeds("uniform", 2000) == list(SCREENING_SEEDS)
    assert runs.seeds("maxl", 2000) == list(SCREENING_SEEDS)
    assert given["seeds"] == len(FINAL_SEEDS)
    runs = pretend(gains={}, noise=0.05, seconds=60)
    given = advise(config(data), tmp_path / "little", budget=75, jobs=1)
    assert runs.seeds("uniform", 2000) == [2000, 2001, 2002, 2003, 2004]
    assert runs.seeds("maxl", 2000) == []
    short = next(s for s in given["sentences"] if s.startswith("Learned labels were left out: the budget is"))
    more = int(re.search(r"about (\d+) minutes short of them", short)[1])  # type: ignore[index]
    assert 0 < more <= math.ceil(len(procedure.LEARNED) * 5 * max(COST.values()))
    assert 6 <= given["seeds"] < len(FINAL_SEEDS)
    assert given["minutes"] == pytest.approx(runs.now / 60)
    assert given["minutes"] <= 75
    assert given["predicted_minutes"] <= 75


def test_where_all_goes_as_usual_it_takes_as_long_as_was_predicted(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    pretend(gains={}, noise=0.004, seconds=30)
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6, jobs=1)
    assert given["verdict"] == "does not help"
    assert 1 / 1.5 < given["minutes"] / given["predicted_minutes"] < 1.5


def test_an_interrupted_advice_goes_on_where_it_stopped(pretend: Callable[..., Runs], tmp_path: Path) -> None:
    runs = pretend(gains={"kmeans": 0.03})
    base, out = config(folder(tmp_path / "data")), tmp_path / "out"

    def interrupt(step: str, done: int, total: int, note: str) -> None:
        if step == "screening":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advise(base, out, budget=1e6, progress=interrupt)
    begun = json.loads((out / "plan.json").read_text())
    assert begun["learning_rate"] > 0
    resumed = advise(base, out, budget=1e6)
    keys = [(c.method, c.seed, c.learning_rate) for c in runs.trained]
    assert len(keys) == len(set(keys))  # nothing twice
    whole = advise(base, tmp_path / "whole", budget=1e6)
    for name in ("verdict", "method", "difference", "interval", "learning_rate", "seeds"):
        assert resumed[name] == whole[name], name
    assert resumed["minutes"] * 60 > begun["seconds"]


def test_the_command_ends_in_one_verdict(
    pretend: Callable[..., Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(gains={"human": 0.03})
    data, out = str(folder(tmp_path / "data")), str(tmp_path / "out")
    flags = ["--data", data, "--primary", "label", "--human", "breed", "--trunk", "mlp", "--epochs", "1"]
    assert main(["advise", *flags, "--budget", "900", "--jobs", "1", "--out", out]) == 0
    told = capsys.readouterr()
    assert told.out.count("helps: human against single, accuracy") == 1
    _, box, _ = re.split("[╭╰]", told.out)  # the box alone has corners
    assert "human beats tuned single-task training by" in box
    within = re.sub(r"[\s│]+", " ", box)
    assert re.search(r"; against human-shuffled: \+[0-9.]+ points \(\+[0-9.]+ to \+[0-9.]+\)", within)
    assert "At what cost: 1.0 times single-task training. This advice took" in within
    assert "Next: Use human." in within
    assert (tmp_path / "out" / "report.html").exists()
    assert "usually about 1.2: single-task training is tuned" in told.err
    assert main(["advise", *flags, "--aim", "noise", "--out", str(tmp_path / "other")]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("maxl: error: --aim noise needs samples whose labels are right")
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"aim": "speed"}, "--aim needs to be one of"),
        ({}, {"aim": "noise"}, "--aim noise needs samples whose labels are right: name the column"),
        (
            {"trusted": "breed", "evaluate": "held-out"},
            {"aim": "noise"},
            "lets trusted samples judge: drop --evaluate held-out",
        ),
        ({}, {"aim": "structure"}, "--aim structure needs a column to look for: name it with --probe"),
        ({}, {"budget": 0.0}, "--budget needs to be a number of minutes above 0"),
        ({}, {"budget": math.nan}, "--budget needs to be a number of minutes above 0"),
        ({}, {"jobs": 0}, "--jobs needs to be at least 1"),
        ({}, {"budget": 1e-6}, "--budget 1e-06 is too little: the shortest answer takes about"),
        ({"probe": "bred"}, {}, "no column 'bred'"),
    ],
)
def test_advice_that_cannot_be_given_writes_nothing(
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = config(folder(tmp_path / "data"), **changes)
    monkeypatch.setattr(procedure, "time_runs", lambda _: (1.0, 0.0))
    with pytest.raises(ValueError, match=message):
        advise(base, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_no_seed_serves_two_steps() -> None:
    seeds = [*TUNING_SEEDS, *SCREENING_SEEDS, *FINAL_SEEDS]
    assert len(seeds) == len(set(seeds))


def test_advice_on_a_small_test_part_does_not_say_that_nothing_helps(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={}, noise=1e-5, test_samples=8, validation_samples=6)
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6)
    assert given["verdict"] == "cannot tell"
    [sentence] = given["sentences"]  # not that nothing can gain a point, by six samples
    assert re.fullmatch(
        rf"cannot tell whether {given['method']} helps: \S+ points \(.*\) over 6 seeds, but the test part has 8 samples, "
        "too few to exclude a gain of 1 point.",
        sentence,
    )
    assert runs.seeds("maxl", 2000)  # nothing says that they need not be tried
    assert not json.loads((tmp_path / "out" / "plan.json").read_text())["screening"]["no_effect"]


def test_learned_labels_are_reckoned_with_where_validation_cannot_exclude_them(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    base, predicted = config(folder(tmp_path / "data")), []
    for samples in (299, 300):
        pretend(gains={}, noise=1e-5, validation_samples=samples, seconds=30)
        given = advise(base, tmp_path / str(samples), budget=1e6, jobs=1)
        predicted.append(given["predicted_minutes"])
    assert predicted[0] > 1.5 * predicted[1]


def test_time_is_predicted_where_few_samples_leave_everything_open(
    pretend: Callable[..., Runs], tmp_path: Path
) -> None:
    runs = pretend(gains={}, noise=0.05, test_samples=8, validation_samples=6, seconds=30)
    given = advise(config(folder(tmp_path / "data")), tmp_path / "out", budget=1e6, jobs=1)
    assert runs.seeds("maxl", 2000) == list(SCREENING_SEEDS)
    assert 1 / 1.5 < given["minutes"] / given["predicted_minutes"] < 1.5
