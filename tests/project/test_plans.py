"""Studies with a plan: their arms are valid, they choose and report on different seeds, and the plan came first."""

from __future__ import annotations

import argparse
import importlib
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from maxl.experiments.runs.config import RunConfig

ROOT = Path(__file__).parents[2]
PLANS = ("by-heart", "noise", "noise-more", "on-top", "regime", "structure")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a study's script anew."""
    monkeypatch.syspath_prepend(str(ROOT / "dev"))

    def imported(name: str) -> ModuleType:
        module = name.replace("-", "_")
        for old in ("evidence", "planned", "noise", module):
            sys.modules.pop(old, None)
        return importlib.import_module(module)

    return imported


@pytest.fixture(params=PLANS)
def study(request: pytest.FixtureRequest, script: Callable[[str], ModuleType]) -> ModuleType:
    return script(request.param)


@pytest.fixture
def structure(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("structure")


def tables(name: str) -> list[Path]:
    return sorted((ROOT / "dev" / "evidence").glob(f"{name}*.csv"))


def test_seeds_that_choose_do_not_report(study: ModuleType) -> None:
    every = study.SEEDS.values() if isinstance(study.SEEDS, dict) else [study.SEEDS]
    for seeds in every:
        assert not set(seeds) & set(study.CHOOSING_SEEDS)


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_older_than_its_results(name: str) -> None:
    def first(path: Path) -> str:
        command = ["git", "log", "--format=%H", "--diff-filter=A", "--", str(path.relative_to(ROOT))]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if told.returncode or not told.stdout:
            pytest.skip(f"no history of {path.name} here: a copy without git, or not committed yet")
        return told.stdout.split()[-1]

    plan = first(ROOT / "dev" / "plans" / f"{name}.md")
    for table in tables(name):
        command = ["git", "merge-base", "--is-ancestor", plan, first(table)]
        assert first(table) != plan, table
        assert subprocess.run(command, cwd=ROOT).returncode == 0, table


def test_early_stopping_sets_aside_what_judges_and_nothing_is_trusted_where_nothing_is_known(
    script: Callable[[str], ModuleType],
) -> None:
    more = script("noise-more")
    for setting in more.SETTINGS:
        for arm in more.arms_of(setting):
            assert isinstance(more.config(setting, arm, {}, 0, None), RunConfig)
    digits = more.load_data(more.config("digits-structured-untrusted", "single", {}, 0, None))
    first = more.noise.spoiled("digits-structured", digits, 7, False)
    stopped = more.data_of("digits-structured", more.STOPPED, digits, 7)
    assert (len(stopped.train), len(stopped.validation)) == (1197, 100)  # 500 of 1,797 test
    assert stopped.validation.x.equal(first.train.x[first.train.trusted])
    assert stopped.test.x.equal(first.test.x)
    single = more.data_of("digits-structured-untrusted", "single", digits, 27)
    tenth = more.data_of("digits-structured-untrusted", more.STOPPED, digits, 27)
    assert single.validation is None
    assert (len(single.train), len(tenth.train), len(tenth.validation)) == (1297, 1168, 129)
    for data in (stopped, single, tenth):
        assert all(part is None or part.trusted is None for part in (data.train, data.validation, data.test))


def test_every_arm_of_the_study_by_heart_trains(script: Callable[[str], ModuleType]) -> None:
    study = script("by-heart")
    small = {**DIGITS, "trunk": "mlp", "channels_last": True}
    for arm in (*study.FIRST, *study.SECOND):
        assert isinstance(study.config(arm, 600, None), RunConfig)
        changes = {**small, **(HUMAN if arm.startswith("human") else {"psi": [2]})}
        assert 0 <= study.one("digits", arm, changes, 600, None)["test_accuracy"] <= 1, arm


def test_plans_say_in_which_precision_their_runs_were_made(script: Callable[[str], ModuleType]) -> None:
    heart, regime = script("by-heart"), script("regime")
    plans = {name: " ".join((ROOT / f"dev/plans/{name}.md").read_text().split()) for name in PLANS}
    assert {heart.config(arm, 600, None).precision for arm in (*heart.FIRST, *heart.SECOND)} == {"bf16"}
    assert "they multiply in bfloat16" in plans["by-heart"].partition("## Deviations")[2]
    for arms in (regime.PAPER, regime.TUNED):
        assert RunConfig.from_dict(arms).precision == "float32"
    assert "float32, one thread a run" in plans["regime"]


def test_every_arm_of_the_study_of_structure_is_valid(structure: ModuleType) -> None:
    for name in structure.SETTINGS:
        for arm in (*structure.ARMS, *structure.LATER):
            assert isinstance(structure.config(name, arm, {"learning_rate": 1e-3}, 0, None), RunConfig)
    assert set(structure.CHEAP) | set(structure.LEARNED) <= set(structure.ARMS)
    assert {arm for pair in structure.PAIRS for arm in pair} <= set(structure.ARMS)


@pytest.fixture
def small(script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The study of the paper's regime, on some digits instead."""
    regime = script("regime")
    monkeypatch.setattr(regime, "FILE", tmp_path / "regime.csv")
    regime.FILE.write_text("method,settings,seed,mean_weight\nwamal,,3,2.5\n")
    return regime


DIGITS = {"data": "digits", "image_size": None, "train_size": 60, "epochs": 1, "batch_size": 30}
HUMAN = {"primary": "half", "human": "label", "psi": [5]}


def test_every_arm_in_the_papers_regime_trains(small: ModuleType) -> None:
    for arm in {**small.ARMS, **small.TUNED_ARMS}:
        psi = {} if arm == "duplicate" else {"psi": [2]}
        changes = {**DIGITS, **(HUMAN if "human" in arm else psi)}
        row = small.one("regime", arm, changes, 3, None)
        assert 0 <= row["test_accuracy"] <= 1, arm
        assert (row["mean_weight"] != 1.0) == arm.startswith("wamal"), (arm, row["mean_weight"])


def test_tuned_arms_wait_for_all_that_chooses_their_settings(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"tuned-single,learning_rate=0.1,{seed},0.5" for seed in range(32)]
    monkeypatch.setattr(small, "CHOICE", tmp_path / "choice.csv")
    for count, said in ((0, False), (31, False), (32, True)):
        if count:
            small.CHOICE.write_text(
                "\n".join(["method,settings,seed,validation_accuracy", *rows[:count]]) + "\n"
            )
        assert small.chosen() == said
    small.CHOICE.unlink()
    trained: list[str] = []
    monkeypatch.setattr(small, "train", lambda file, arms, *_: trained.extend(arm for arm, _ in arms))
    options = {"seeds": [0], "data_dir": None, "jobs": 1}
    small.run(argparse.Namespace(arms=None, **options))
    assert not set(trained) & set(small.TUNED_ARMS)
    with pytest.raises(SystemExit, match="run choose"):
        small.run(argparse.Namespace(arms=["tuned-maxl"], **options))


def test_the_arms_of_the_papers_regime_are_what_their_names_say(small: ModuleType) -> None:
    def rates(arm: str) -> set[float]:
        settings = small.config(arm, {**DIGITS}, 3, None)
        trainer = small.Trainer(settings, small.RunFolder(small.FILE.parent / arm), small.load_data(settings))
        trainer.setup.set_learning_rates(0)
        return {group["lr"] for group in trainer.setup.optimizers[0].param_groups}

    assert rates("single") == {0.01}
    assert rates("trunk-5") == {0.05, 0.01}
    assert rates("twice") == {0.02}
    assert small.config("uniform-wamal", {**DIGITS}, 3, None).auxiliary_weight == 2.5


def test_the_rule_of_the_papers_regime_answers_its_three_questions(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(small, "CHOICE", tmp_path / "choice.csv")
    monkeypatch.setattr(small, "PICTURE", tmp_path / "regime.png")
    monkeypatch.setattr(small, "PAGE", tmp_path / "evidence.md")
    heads = ("| what it stands for | arm | test accuracy, % |", "| question | difference | points |")
    small.PAGE.write_text("\n|---|---|---|\n\n".join(heads) + "\n|---|---|---|\n\n")
    small.CHOICE.write_text("method,settings,seed,validation_accuracy\ntrunk-5,,100,0.4\ntrunk-2,,100,0.3\n")
    better = {"trunk-5": 0.05, "human": 0.01, "tuned-human": 0.01}

    def told(gains: dict[str, float], arms: list[str], seeds: int = 8) -> str:
        rows = [
            f"{arm},,{seed},{0.4 + gains.get(arm, 0) + random.Random(f'{arm} {seed}').uniform(0, 1e-3)}"
            for arm in arms
            for seed in range(seeds)
        ]
        small.FILE.write_text("\n".join(["method,settings,seed,test_accuracy", *rows]) + "\n")
        small.write(None)
        return capsys.readouterr().out

    every = [*small.ARMS, *small.TUNED_ARMS]
    assert {arm for arms in small.GROUPS.values() for arm in arms} == set(every)
    printed = told(better, every)
    assert "step size explains gains: True" in printed
    assert "a second head does: False" in printed
    assert "information, human against human-shuffled: True" in printed
    assert printed.count(": False") == 4
    assert (tmp_path / "regime.png").stat().st_size > 10_000
    printed = told({"uniform-4": 0.1, "trunk-5": 0.05}, every)
    assert "step size explains gains: False" in printed
    assert "a second head does: True" in printed
    printed = told(better, [arm for arm in every if arm != "wamal"])
    assert printed.startswith("not run: ")
    assert "wamal − uniform-wamal" in printed
    assert "explains gains" not in printed  # no answer from a part of the plan
    assert "explains gains" not in told(better, every, seeds=3)  # nor from a part of a block of seeds
    assert small.results() == {}
    told(better, every, seeds=6)  # of which two belong to a block that is not whole
    assert {tuple(found) for found in small.results().values()} == {(0, 1, 2, 3)}
    assert small.PAGE.read_text().count("| step size | trunk-5 |") == 1


def test_the_rule_of_the_study_of_structure_reads_its_tables(
    structure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(structure, "HERE", tmp_path)
    rows = [
        "method,settings,seed,test_probe,test_accuracy,validation_accuracy,label_nmi,test_worst_group,seconds_total"
    ]
    for i, arm in enumerate(structure.ARMS):
        better = 0.1 if arm == "human" else 0.2 if arm == "prototypes" else 0.0
        rows += [
            f"{arm},learning_rate=0.001,{seed},{0.5 + better + (7 * i + 3 * seed) % 5 / 1000},0.5,,,,1"
            for seed in range(6)
        ]
    structure.table_of("clinc150").write_text("\n".join(rows) + "\n")
    structure.write(None)
    printed = capsys.readouterr().out
    assert re.search(r"^human against uniform \+(9\.9|10\.)", printed, re.MULTILINE)
    assert re.search(r"^prototypes against prototypes-shuffled \+(19\.9|20\.)", printed, re.MULTILINE)
    assert "prototypes-contrastive against" in printed
    assert "clinc150: p of a gain = 0.0000 after Holm over settings" in printed


def test_the_probe_of_the_inputs_is_that_of_a_run(structure: ModuleType) -> None:
    structure.SETTINGS["clinc150"] = {**DIGITS, "primary": "half", "probe": "label", "psi": [5]}
    run = structure.one("clinc150", "single", {}, 3, None)
    assert 0.3 < run["test_probe_inputs"] <= 1
    assert (
        structure.probed("clinc150", structure.INPUTS, {}, 3, None)["test_probe"] == run["test_probe_inputs"]
    )


def table_of_arms(path: Path, columns: tuple[str, ...], means: dict[str, float]) -> None:
    """Six seeds an arm around a mean, in each of some columns."""
    rows = [
        f"{arm},learning_rate=0.001,{seed}"
        + f",{mean + random.Random(f'{arm} {seed}').uniform(0, 1e-3)}" * len(columns)
        for arm, mean in means.items()
        for seed in range(6)
    ]
    path.write_text("\n".join([",".join(("method", "settings", "seed", *columns)), *rows]) + "\n")


def test_harm_and_dropped_variants_are_no_support_for_learned_labels(
    structure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(structure, "HERE", tmp_path)
    level = dict.fromkeys(structure.ARMS, 0.5) | {"human": 0.6}
    better = level | {"prototypes": 0.502}  # by a fifth of a point, which six seeds show

    def p(of_clinc: dict[str, float], of_cifar: dict[str, float]) -> dict[str, str]:
        for name, means in (("clinc150", of_clinc), ("cifar100", of_cifar)):
            table_of_arms(structure.table_of(name), structure.OUTCOMES, means)
        structure.write(None)
        printed = capsys.readouterr().out
        assert printed.count("dropped by the gate of a variant: prototypes\n") == sum(
            means["prototypes"] <= means["prototypes-shuffled"] for means in (of_clinc, of_cifar)
        )
        return dict(
            re.findall(r"^(\w+): p of a gain = (\S+) after Holm over settings$", printed, re.MULTILINE)
        )

    harmful = level | {"prototypes": 0.3, "prototypes-contrastive": 0.3}
    dropped = level | {"prototypes": 0.7, "prototypes-shuffled": 0.9}
    alone = p(better, level)
    assert 0 < float(alone["clinc150"]) < 0.05
    for other in (harmful, dropped):
        assert p(better, other) == {"clinc150": alone["clinc150"], "cifar100": "1.0000"}


def test_harm_is_no_support_for_what_is_learned_against_wrong_labels(
    script: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    noise = script("noise")
    monkeypatch.setattr(noise, "HERE", tmp_path)
    arms = dict.fromkeys(noise.ARMS, 0.5) | {"fine-tuned": 0.6}
    for name, learned in (("digits-structured", 0.601), ("mnist-structured", 0.3)):
        means = arms | dict.fromkeys(noise.LEARNED, 0.3) | {"corrected": learned}
        table_of_arms(noise.table_of(name), ("test_accuracy",), means)
    noise.write(None)
    printed = capsys.readouterr().out
    [two_sided] = re.findall(r"^corrected against fine-tuned: \+.*, p = (\S+)$", printed, re.MULTILINE)
    found = dict(re.findall(r"^(\S+): p of a gain = (\S+) after Holm over settings$", printed, re.MULTILINE))
    assert found["mnist-structured"] == "1.0000"
    assert float(found["digits-structured"]) == pytest.approx(
        4 * float(two_sided), abs=3e-4
    )  # two arms, two settings


def test_the_rule_of_the_study_by_heart_goes_by_its_gates(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = script("by-heart")
    monkeypatch.setattr(study, "FILE", tmp_path / "by-heart.csv")

    def said(**gains: float) -> str:
        means = {arm.replace("_", "-"): 0.38 + gain for arm, gain in gains.items()}
        table_of_arms(study.FILE, ("test_accuracy",), means)
        return " / ".join(study.answers())

    first = {"single": 0.0, "uniform": 0.0}
    assert said(**first, human=0.0, human_shuffled=0.0).startswith("the gate is shut")
    opened = "the gate is open: people's classes are above uniform labels / it is what they say: "
    assert said(**first, human=0.02, human_shuffled=0.02) == f"{opened}False"
    assert said(**first, human=0.02, human_shuffled=0.0) == f"{opened}True"
    second = {**first, "human": 0.02, "human_shuffled": 0.0, "kmeans": 0.0}
    dropped = said(**second, prototypes=0.02, prototypes_shuffled=0.02)
    assert dropped == f"{opened}True / prototypes is dropped / learned labels help: False"
    passed = f"{opened}True / prototypes passes its gate / learned labels help: "
    assert said(**second, prototypes=0.02, prototypes_shuffled=0.0) == f"{passed}True"
    assert said(**{**second, "kmeans": 0.03}, prototypes=0.02, prototypes_shuffled=0.0) == f"{passed}False"
    tables = "\n".join(study.page())
    assert "| prototypes − kmeans | −1.0" in tables or "| prototypes − kmeans | −0.9" in tables
    assert tables.count("| human |") == 1
