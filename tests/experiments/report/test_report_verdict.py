"""The decision on top: what it says of studies that show something, nothing, or too little, and that its commands work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from _report_helpers import write_run
from _run_helpers import runs_here
from maxl.experiments.cli import main
from maxl.experiments.report.markdown import markdown
from maxl.experiments.report.page import page, sections
from maxl.experiments.report.parts import Decision
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.summary import found as what_was_found
from maxl.experiments.report.verdict import Verdict, verdicts
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.studies.study import Study

NAMES = ("uniform", "maxl", "human", "random")


def judged(folder: Path, accuracies: Mapping[str, list[float]], **summary: object) -> Verdict:
    """The verdict on methods with these test accuracies, one a seed."""
    for method, values in accuracies.items():
        for seed, value in enumerate(values):
            psi = None if method == "single" else 3
            write_run(
                folder / f"{method}{seed}",
                method=method,
                seed=seed,
                psi=psi,
                test_accuracy=value,
                seconds_total=120.0 if method == "maxl" else 60.0,
                bare=True,
                **summary,
            )
    (found,) = verdicts(load_study(folder))
    return found


SINGLE = [0.800, 0.810, 0.795, 0.805, 0.802]


def above(by: float, jitter: float = 0.001) -> list[float]:
    """Accuracies that lie above single-task training's by about so much."""
    return [value + by + jitter * sign for value, sign in zip(SINGLE, (1, -1, 0, 2, -2), strict=True)]


def test_a_method_that_helps_is_named_with_its_gain_and_its_cost(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(0.0005, 0.0004), "maxl": above(0.04)})
    facts = dict(found.facts)
    assert found.answer == "yes"
    assert found.headline == "Yes: maxl is better than single-task training by 4 points."
    assert facts["By how much"].startswith("+4.0 points (+")
    assert "2 comparisons, 5 seeds" in facts["By how much"]
    assert facts["At what cost"].startswith("2.0 minutes a run of maxl, 2.0 times single; 1.0 minutes")
    assert "took 20 minutes of training" in facts["At what cost"]
    assert found.advice.startswith("Use maxl.")


@pytest.mark.parametrize(("gain", "told"), [(0.004, True), (0.008, True), (0.0095, False)])
def test_a_gain_that_is_shown_and_below_a_point_is_told_to_be_little(
    gain: float, told: bool, tmp_path: Path
) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(gain, 0.0005), "maxl": above(0.0)})
    assert found.answer == "yes"
    assert found.headline.endswith("The gain is less than 1 point, too little to act on.") == told
    assert found.advice.startswith("Use uniform where so little counts." if told else "Use uniform.")


def test_a_gain_that_a_control_has_too_is_the_controls(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(0.039), "maxl": above(0.04)})
    assert found.headline.startswith("Yes, but not shown to be for what its labels say: maxl is better")
    assert "not shown to beat uniform, which is better by 3.9 points" in found.headline
    assert found.advice.startswith("Use uniform.")


@pytest.mark.parametrize("method", ["uniform", "random", "kmeans-shuffled"])
def test_of_labels_that_say_nothing_no_more_is_said_than_that_they_do_it(method: str, tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, method: above(0.04), "maxl": above(0.01)})
    assert found.headline == (
        f"Yes: {method} is better than single-task training by 4 points. Labels that say nothing do it: it takes none that "
        "say something."
    )
    assert "second head" not in found.headline  # nor is it shown not to be the length of the steps


@pytest.mark.parametrize("method", ["contrastive", "frozen"])
def test_a_control_whose_labels_say_something_is_not_said_to_do_without(method: str, tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(0.01, 0.0004), method: above(0.04)})
    assert found.headline == f"Yes: {method} is better than single-task training by 4 points."
    level = judged(tmp_path / "level", {"single": SINGLE, method: above(0.0395), "prototypes": above(0.04)})
    assert level.headline.startswith(
        "Yes: prototypes is better than single-task training by 4 points, and is not"
    )
    assert f"not shown to beat {method}, which is better by 4 points." in level.headline
    alone = judged(tmp_path / "alone", {"single": SINGLE, method: above(0.04)})
    assert alone.headline.endswith("No control was run, so labels that say nothing may do the same.")


def test_a_gain_without_a_control_asks_for_one(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "maxl": above(0.04)})
    assert "No control was run" in found.headline
    assert found.command is not None
    assert "--methods single uniform maxl" in found.command
    assert "--seeds 5 6 7 8 9" in found.command  # that nothing was seen of


