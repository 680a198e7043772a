"""Invented classes in the report: what is shown of them, and that the file beside it trains another run."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from _report_helpers import PRIMARY_NAMES, write_run, write_study
from maxl.experiments.cli import main
from maxl.experiments.report import write_report
from maxl.experiments.report.browser import hierarchy_csv, names_of
from maxl.experiments.report.page import sections
from maxl.experiments.report.parts import Browser, Figure, Gallery, Row, Table
from maxl.experiments.report.runs import load_study
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.looks import LOOKS
from maxl.experiments.runs.snapshot import read_snapshot
from maxl.experiments.runs.trainer import Trainer

TINY = RunConfig(
    train_size=60, psi=(2,), trunk="mlp", method="kmeans", cluster_features="input", epochs=1,
    device="cpu", tensorboard=False,
)  # fmt: skip


def browsers(folder: Path) -> list[Browser]:
    parts = [part for section in sections(load_study(folder)) for part in section.parts]
    return [part for part in parts if isinstance(part, Browser)]


def test_a_run_trains_on_what_another_one_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(TINY, RunFolder(Path("run")))
    trainer.fit()
    write_report("run")
    (browser,) = browsers(Path("run"))
    assert Path("run/report-invented.csv").read_text() == hierarchy_csv(browser)
    words = shlex.split(browser.command)
    assert words[0] == "maxl"
    assert main(words[1:]) == 0
    again = RunFolder(Path(words[words.index("--out") + 1]))
    config = again.read_config()
    assert config.method == "human"
    data, first = load_data(config), trainer.data
    assert torch.equal(data.train.x, first.train.x)
    clusters = trainer.setup.learner.source.constant(
        first.train.x, first.train.primary, torch.arange(len(first.train))
    )[0]
    names = names_of(first.primary_names, trainer.setup.hierarchy.owner.tolist())
    assert data.human_names is not None
    assert data.train.human is not None
    assert [data.human_names[c] for c in data.train.human.tolist()] == [names[k] for k in clusters.tolist()]
    other = load_data(
        replace(config, seed=5)
    )  # whatever its seed, a run on the file trains on what that lists
    assert torch.equal(other.train.x, data.train.x)


def test_a_snapshot_holds_what_the_run_predicts_and_labels(tmp_path: Path) -> None:
    trainer = Trainer(TINY, RunFolder(tmp_path / "run"))
    summary = trainer.fit()
    snapshot = read_snapshot(tmp_path / "run" / "snapshot.npz")
    assert snapshot.confusion is not None
    assert snapshot.confusion.sum() == len(trainer.data.test)
    assert snapshot.confusion.trace() / snapshot.confusion.sum() == pytest.approx(summary["test_accuracy"])
    assert snapshot.confusion.sum(1).tolist() == torch.bincount(trainer.data.test.primary).tolist()
    assert snapshot.label_rows is not None
    assert snapshot.label_rows.tolist() == trainer.data.train.rows.tolist()  # type: ignore[union-attr]
    assert snapshot.sample_positions is not None
    assert snapshot.sample_images is not None
    some = snapshot.sample_positions
    pixels = trainer.data.train.x[torch.from_numpy(some)].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(snapshot.sample_images, pixels)
    assert snapshot.sample_probabilities is not None
    np.testing.assert_allclose(snapshot.sample_probabilities.sum(1), 1)


@pytest.mark.parametrize(
    "name", [name for name in LOOKS if name not in ("confusion", "sample_images", "label_counts")]
)
def test_a_snapshot_whose_arrays_do_not_go_together_is_refused(name: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "snapshot.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    shape = (3, 4, 4)
    arrays |= {"mask_images": np.zeros((*shape, 3), np.uint8)}
    arrays |= {name: np.zeros(shape, np.int16) for name in ("mask_truths", "mask_predicted")}
    arrays |= {name: np.zeros((3, 1)) for name in ("target_truths", "target_predicted")}
    arrays |= {"feature_probe": np.zeros(len(arrays["features"]), np.int64), "probe_names": np.array(["a"])}
    np.savez(path, **arrays)
    read_snapshot(path)
    del arrays[name]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="needs to be a snapshot"):
        read_snapshot(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confusion", np.full((4, 4), -1)),
        ("confusion", np.zeros((4, 3), np.int64)),
        ("label_auxiliary", np.full(48, 99)),
        ("label_auxiliary", np.zeros(48, np.int64)),
        ("label_rows", np.full(48, -1)),
        ("sample_positions", np.full(16, 48)),
        ("sample_probabilities", np.full((16, 3), np.nan, np.float32)),
        ("sample_images", np.zeros((16, 8, 8), np.uint8)),
    ],
)
def test_a_snapshot_with_impossible_values_is_refused(name: str, value: np.ndarray, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "snapshot.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, name: value})
    with pytest.raises(ValueError, match="needs to be a snapshot"):
        read_snapshot(path)


def test_every_setting_has_its_classes_and_a_file_of_its_own(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=("single", "maxl"), psis=(2, 3), seeds=(0,), epochs=2)
    out = write_report(folder, tmp_path / "elsewhere.html")
    files = ["elsewhere-invented.csv", "elsewhere-invented-2.csv"]
    for file, psi in zip(files, (2, 3), strict=True):
        with out.with_name(file).open() as opened:
            rows = list(csv.DictReader(opened))
        assert len(rows) == 48
        assert {row["class"] for row in rows} == {*PRIMARY_NAMES}
        assert len({row["finer"] for row in rows}) == 4 * psi
        assert all(row["finer"].startswith(f"{row['class']} ") for row in rows)
    assert not (tmp_path / "report-invented.csv").exists()


def test_nothing_to_tell_apart_is_nothing_to_browse(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=("single", "random"), epochs=2)
    write_report(folder)
    assert browsers(folder) == []
    assert not list(folder.glob("*.csv"))


def test_runs_of_older_versions_have_their_gallery(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "snapshot.npz"
    with np.load(path) as archive:
        arrays = {name: array for name, array in archive.items() if name not in LOOKS}
    np.savez(path, **arrays)
    by_title = {section.title: section.parts for section in sections(load_study(tmp_path))}
    assert [type(part) for part in by_title["Invented labels"] if not isinstance(part, Figure)] == [Gallery]
    assert "Class by class" not in by_title


def test_classes_are_told_by_method_and_seed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=("single", "maxl"), seeds=(0, 1))
    study = load_study(folder)
    parts = next(section.parts for section in sections(study) if section.title == "Class by class")
    (table,) = (part for part in parts if isinstance(part, Table))
    (row,) = (part for part in parts if isinstance(part, Row))
    matrices = [run.snapshot.confusion for run in study.settings[0].methods["single"]]  # type: ignore[union-attr]
    for c, name in enumerate(PRIMARY_NAMES):
        recall = np.mean([m[c, c] / m[c].sum() for m in matrices])  # type: ignore[index]
        assert table.frame.set_index("Class").loc[name, "single (%)"] == f"{100 * recall:.1f}"
    counts = row.figures[0].plot.data[0].customdata
    np.testing.assert_array_equal(counts, sum(matrices))  # type: ignore[arg-type]
    assert [figure.title.split(":")[1].split(",")[0].strip() for figure in row.figures] == ["single", "maxl"]
