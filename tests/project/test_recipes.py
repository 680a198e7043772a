"""The recipes: their flags, the runs they plan, and one of them from beginning to end."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from _data_helpers import write_cifar100_parquet
from _run_helpers import one_thread as one_thread
from _run_helpers import runs_here
from maxl.experiments.data import load
from maxl.experiments.studies.study import Study
from maxl.hierarchy import Hierarchy

ROOT = Path(__file__).parents[2]
NAMES = ("cifar100_hierarchy", "seven_datasets", "entropy_ablation")
BASELINES = ["single", "uniform", "frozen", "random", "kmeans", "prototypical", "human", "maxl"]


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipes can be imported, and are gone afterwards."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    yield
    for name in ("_common", *NAMES):
        sys.modules.pop(name, None)


def studies(name: str, *flags: str) -> dict[str, Study]:
    recipe = importlib.import_module(name)
    planned: dict[str, Study] = recipe.plan(recipe.parser().parse_args(flags))
    return planned


def test_the_help_as_a_user_asks_for_it() -> None:
    script = ROOT / "recipes" / f"{NAMES[0]}.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "--pairs" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_to_expect_and_from_where(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(name).parser().parse_args(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for part in ("expected, test accuracy", "77.4 %", "sRDCzh6gVw", "departs from the paper", "--fast"):
        assert part in text


@pytest.mark.parametrize("name", NAMES)
def test_every_run_has_the_papers_settings(name: str) -> None:
    for study in studies(name).values():
        assert study.seeds == [0, 1, 2]
        for run in study.plan():
            c = run.config
            assert (c.epochs, c.batch_size, c.gamma, c.train_size) == (200, 100, 2.0, None)
            assert (c.optimizer, c.learning_rate, c.momentum, c.weight_decay) == ("sgd", 0.01, 0, 0)
            assert (c.meta_optimizer, c.meta_learning_rate, c.meta_weight_decay) == ("sgd", 1e-3, 5e-4)
            assert c.decay == "step"
            assert (c.hypergradient, c.schedule, c.lookahead) == ("forward", "iteration", "update")


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_way_and_the_fast_way(name: str) -> None:
    for study in studies(name, "--authors").values():
        c = study.base
        assert (c.hypergradient, c.schedule) == ("reverse", "epochs")
        assert (c.lookahead, c.lookahead_rule, c.label_statistics) == ("virtual", "sgd", "batch")
        assert c.epochs == 200
    fast = studies(name, "--fast", "--trunk", "mlp", "--seeds", "7")
    for study in fast.values():
        c = study.base
        assert (c.train_size, c.epochs, c.trunk, study.seeds) == (1000, 10, "mlp", [7])
    assert sum(len(study.plan()) for study in studies(name, "--fast").values()) <= 30  # minutes, not hours


def test_the_hierarchy_plans_all_six_pairs(tmp_path: Path) -> None:
    planned = studies("cifar100_hierarchy")
    assert list(planned) == ["3-10", "3-20", "3-100", "10-20", "10-100", "20-100"]
    assert planned["3-10"].base.psi == (5, 1, 4)
    assert planned["20-100"].base.psi == (5,) * 20
    write_cifar100_parquet(tmp_path, per_fine_class=1)
    for name, study in planned.items():
        c = study.base
        assert study.methods == BASELINES
        assert (c.data, c.trunk, c.entropy_weight, len(study.plan())) == ("cifar100", "vgg16", 0.2, 24)
        data = load("cifar100", data_dir=tmp_path, primary=c.primary, human=c.human)
        assert name == f"{data.num_primary}-{data.num_human}"
        assert data.train.human is not None
        assert Hierarchy.from_labels(data.train.primary, data.train.human).psi == c.psi
    assert list(studies("cifar100_hierarchy", "--pairs", "3-10", "10-20")) == ["3-10", "10-20"]


def test_seven_data_sets_plan_four_psi_each() -> None:
    planned = studies("seven_datasets")
    names = ["mnist", "svhn", "cifar10", "cifar100", "imagenet32", "cinic10", "ucf101"]
    assert [study.base.data for study in planned.values()] == list(planned) == names
    assert planned["mnist"].base.trunk == "convnet4"
    assert planned["ucf101"].base.trunk == "resnet50"
    for study in planned.values():
        runs = [run for run in study.plan() if run.config.seed == 0]
        psi = {m: [r.config.psi for r in runs if r.config.method == m] for m in study.methods}
        assert psi["maxl"] == psi["frozen"] == psi["uniform"] == [(2,), (3,), (5,), (10,)]
        assert len(psi["single"]) == 1
    chosen = studies("seven_datasets", "--datasets", "svhn", "--psi", "4")
    assert [(name, study.grid) for name, study in chosen.items()] == [("svhn", {"psi": [4]})]


def test_the_ablation_crosses_psi_with_the_entropy_weight() -> None:
    planned = studies("entropy_ablation")
    (study,) = planned.values()
    runs = [run for run in study.plan() if run.config.seed == 0]
    maxl = [(r.config.psi, r.config.entropy_weight) for r in runs if r.config.method == "maxl"]
    assert maxl == [((k,), weight) for k in (2, 3, 5, 10, 20) for weight in (0.0, 0.2)]
    assert [run.config.method for run in runs].count("uniform") == 5
    assert [run.config.method for run in runs].count("single") == 1
    assert (study.base.primary, study.base.trunk) == ("coarse_label", "vgg16")


def test_a_recipe_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 1)
    write_cifar100_parquet(tmp_path / "cifar100", per_fine_class=1)
    recipe, common = importlib.import_module("cifar100_hierarchy"), importlib.import_module("_common")
    methods = ["single", "prototypical", "human", "maxl"]
    monkeypatch.setattr(recipe, "METHODS", methods)
    flags: list[Any] = ["--data-dir", tmp_path, "--out", tmp_path / "out", "--fast", "--device", "cpu"]
    flags += ["--pairs", "3-10", "--seeds", 0, "--epochs", 1, "--train-size", 60, "--trunk", "mlp"]
    assert common.main(recipe.parser(), recipe.plan, list(map(str, flags))) == 0
    out = tmp_path / "out"
    results = pd.read_csv(out / "results.csv").set_index("method")
    assert results.index.tolist() == methods
    assert results["psi"].fillna("").tolist() == ["", "", "", "[5, 1, 4]"]
    assert results["auxiliary_classes"].tolist() == [0, 10, 10, 10]
    cells = [f"{100 * accuracy:.2f}" for accuracy in results["test_accuracy"]]
    row = f"| 3-10 | 5 1 4 | {' | '.join(cells)} |"
    assert (out / "results.md").read_text().splitlines()[2:] == [row]
    assert row in capsys.readouterr().out
    assert (out / "3-10" / "report.html").stat().st_size > 10_000


def test_the_overview_keeps_studies_of_one_primary_task_apart() -> None:
    common = importlib.import_module("_common")
    rows = [
        *(("3-10", "single", None, 0, 0.5), ("3-10", "single", None, 1, 0.5)),
        *(("3-10", "maxl", "[5, 1, 4]", 0, 0.75), ("3-10", "maxl", "[5, 1, 4]", 1, 0.75)),
        *(("3-20", "single", None, 0, 0.625), ("3-20", "human", None, 0, 0.25)),
    ]
    frame = pd.DataFrame(rows, columns=["study", "method", "psi", "seed", "test_accuracy"])
    assert common.overview(frame.assign(data="cifar100", train_size=60)).splitlines() == [
        "| study | ψ | single | maxl | human |",
        "|---|---|---|---|---|",
        "| 3-10 | 5 1 4 | 50.00 ± 0.00 | 75.00 ± 0.00 |  |",
        "| 3-20 |  | 62.50 |  | 25.00 |",
    ]


def test_a_mistake_is_one_line_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, common = importlib.import_module("cifar100_hierarchy"), importlib.import_module("_common")
    flags = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--fast"]
    assert common.main(recipe.parser(), recipe.plan, flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("holds no cifar100: expected train*.parquet and test*.parquet, or cifar-100-python")
    assert not (tmp_path / "out").exists()


def documented() -> list[list[str]]:
    """Every recipe's command line in docs/recipes.md and in the recipes' docstrings."""
    pages = [ROOT / "docs" / "recipes.md", *sorted((ROOT / "recipes").glob("[a-z]*.py"))]
    lines = [line for page in pages for line in re.findall(r"python recipes/(.*)", page.read_text())]
    return [shlex.split(line) for line in lines]


def test_documented_commands_plan_runs() -> None:
    commands = documented()
    assert {words[0] for words in commands} == {f"{name}.py" for name in NAMES}
    for script, *flags in commands:
        assert all(study.plan() for study in studies(script.removesuffix(".py"), *flags).values())