@pytest.mark.parametrize(
    ("gain", "samples", "answer", "said"),
    [
        (0.0, 300, "no", "No: the other method does not gain 1 point or more"),
        (
            0.0,
            299,
            "cannot tell",
            "Cannot tell: the test part has 299 samples, too few to exclude a gain of 1 point.",
        ),
        (0.04, 125, "yes", "Yes: uniform is better"),
        (
            0.04,
            60,
            "cannot tell",
            "Cannot tell: uniform is better than single-task training by 4 points in these seeds, but the test part has "
            "60 samples, and a gain on fewer than 5 of them",
        ),
    ],
)
def test_a_small_test_part_shows_nothing_however_many_seeds_agree(
    tmp_path: Path, gain: float, samples: int, answer: str, said: str
) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(gain, 0.0001)}, test_size=samples)
    assert found.answer == answer
    assert found.headline.startswith(said)
    if answer == "cannot tell":
        assert found.advice.startswith("Keep single. More seeds would not help: a larger test part would.")


@pytest.mark.parametrize(
    ("others", "constant", "answer"),
    [
        ({"uniform": above(0.0, 0.0004), "maxl": above(0.001)}, 0.795, "cannot tell"),
        ({"uniform": above(0.0, 0.0004), "maxl": above(0.001)}, 0.78, "no"),  # there is something to compare
        ({"uniform": above(0.0, 0.0004), "maxl": above(0.05)}, 0.86, "yes"),  # what is shown is shown
        ({"uniform": above(-0.03)}, 0.86, "no"),
    ],
)
def test_where_nothing_is_learned_yet_nothing_is_compared(
    others: Mapping[str, list[float]], constant: float, answer: str, tmp_path: Path
) -> None:
    found = judged(tmp_path, {"single": SINGLE, **others}, test_constant=constant)
    assert found.answer == answer
    assert found.headline.startswith("Cannot tell: nothing is learned yet") == (answer == "cannot tell")
    if answer == "cannot tell":
        assert found.advice.startswith("Train longer, or at another learning rate")


def test_where_one_answer_is_nearly_always_right_little_is_much(tmp_path: Path) -> None:
    near = [0.9985, 0.9984, 0.9986, 0.9985, 0.9983]
    found = judged(tmp_path, {"single": near, "maxl": [v + 0.0001 for v in near]}, test_constant=0.991)
    assert "nothing is learned" not in found.headline


def test_where_nothing_differs_no_method_is_named(tmp_path: Path) -> None:
    others = {name: above(0.0002 * i) for i, name in enumerate(NAMES)}
    found = judged(tmp_path, {"single": SINGLE, **others})
    assert found.answer == "no"
    assert found.headline == "No: none of 4 methods gains 1 point or more on single-task training."
    assert not any(name in found.headline for name in NAMES)
    assert not any(name in dict(found.facts)["By how much"] for name in NAMES)
    assert found.advice.startswith("Keep single: none of 4 methods gains 1 point.")
    one = judged(tmp_path / "one", {"single": SINGLE, "uniform": above(0.0002)})
    assert one.advice.startswith("Keep single: the other method does not gain 1 point.")


def test_a_method_that_is_worse_is_named(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(0.0), "maxl": above(-0.03)})
    assert found.headline.startswith("No: maxl is worse than single-task training by 3 points; no other")


def test_a_difference_that_was_found_is_said_beside_those_that_were_not(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(-0.2), "maxl": above(0.004, 0.012)})
    assert found.answer == "cannot tell"
    assert found.headline.startswith("Cannot tell of maxl: this study would have found a difference of")
    assert found.headline.endswith("uniform is worse than single-task training by 20 points.")
    assert "−20" in dict(found.facts)["By how much"]


def test_a_study_that_is_too_small_says_what_it_could_have_found(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "uniform": above(0.003, 0.01), "maxl": above(0.004, 0.012)})
    study = load_study(tmp_path)
    largest = study.settings[0].comparisons.query("reference == 'single'")["detectable"].max()
    size = study.settings[0].measure.difference_text(largest)
    assert found.answer == "cannot tell"
    assert (
        found.headline
        == f"Cannot tell: this study would have found a difference of {size} or more, and found none."
    )
    assert dict(found.facts)["Smallest difference to be found"].startswith(
        f"{size}, with 80 % power, 5 seeds"
    )
    assert not any(name in found.headline for name in NAMES)
    assert "new seeds" in found.advice
    assert found.command is not None
    seeds = shlex.split(found.command.split("--seeds ")[1].split(" --out")[0])
    assert [int(seed) for seed in seeds] == list(range(5, 5 + len(seeds)))
    assert len(seeds) > 5


def test_what_a_further_study_leaves_out_is_named(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "random": above(0.005, 0.004), "maxl": above(-0.02)})
    assert found.answer == "cannot tell"
    assert "(maxl cannot gain 1 point and is left out):" in found.advice
    assert found.command is not None
    assert "--methods single random --seeds" in found.command


def test_more_seeds_than_anybody_trains_are_not_asked_for(tmp_path: Path) -> None:
    found = judged(tmp_path, {"single": SINGLE, "maxl": above(0.01, 0.08)})
    assert found.answer == "cannot tell"
    assert "more than 100 seeds" in found.advice


