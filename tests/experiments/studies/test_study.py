"""Methods × seeds × settings: each run once, continued where it stopped, compared in pairs."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from _run_helpers import files, metrics, runs_here, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli.show import run_table, study_tables
from maxl.experiments.report.runs import load_study
from maxl.experiments.report.summary import limits
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.lock import locked
from maxl.experiments.runs.trainer import train
from maxl.experiments.studies.notes import origin_notes
from maxl.experiments.studies.study import Study
from maxl.experiments.studies.tables import divergences, write_tables
from maxl.experiments.studies.workers import device_count, run_jobs


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs one after another here: starting processes takes longer than the runs."""
    runs_here(monkeypatch)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 1)


def study(*methods: str, seeds: tuple[int, ...] = (0, 1), **options: Any) -> Study:
    grid = options.pop("grid", None)
    return Study(tiny(**{"epochs": 1, **options}), methods, seeds, grid)


def paths(study: Study) -> list[str]:
    return [str(p.path) for p in study.plan()]


def summaries(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in sorted(out.rglob("summary.json"))}


def test_a_plan_goes_seed_after_seed() -> None:
    assert paths(study("single", "maxl")) == [
        *("runs/single/seed0", "runs/maxl/seed0", "runs/single/seed1", "runs/maxl/seed1"),
    ]
    assert [(p.config.method, p.config.seed) for p in study("single", "maxl").plan()][1] == ("maxl", 0)


