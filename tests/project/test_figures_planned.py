"""What the pages say of studies that were planned is what their recorded runs say."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pandas as pd

from _figure_helpers import EVIDENCE, between, page, pair, results, shown, versus, within
from _figure_helpers import script as script
from maxl.experiments.studies.intervals import (
    PairedDifference,
    mean_interval,
    paired_difference,
    paired_differences,
)


def test_the_page_of_evidence_says_what_the_study_of_the_papers_regime_found(
    script: Callable[[str], ModuleType],
) -> None:
    regime = script("regime")
    found, text = regime.results(), page("docs/evidence.md")
    assert {name: len(of) for name, of in found.items()} == dict.fromkeys(
        (*regime.ARMS, *regime.TUNED_ARMS), 8
    )
    assert [said.endswith("True") for said in regime.answers()] == [True] + [False] * 5
    compared = regime.compared(found)
    shown_pairs = {pair for pairs in compared.values() for pair, d in pairs.items() if d.claimed}
    below = {(arm, "trunk-10") for arm in ("uniform", "human", "maxl")}
    gains = {("trunk-10", "single"), ("uniform-4", "single")}
    assert shown_pairs == {*gains, *below, ("wamal", "uniform-wamal")}
    steps, head = compared["step size"], compared["second head"]
    assert {f"{-steps[pair].mean:.1f}" for pair in below} == {"3.3", "3.4"}
    for d in (steps["trunk-10", "single"], head["uniform-4", "single"]):
        assert f"{d.mean:.2f} ({between(d)})" in text
    least = [compared["information"][pair].high for pair in regime.INFORMATION if pair[0] != "wamal"]
    assert "gains of 0.7 to 1.2 points from information are not excluded" in text
    assert (round(min(least), 1), 1.2 <= max(least) < 1.35) == (0.7, True)
    means = {arm: mean_interval(of.values()).mean for arm, of in found.items()}
    assert max(means, key=means.__getitem__) == "tuned-single"
    assert f"has {means['tuned-single']:.2f} %, the highest mean of all" in text
    assert max(regime.ARMS, key=means.__getitem__) == "trunk-10"
    for arm, signed in (
        ("duplicate", False),
        ("twice", False),
        ("human", False),
        ("uniform", True),
        ("maxl", True),
    ):
        d = paired_difference(found[arm], found["single"])  # by itself
        assert d.low > 0, arm
        told = f"{shown(d.mean)} ({between(d)})" if signed else f"{d.mean:.2f} ({between(d)})"
        assert told in text, arm
    wamal = paired_difference(found["wamal"], found["single"])
    assert f"WAMAL is not shown to ({within(wamal)})" in text
    assert not wamal.claimed
    for a, b in regime.INFORMATION:
        assert shown(paired_difference(found[a], found[b]).mean) in text
    readme, guide = page("README.md"), page("docs/guide.md")
    assert "WAMAL is not shown to gain here" in readme
    step, gain = steps["trunk-10", "single"], head["uniform-4", "single"].mean
    assert f"gains {step.mean:.1f} points ({step.low:.1f} to {step.high:.1f})" in readme
    assert f"at weight 4, gain {gain:.1f}, and no second head is shown to gain more" in readme
    assert f"tuned single-task training ({means['tuned-single']:.1f} %;" in readme
    assert f"learning rate gains {step.mean:.1f} points; uniform labels at weight 4" in guide
    assert f"gain {gain:.1f}. No labels are shown to be above" in guide
    tuned = regime.compared(found)["tuned"]
    assert not any(d.claimed for d in tuned.values())
    ends = [tuned[f"tuned-{m}", "tuned-single"] for m in ("uniform", "human", "maxl")]
    assert (
        f"between {-max(d.mean for d in ends):.2f} and {-min(d.mean for d in ends):.2f} points below" in text
    )
    assert "gains of {:.1f}, {:.1f} and {:.1f} points".format(*(d.high for d in ends)) in text


def test_the_pages_say_what_the_study_by_heart_found(script: Callable[[str], ModuleType]) -> None:
    study = script("by_heart")
    assert study.answers() == [
        "the gate is open: people's classes are above uniform labels",
        "it is what they say: True",
        "prototypes is dropped",
        "learned labels help: False",
    ]
    found = results("by-heart")
    assert {len(of) for of in found.values()} == {20}

    def d(a: str, b: str) -> PairedDifference:
        return paired_difference(found[a], found[b])

    gate, said = d("human", "uniform"), d("human", "human-shuffled")
    evidence, guide = page("docs/evidence.md"), page("docs/guide.md")
    assert f"(p = {gate.p:.3f} and {said.p:.3f}, each by itself" in evidence
    assert f"by {gate.mean:.2f} points ({between(gate)}), and learned ones were not" in evidence
    assert (
        f"it is {gate.mean:.2f} points ({between(gate)}) over uniform labels and {said.mean:.2f} ({between(said)})"
        in guide
    )
    assert within(d("prototypes", "prototypes-shuffled")) in guide
    assert f"({within(d('prototypes', 'kmeans'))}, by itself" in evidence
    assert (
        f"a quarter of a point above uniform labels (planned, 20 fresh seeds: {between(gate)} by itself;"
        in page("README.md")
    )
    arms = [arm for arm in found if arm != "single"]
    single = dict(zip(arms, paired_differences([(found[arm], found["single"]) for arm in arms]), strict=True))
    assert [arm for arm, of in single.items() if of.claimed] == ["kmeans"]
    assert f"Clusters cost accuracy ({shown(single['kmeans'].mean)} against single)" in evidence
    trained = pd.read_csv(EVIDENCE / "by-heart.csv").groupby("method").train_accuracy.mean()
    assert (f"{100 * trained.min():.0f}", f"{100 * trained.max():.0f}") == ("85", "87")


def test_the_page_of_evidence_says_what_the_study_of_wrong_labels_found() -> None:
    text = page("docs/evidence.md").partition("## Labels that are partly wrong")[2].partition(" ## ")[0]
    for name in ("digits-structured", "digits-symmetric", "mnist-structured"):
        assert within(pair(f"noise-{name}", "fine-tuned", "single")) in text, name
    assert within(pair("noise-digits-symmetric", "gce", "single")) in text
    values = results("noise-digits-structured")
    of_both = paired_difference(values["corrected"], values["fine-tuned"], comparisons=4)
    assert f"in an interval likewise {between(of_both)}" in text
    for name, arm, other in (
        ("digits-symmetric", "agreement", "gce"),
        ("digits-symmetric", "agreement+corrected", "agreement"),
        ("digits-symmetric", "agreement+corrected", "gce"),
        ("digits-structured", "agreement+corrected", "fine-tuned"),
        ("mnist-structured", "agreement+corrected", "fine-tuned"),
    ):
        values = results(f"noise-{name}")
        d = paired_difference(values[arm], values[other], comparisons=11)
        assert within(d) in text or versus(d) in text, (name, arm, other)


def test_the_page_of_evidence_says_what_the_second_study_of_wrong_labels_found() -> None:
    text = page("docs/evidence.md").partition("## Labels that are partly wrong")[2].partition(" ## ")[0]
    for name in ("digits-structured", "digits-symmetric", "mnist-structured"):
        values = results(f"noise-{name}") | results(f"noise-more-{name}")
        stopped = [(values["early-stopped"], values[other]) for other in ("fine-tuned", "single")]
        assert all(versus(d) in text for d in paired_differences(stopped)), name
        best = max(set(values) - {"corrected", "reweighted"}, key=lambda arm: sum(values[arm].values()))
        assert best != "early-stopped"  # so that the first study's comparisons stand
    cheap, learned = ("early-stopped", "small-loss", "gce", "agreement"), ("corrected", "reweighted")
    for name, best in (("digits-structured", "early-stopped"), ("digits-symmetric", "gce")):
        values = results(f"noise-more-{name}-untrusted")
        assert {len(found) for found in values.values()} == {20}
        against = {
            arm: d
            for arms in (cheap, learned)
            for arm, d in zip(
                arms, paired_differences([(values[a], values["single"]) for a in arms]), strict=True
            )
        }
        assert all(versus(d) in text for d in against.values()), name
        assert not any(against[arm].low > 0 for arm in cheap)
        assert best == max((*cheap, "single"), key=lambda arm: sum(values[arm].values()))
        beside = paired_differences([(values[arm], values[best]) for arm in learned])
        assert all(within(d) in text for d in beside), name


def test_the_page_of_evidence_says_what_the_study_of_structure_found() -> None:
    text = page("docs/evidence.md").partition("## Structure that nobody trains on")[2].partition(" ## ")[0]
    beside = {
        name: (results(f"structure-{name}", "test_probe"), results(f"structure-{name}-inputs", "test_probe"))
        for name in ("clinc150", "cifar100")
    }
    for name, arms in (("clinc150", ("kmeans", "single", "uniform", "human")), ("cifar100", ("single",))):
        probes, inputs = beside[name]
        for arm in arms:
            d = paired_difference(probes[arm], inputs["inputs"], comparisons=11)
            assert f"{arm} {versus(d)}" in text or f"{arm} {within(d)}" in text, (name, arm)
    for name, column, a, b in (
        ("clinc150", "test_probe", "kmeans", "single"),
        ("clinc150", "test_probe", "kmeans", "uniform"),
        ("clinc150", "test_probe", "uniform", "single"),
        ("clinc150", "test_accuracy", "human", "single"),
        ("cifar100", "test_accuracy", "human", "single"),
        ("cifar100", "test_probe", "kmeans", "single"),
        ("cifar100", "test_accuracy", "kmeans", "single"),
        ("clinc150", "test_accuracy", "kmeans", "single"),
        ("clinc150", "test_accuracy", "kmeans", "uniform"),
        ("clinc150", "test_accuracy", "prototypes", "kmeans"),
        ("clinc150", "test_probe", "prototypes-contrastive", "prototypes-contrastive-shuffled"),
        ("cifar100", "test_probe", "prototypes", "kmeans"),
        ("cifar100", "test_accuracy", "prototypes", "kmeans"),
        ("clinc150", "test_probe", "maxl", "uniform"),
        ("cifar100", "test_probe", "maxl", "uniform"),
    ):
        d = pair(f"structure-{name}", a, b, column)
        assert shown(abs(d.mean), 2, "-") in text, (name, column, a, b)
        assert between(d) in text, (name, column, a, b)


def test_the_pages_say_what_corrections_on_top_of_agreement_gain(script: Callable[[str], ModuleType]) -> None:
    study = script("on_top")
    assert study.finished() == list(study.SETTINGS)
    gains = {name: study.compared(name) for name in study.SETTINGS}
    assert all(list(versus) == ["agreement"] and versus["agreement"].low > 0 for versus in gains.values())
    digits, mnist = (versus["agreement"] for versus in gains.values())
    p = [digits.p, min(1.0, 2 * mnist.p)]
    assert (mnist.p < digits.p, f"p = {p[0]:.3f} and {p[1]:.3f} after Holm" in page("docs/evidence.md")) == (
        True,
        True,
    )
    words = (
        "learned corrections add {:.1f} points to that filtering ({:.1f} to {:.1f}, digits, {} fresh seeds)"
    )
    assert words.format(digits.mean, digits.low, digits.high, digits.n) in page("README.md")
    assert f"adds {digits.mean:.2f} (digits) and {mnist.mean:.2f} points (MNIST) to the filtering" in page(
        "docs/guide.md"
    )
    assert f"and {mnist.mean:.1f} ({mnist.low:.1f} to {mnist.high:.1f}, MNIST, {mnist.n})" in page(
        "README.md"
    )