@pytest.mark.parametrize(
    ("accuracies", "headline"),
    [
        ({"single": SINGLE[:1], "maxl": above(0.1)[:1]}, "Cannot tell: one seed says nothing"),
        ({"single": SINGLE[:2], "maxl": [0.81, 0.82]}, "Cannot tell: 2 seeds agree, but are too few"),
        ({"maxl": SINGLE}, "Nothing to compare: maxl alone was run: test accuracy 80.24 %."),
        ({"human": SINGLE, "maxl": SINGLE}, "Nothing to compare: neither single-task training nor a control"),
        ({"single": SINGLE, "maxl": SINGLE}, "Cannot tell: 5 seeds agree on no difference, but are too few"),
        (
            {"single": [*SINGLE, 0.8], "maxl": [*SINGLE, 0.8]},
            "No: the other method does not gain 1 point or more",
        ),
    ],
)
def test_what_cannot_be_said_is_not_said(
    accuracies: dict[str, list[float]], headline: str, tmp_path: Path
) -> None:
    found = judged(tmp_path, accuracies)
    assert found.headline.startswith(headline)
    assert found.command is not None or found.answer == "no"


def test_several_settings_are_summed_and_each_is_there(tmp_path: Path) -> None:
    for psi, by in ((2, 0.05), (3, 0.0)):
        for seed, value in enumerate(SINGLE):
            write_run(
                tmp_path / f"m{psi}{seed}", seed=seed, psi=psi, test_accuracy=above(by)[seed], bare=True
            )
            if psi == 2:
                write_run(
                    tmp_path / f"s{seed}",
                    method="single",
                    seed=seed,
                    psi=None,
                    test_accuracy=value,
                    bare=True,
                )
    study = load_study(tmp_path)
    (box,) = sections(study)[0].parts
    assert isinstance(box, Decision)
    assert box.headline == "Yes in 1, no in 1 of 2 settings, each looked at by itself."
    assert [detail.answer for detail in box.details] == ["yes", "no"]
    for text in (page(study), markdown(study)):
        assert "Yes in 1, no in 1 of 2 settings" in text


def tiny(method: str, seed: int) -> RunConfig:
    return RunConfig(
        train_size=40,
        psi=(2,),
        trunk="mlp",
        epochs=1,
        device="cpu",
        tensorboard=False,
        method=method,
        seed=seed,
    )


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a study one after another here: starting processes takes longer than the runs."""
    runs_here(monkeypatch)


@pytest.mark.usefixtures("in_this_process")
def test_the_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Study(tiny("maxl", 0), ["single", "maxl"], [0]).run(Path("study"), jobs=1)
    (found,) = verdicts(load_study(Path("study")))
    assert found.headline.startswith("Cannot tell: one seed")
    assert found.command is not None
    words = shlex.split(found.command)
    assert words[:2] == ["maxl", "compare"]
    at = words.index("--seeds")
    assert words[at + 1 : at + 6] == ["1", "2", "3", "4", "5"]
    assert (
        main([*words[1 : at + 2], *words[at + 6 :], "--jobs", "1"]) == 0
    )  # the first alone, for the test's time
    assert {(run.method, run.seed) for run in load_study(Path("study-2")).runs} == {
        ("single", 1),
        ("maxl", 1),
    }
    (alone,) = verdicts(load_study(Path("study/runs/single/seed0")))
    assert alone.command is not None
    assert alone.command.endswith("--out study-3")  # beside the study, not within it


@pytest.mark.usefixtures("in_this_process")
def test_the_command_for_a_model_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Study(tiny("single", 0), ["single", "uniform"], [0, 1]).run(Path("study"), jobs=1)
    study = load_study(Path("study"))
    for run in study.runs:
        run.summary["test_accuracy"] = 0.5 + 0.1 * run.seed
    for setting in study.settings:
        rows = setting.comparisons
        rows[["difference", "low", "high", "wins", "losses"]] = 0
    (found,) = verdicts(study)
    assert found.command is not None
    assert main(shlex.split(found.command)[1:]) == 0
    assert Path("model.safetensors").is_file()


def test_findings_name_all_that_differs_and_what_few_samples_may_be_luck_with(tmp_path: Path) -> None:
    accuracies = {
        "single": SINGLE,
        "random": above(-0.05),
        "uniform": above(0.0005),
        "human": above(0.004, 0.0001),
        "maxl": above(0.0005),
    }
    found = judged(tmp_path, accuracies, test_size=700)
    assert found.headline.startswith("Cannot tell: human is better than single-task training by 0.4 points")
    [setting] = load_study(tmp_path).settings
    said = what_was_found(setting)
    assert any(sentence.startswith("human: better than single by 0.4 points") for sentence in said)
    assert any(sentence.startswith("random: worse than single by 5 points") for sentence in said)
    assert any(
        sentence.startswith("Of 700 test samples a difference on fewer than 5 may be luck")
        for sentence in said
    )