def test_a_grid_repeats_no_run_of_a_method_that_does_not_use_the_field() -> None:
    planned = study(
        "single", "random", "maxl", seeds=(0,), grid={"psi": [2, 5], "entropy_weight": [0.0, 0.2]}
    ).plan()
    assert [str(p.path) for p in planned if p.config.method == "single"] == ["runs/single/seed0"]
    assert [str(p.path) for p in planned if p.config.method == "random"] == [
        *("runs/psi=2/random/seed0", "runs/psi=5/random/seed0"),
    ]
    maxl = [p for p in planned if p.config.method == "maxl"]
    assert [(p.config.psi, p.config.entropy_weight) for p in maxl] == [
        *(((2,), 0.0), ((2,), 0.2), ((5,), 0.0), ((5,), 0.2)),
    ]
    assert maxl[0].label == "maxl entropy_weight=0"  # psi is a setting, lambda a variant of the method
    assert len({p.path for p in planned}) == len(planned) == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: study("mxl"), "--methods needs to be one of .*; did you mean 'maxl'"),
        (lambda: study("maxl", seeds=()), "at least one of --methods and one of --seeds"),
        (lambda: study(), "at least one of --methods and one of --seeds"),
        (lambda: study("maxl", seeds=(0, -3)), "--seeds needs numbers of at least 0; got -3"),
        (lambda: study("maxl", grid={"psy": [1]}), "--grid has an unknown field 'psy'; did you mean 'psi'"),
        (
            lambda: study("maxl", grid={"seed": [1]}),
            "--grid takes neither method nor seed; got 'seed': vary it by",
        ),
        (lambda: study("maxl", grid={"psi": [0]}).plan(), "--psi needs whole numbers of at least 1"),
        (lambda: study("maxl", grid={"epochs": ["x"]}).plan(), "--grid: epochs needs a value of kind int"),
    ],
)
def test_studies_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.usefixtures("in_this_process")
def test_a_study_trains_what_is_missing_and_writes_its_tables(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    results = study("single", "random").run(tmp_path, progress=lambda done, all, _: calls.append((done, all)))
    assert calls[-1] == (4, 4)
    assert sorted(results[["method", "seed"]].values.tolist()) == [
        *(["random", 0], ["random", 1], ["single", 0], ["single", 1]),
    ]
    assert results["test_accuracy"].between(0, 1).all()
    assert results.loc[results["method"] == "random", "psi"].tolist() == ["3", "3"]
    from_csv, from_parquet = (
        pd.read_csv(tmp_path / "results.csv"),
        pd.read_parquet(tmp_path / "results.parquet"),
    )
    for table in (from_csv, from_parquet):
        assert table["test_accuracy"].tolist() == results["test_accuracy"].tolist()
        assert table["run"].tolist() == results["run"].tolist()
    comparison = pd.read_csv(tmp_path / "comparisons.csv")
    row = comparison[(comparison["method"] == "random") & (comparison["reference"] == "single")].iloc[0]
    means = results.groupby("method")["test_accuracy"].mean()
    assert row["difference"] == pytest.approx(means["random"] - means["single"])

    before = summaries(tmp_path)
    assert len(before) == 4
    again = study("single", "random", seeds=(0, 1, 2)).run(tmp_path)  # a further seed, and no run twice
    after = summaries(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(again) == len(after) == 6


@pytest.mark.usefixtures("in_this_process")
def test_an_interrupted_run_of_a_study_is_continued(tmp_path: Path) -> None:
    class Cut(Exception): ...

    def cut(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Cut

    one = study("maxl", seeds=(0,), epochs=3)
    planned = one.plan()[0]
    with pytest.raises(Cut):
        train(planned.config, tmp_path / planned.path, report=cut)
    one.run(tmp_path)
    train(planned.config, tmp_path / "whole")
    assert metrics(tmp_path / planned.path) == metrics(tmp_path / "whole")


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_belongs_to_one_study(tmp_path: Path) -> None:
    study("single", seeds=(0,)).run(tmp_path / "study")
    for change in ({"epochs": 2}, {"batch_size": 50}, {"trunk": "convnet4"}):
        with pytest.raises(ValueError, match=f"--out needs a new folder .* made with {next(iter(change))} "):
            study("single", seeds=(0,), **change).run(tmp_path / "study")
    study("random", seeds=(0,), grid={"psi": [2]}).run(tmp_path / "study")
    with pytest.raises(ValueError, match=r"made with psi \[3\], not \[4\]"):  # the grid has not unfixed it
        study("random", seeds=(0,), psi=[4]).run(tmp_path / "study")
    assert len(summaries(tmp_path / "study")) == 2

    train(tiny(epochs=1, method="single"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"needs a folder for a study; .* holds something else"):
        study("single").run(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"psi": [2, 3]}, "got 2 for 10 classes"),
        ({"trunk": "convnet5"}, "unknown trunk 'convnet5'; did you mean 'convnet4'"),
        ({"generator_trunk": "vgg16"}, "needs 32 pixels a side; got 8x8"),
        ({"train_size": 5000}, "train_size must lie between 0 and the"),
        ({"device": "cuda:99"}, "--device cuda:99 cannot be used here"),
        ({"grid": {"trunk": ["mlp", "vgg99"]}}, "unknown trunk 'vgg99'"),
        ({"grid": {"validation_size": [0.0, 3000.0]}}, "validation_size must lie between 0 and the"),
    ],
)
def test_nothing_is_written_where_a_run_cannot_be_made(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        study("single", "maxl", **options).run(tmp_path / "study")
    assert not files(tmp_path)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_diverges_is_named_and_does_not_stop_the_others(tmp_path: Path) -> None:
    one = study("single", seeds=(0, 1), grid={"learning_rate": [1e30, 0.01]}, epochs=2, optimizer="sgd")
    results = one.run(tmp_path)
    kept = ["runs/single/seed0/summary.json", "runs/single/seed1/summary.json"]
    assert list(summaries(tmp_path)) == kept
    assert len(results) == len(pd.read_csv(tmp_path / "results.csv")) == 2
    found = {str(p.relative_to(tmp_path)): reason for p, reason in divergences(tmp_path).items()}
    assert list(found) == [f"runs/learning_rate=1e+30/single/seed{seed}" for seed in (0, 1)]
    assert all(r.startswith("diverged in epoch 1: the training loss") for r in found.values())
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("runs/**/*.json*")}
    one.run(tmp_path)  # they have ended
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("runs/**/*.json*")} == before


@pytest.mark.usefixtures("in_this_process")
def test_a_study_whose_runs_all_diverge_says_so(tmp_path: Path) -> None:
    one = study("single", seeds=(0,), learning_rate=1e30, optimizer="sgd")
    with pytest.raises(ValueError, match=r"no run of .* has a result: runs/single/seed0 diverged in epoch 1"):
        one.run(tmp_path)


@pytest.mark.usefixtures("in_this_process")
def test_a_run_that_cannot_go_on_stops_the_study_and_keeps_what_is_finished(tmp_path: Path) -> None:
    one = study("single", seeds=(0, 1), epochs=1)
    broken = RunFolder(tmp_path / "runs/single/seed1")
    broken.create(one.plan()[1].config)
    broken.checkpoint.parent.mkdir()
    broken.checkpoint.write_text("")
    with pytest.raises(ValueError, match=r"single/seed1: .*state.pt is damaged"):
        one.run(tmp_path)
    assert list(summaries(tmp_path)) == ["runs/single/seed0/summary.json"]


@pytest.mark.usefixtures("in_this_process")
def test_two_studies_do_not_share_a_folder_at_once(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match=f"is in use by process {os.getpid()}"):
        study("single", seeds=(0,)).run(tmp_path)
    assert not list(tmp_path.rglob("config.yaml"))


def test_parallel_runs_give_the_numbers_of_runs_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: 8)  # more than a run uses
    both = study("single", "maxl", seeds=(0,), train_size=300, batch_size=150, trunk="convnet4")
    both.run(tmp_path / "parallel", jobs=2)  # in processes of their own
    torch.set_num_threads(3)  # what runs alone has the machine to itself
    for planned in both.plan():
        train(planned.config, tmp_path / "single" / planned.path)
        alone, parallel = (tmp_path / name / planned.path for name in ("single", "parallel"))
        assert metrics(alone) == metrics(parallel)
        assert (alone / "model.safetensors").read_bytes() == (parallel / "model.safetensors").read_bytes()


def test_runs_take_turns_on_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert [device_count(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == [2, 2, 1, 0]
    taken: list[int | None] = []

    def pool(_: int, *, initargs: tuple[int | None], **__: Any) -> ThreadPoolExecutor:
        taken.extend(initargs)
        return ThreadPoolExecutor(1)

    monkeypatch.setattr("maxl.experiments.studies.workers.ProcessPoolExecutor", pool)
    for devices in (2, 1, 0):  # with one at most, nothing is chosen
        run_jobs([], processes=3, devices=devices, tick=lambda left: None)
    assert taken == [0, 1, 0, *[None] * 6]


@pytest.mark.parametrize(
    ("cores", "threads", "runs", "jobs"),
    [(2, 1, 12, 2), (2, 4, 12, 1), (8, 2, 12, 4), (64, 1, 60, 16), (64, 1, 3, 3), (64, 16, 60, 4)],
)
def test_as_many_runs_at_a_time_as_the_cores_hold(
    cores: int, threads: int, runs: int, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception): ...

    def run_jobs(_: object, *, processes: int, **__: object) -> None:
        raise Asked(processes)

    monkeypatch.setattr("maxl.experiments.studies.workers.run_jobs", run_jobs)
    monkeypatch.setattr("maxl.experiments.studies.workers.os.cpu_count", lambda: cores)
    with pytest.raises(Asked, match=f"^{jobs}$"):
        study("single", seeds=tuple(range(runs)), threads=threads).run(tmp_path)


def test_what_features_keep_is_said_below_the_tables() -> None:
    kept = {"single": [0.70, 0.72, 0.71], "human": [0.95, 0.96, 0.95], "uniform": [0.61, 0.62, 0.61]}
    runs = pd.DataFrame(
        {"method": method, "seed": seed, "test_accuracy": 0.9, "seconds_per_step": 0.01, "test_probe": value}
        | {
            "data": "digits",
            "primary": "half",
            "probe": "label",
            "probe_shots": 5,
            "psi": None,
            "train_size": 200,
        }
        for method, values in kept.items()
        for seed, value in enumerate(values)
    )
    *_, (_, lines) = study_tables(runs)
    (said,) = (line for line in lines if line.startswith("Of label in the features: "))
    assert "More than single-task training keeps: human (+24.3 points)." in said
    assert "Less than single-task training keeps: uniform (−9.7 points)." in said
    *_, (_, lines) = study_tables(runs[runs["seed"] == 0])
    assert not any("in the features" in line for line in lines)


@pytest.mark.parametrize(
    ("accuracies", "constant", "told"),
    [
        ({"single": [0.10, 0.11, 0.10], "uniform": [0.10, 0.10, 0.11]}, 0.1, True),
        ({"single": [0.10, 0.11, 0.10], "uniform": [0.10, 0.10, 0.11]}, 0.08, False),  # a point above
        ({"single": [0.02, 0.03, 0.02], "uniform": [0.10, 0.10, 0.11]}, 0.1, False),  # shown to differ
        ({"single": [0.10, 0.11, 0.10], "uniform": [0.10, 0.10, 0.11]}, None, False),  # older runs
    ],
)
def test_where_no_method_is_above_a_constant_answer_the_first_line_says_so(
    accuracies: dict[str, list[float]], constant: float | None, told: bool
) -> None:
    runs = pd.DataFrame(
        {"method": method, "seed": seed, "test_accuracy": value, "seconds_per_step": 0.01, "psi": None}
        | {"data": "digits", "primary": "digit", "train_size": 200, "test_constant": constant}
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
    )
    *_, (_, lines) = study_tables(runs)
    assert lines[0].startswith("Nothing is learned yet: no method gets more than one answer") == told


def test_measures_that_older_runs_lack_or_that_do_not_exist_are_left_out_of_the_tables() -> None:
    runs = pd.DataFrame(
        {"method": method, "seed": seed, "seconds_per_step": 0.01, "train_size": 200, "psi": None}
        | {"data": "t.csv", "primary": "red, blue", "task": "multi-label"}
        | {"test_map": 0.8, "test_f1": 0.7 if seed else None, "test_auroc": None}
        for method in ("single", "uniform")
        for seed in (0, 1)
    )
    ((table, _),) = study_tables(runs)
    headings = [str(column.header) for column in table.columns]
    assert [heading for heading in headings if heading.startswith("test ")] == ["test mAP", "test F1 (macro)"]
    alone = {**runs.iloc[0], "test_f1": None, "peak_memory_bytes": None}
    assert "test mAP" in (told := [str(column.header) for column in run_table(alone).columns])
    assert not {"test F1 (macro)", "test AUROC (macro)"} & {*told}


@pytest.mark.usefixtures("in_this_process")
def test_a_study_with_runs_of_different_origins_says_so(tmp_path: Path) -> None:
    alike = study("single", seeds=(0, 1)).run(tmp_path)
    assert alike["threads"].tolist() == [1, 1]
    assert f"torch {torch.__version__}" in alike["versions"][0]
    assert origin_notes(alike.to_dict("records")) == []
    mixed = study("single", seeds=(0, 1, 2), threads=2).run(tmp_path)  # may go on so, but not in silence
    (note,) = origin_notes(mixed.to_dict("records"))
    assert note.startswith("Runs differ in threads (1: 2 runs; 2: 1 run): the same seed gives other numbers")
    from_csv = pd.read_csv(tmp_path / "results.csv")
    assert origin_notes(from_csv.to_dict("records")) == [note]
    assert any(note in lines for _, lines in study_tables(mixed))
    assert note in limits(load_study(tmp_path))


def test_what_an_older_run_did_not_record_is_a_difference() -> None:
    recorded = {"machine": "a", "device": "cpu", "threads": 1, "versions": {"torch": "2.15", "platform": "x"}}
    elsewhere = {**recorded, "versions": {"torch": "2.15", "platform": "y"}}
    assert origin_notes([recorded, elsewhere]) == []  # another kernel alone
    assert origin_notes([{}, {}]) == []
    told = origin_notes([recorded, {}])
    assert len(told) == 4
    assert "versions (torch 2.15: 1 run; not recorded: 1 run)" in told[-1]


def test_tables_name_psi_briefly(tmp_path: Path) -> None:
    for seed, psi in enumerate(([2, 2, 2], [1, 2, 3], None)):
        folder = RunFolder(tmp_path / f"run{seed}")
        folder.path.mkdir()
        folder.write_summary(
            {"method": "maxl", "seed": seed, "data": "d", "train_size": 9, "psi": psi, "test_accuracy": 0.5}
        )
    assert write_tables(tmp_path)["psi"].fillna("").tolist() == ["2", "[1, 2, 3]", ""]


@pytest.mark.parametrize(
    "grid",
    [
        {"learning_rate": [0.1234561, 0.1234562, 0.1]},
        {"auxiliary_weight": [0.3, 0.30000001, 1e-7]},
        {"train_size": [1234567, 1234568, 0.5]},
        {"trunk": ["a/b:c", "a_b:c", "a_b_c", "a%2Fb:c"]},
        {"data": ["x/y", "x\\y", "x_y", "x\ny"]},
    ],
)
def test_two_values_of_a_grid_never_share_a_folder(grid: dict[str, list[Any]]) -> None:
    planned = study("maxl", seeds=(0,), grid=grid).plan()
    name = next(iter(grid))
    assert [getattr(p.config, name) for p in planned] == grid[name]
    assert len({p.path for p in planned}) == len(grid[name])
    assert all(len(p.path.parts) in (3, 4) for p in planned)  # a value makes one folder, not two


def test_folders_keep_the_short_names_of_plain_numbers() -> None:
    planned = study("maxl", seeds=(0,), grid={"learning_rate": [0.002, 1e-5, 1.0]}).plan()
    names = [p.path.parts[1] for p in planned]
    assert names == ["learning_rate=0.002", "learning_rate=1e-05", "learning_rate=1"]


def test_values_that_are_written_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="two values that are both written human=None"):
        study("maxl", seeds=(0,), human="x", grid={"human": [None, "None"]}).plan()


def test_values_that_come_to_the_same_setting_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for grid in (
        {"trunk": ["auto", "convnet4"]},
        {"psi": [2, (2,) * 10]},
        {"task": ["auto", "classification"]},
    ):
        with pytest.raises(ValueError, match="values that are the same setting here"):
            study("uniform", seeds=(0,), trunk="mlp", grid=grid).run(tmp_path)
    assert files(tmp_path) == []
