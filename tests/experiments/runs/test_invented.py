"""Auxiliary labels of a finished run for labelled samples: those of training, and what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from _judged_helpers import CASES, CLASSES
from _run_helpers import files
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.data import as_cell, load
from maxl.experiments.report.browser import hierarchy_csv, of_labels
from maxl.experiments.runs.diagnostics import label_metrics
from maxl.experiments.runs.evaluation import describe_labels, evaluating
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.trainer import Trainer, train
from maxl.hypergradients import as_tuple

METHODS = {
    "photographs": {"method": "maxl", "generator_trunk": "own"},
    "photographs, shared": {"method": "maxl"},
    "colours": {"method": "weighted"},
    "features": {"method": "gated"},
    "prices": {"method": "frozen"},
}


class Trained:
    """A run of each case, trained when it is first asked for, with what it looked like in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, tuple[Path, Path, Trainer]] = {}

    def __getitem__(self, case: str) -> tuple[Path, Path, Trainer]:
        """The run, its training samples and its trainer."""
        if case not in self.made:
            (self.root / case).mkdir()
            config, test = CASES[case.partition(",")[0]](self.root / case)
            run = self.root / f"{case}-run"
            changed = replace(config, meta_learning_rate=0.02, **METHODS[case])  # type: ignore[arg-type]
            trainer = Trainer(changed, RunFolder(run))
            trainer.fit()
            self.made[case] = run, test.with_name(test.name.replace("test", "train")), trainer
        return self.made[case]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("labels"))


@pytest.mark.parametrize("case", METHODS)
def test_labels_are_those_of_the_generator_in_training(
    case: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, source, trainer = trained[case]
    by_batches = (
        nullcontext()
        if case != "photographs, shared"
        else pytest.warns(RunWarning, match=r"in the trunk that")
    )
    with by_batches:  # of BatchNorm in the trunk that the generator shares
        found = invent(run, source, device="cpu")
    generator, network = trainer.setup.generator, trainer.setup.network
    assert generator is not None
    assert (generator.shared is network) == (case not in ("photographs", "prices"))
    network.train()
    before = label_metrics(trainer)["label_entropy"]
    with evaluating(generator):
        assert not any(m.training for m in (*(generator.shared or generator).modules(), *generator.modules()))
        batches = trainer.in_order(trainer.data.train)
        signals = zip(*(as_tuple(generator(b.x, b.primary)) for b in batches), strict=True)
        labels, *weights = [torch.cat(parts) for parts in signals]
    assert network.training
    assert torch.equal(found.labels, labels)
    described = describe_labels(labels, found.data.targets, found.hierarchy, generator.task)
    assert described.entropy == before
    assert found.verdict == described.verdict()
    monkeypatch.setattr("maxl.experiments.runs.invented._ENOUGH", len(found.data) + 1)
    with by_batches:
        assert invent(run, source, device="cpu").verdict is None  # too few to say it
    assert torch.equal(found.data.targets, trainer.data.train.primary)
    assert found.hierarchy == trainer.setup.hierarchy
    assert (found.weights is None) == (METHODS[case]["method"] != "weighted")
    if found.weights is not None:
        assert torch.equal(found.weights, weights[0])
    allowed = generator.task.rows(found.data.targets, found.hierarchy.mask)
    assert allowed.gather(1, found.likeliest.unsqueeze(1)).all()
    torch.testing.assert_close(found.most_entropy, allowed.sum(1).double().log())
    assert (found.entropy <= found.most_entropy + 1e-6).all()
    hard = torch.zeros_like(found.labels).scatter_(1, found.likeliest[:, None], 1.0)
    sharp = replace(found, labels=hard)  # of one auxiliary class of several that were allowed
    assert sharp.entropy.abs().max() == 0
    if trainer.data.task != "multi-label":
        torch.testing.assert_close(sharp.most_entropy, found.most_entropy)


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_lines_of_a_file_and_pictures_by_class(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, source, _ = trained["photographs"]
    out, page = tmp_path / "new" / "labels.csv", tmp_path / "labels.html"
    line = ["labels", str(run), str(source), "--out", str(out), "--gallery", str(page), "--proba"]
    assert main([*line, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    found = invent(run, source, device="cpu")
    assert "24 samples, 6 auxiliary classes" in said
    assert ("the labels carry no information" in said) == (found.verdict is not None)
    rows = table(out.read_text())
    assert len(rows) == 24
    for i, row in enumerate(rows):
        c = CLASSES.index(Path(row["file"]).parent.name)
        shares = [float(row[f"probability {k}"]) for k in range(6)]
        assert row["class"].removeprefix("'") == CLASSES[c]
        assert shares == pytest.approx(found.labels[i].tolist(), abs=1e-8)
        assert [k for k in range(6) if shares[k] > 0] == [2 * c, 2 * c + 1]
        k = max(range(6), key=lambda k: shares[k])
        assert (int(row["auxiliary_class"]), int(row["within_class"])) == (k, k - 2 * c)
        assert float(row["probability"]) == shares[k]
        assert float(row["entropy"]) == pytest.approx(float(found.entropy[i]))
    text = page.read_text()
    counts = torch.bincount(found.likeliest, minlength=6)
    for k, count in enumerate(counts.tolist()):
        caption = f"{CLASSES[k // 2]}, invented class {k % 2}: {count} samples"
        assert (caption in text) == (count > 0)
    assert text.count('<img src="data:image/png') == int((counts > 0).sum())
    browser = of_labels("Invented classes", found, [])
    assert browser is not None
    assert len(browser.samples) == 24
    assert 'data-browser="browser-0-data"' in text
    finer = tmp_path / "finer.csv"
    finer.write_text(hierarchy_csv(browser))
    data = load(
        str(source), human=str(finer), image_size=8
    )  # rows are those of the folder, whatever is cut from it
    assert data.human_names is not None
    assert data.train.human is not None
    assert data.train.rows is not None
    rows_used = data.train.rows.tolist()
    assert len(rows_used) < 24
    assert [data.human_names[c] for c in data.train.human.tolist()] == [
        as_cell(browser.names[browser.auxiliary[row]]) for row in rows_used
    ]


def test_other_tasks_have_the_columns_that_they_can_have(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, columns in (
        ("colours", ["row", "class", "auxiliary_class", "within_class", "probability", "entropy", "weight"]),
        ("prices", ["row", "auxiliary_class", "probability", "entropy"]),
    ):
        run, source, trainer = trained[case]
        assert main(["labels", str(run), str(source), "--device", "cpu"]) == 0
        rows = table(capsys.readouterr().out)
        assert list(rows[0]) == columns
        assert [int(row["row"]) for row in rows] == list(range(60))
        if case == "colours":
            y = trainer.data.train.primary
            for row, labels in zip(
                rows, y, strict=True
            ):  # one of the sample's labels, or any where it has none
                assert not labels.any() or labels[trainer.data.primary_names.index(row["class"])] == 1


def damaged(folder: RunFolder) -> None:
    content = bytearray(folder.checkpoint.read_bytes())
    content[len(content) // 2] ^= 255
    folder.checkpoint.write_bytes(content)


def earlier(folder: RunFolder) -> None:
    shutil.copy(folder.checkpoint.with_name("previous.pt"), folder.checkpoint)


def missing(folder: RunFolder) -> None:
    folder.checkpoint.unlink()


def edited(folder: RunFolder) -> None:
    state = torch.load(folder.checkpoint, weights_only=True)
    next(iter(state["generator"].values())).add_(1)
    torch.save(state, folder.checkpoint)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "damaged"),
        (earlier, "needs to be of the run's last epoch, 3; it is of epoch 2"),
        (missing, "it is missing"),
        (edited, "does not have its checksum"),
    ],
)
def test_a_checkpoint_that_is_not_the_runs_end(
    harm: Callable[[RunFolder], None],
    message: str,
    trained: Trained,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run, source, _ = trained["photographs"]
    shutil.copytree(run, tmp_path / "run")
    harm(RunFolder(tmp_path / "run"))
    before = files(tmp_path)
    assert main(["labels", str(tmp_path / "run"), str(source), "--out", str(tmp_path / "l.csv")]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert files(tmp_path) == before


def test_another_runs_checkpoint(trained: Trained, tmp_path: Path) -> None:
    run, source, _ = trained["photographs"]
    config = RunFolder(run).read_config()
    train(replace(config, seed=1), tmp_path / "other")
    shutil.copy(RunFolder(run).checkpoint, RunFolder(tmp_path / "other").checkpoint)
    with pytest.raises(ValueError, match="belongs to another run: it differs in seed"):
        invent(tmp_path / "other", source, device="cpu")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("single", "trains without auxiliary labels"),
        ("uniform", "spread evenly"),
        ("random", "drawn for the training samples"),
        ("kmeans", "whose centres are not kept"),
    ],
)
def test_methods_without_a_generator_say_why_they_have_no_labels(
    method: str, reason: str, trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, source, _ = trained["features"]
    config = RunFolder(run).read_config()
    train(replace(config, method=method, epochs=1), tmp_path / "run")
    assert main(["labels", str(tmp_path / "run"), str(source)]) == 2
    err = capfd.readouterr().err
    assert re.search(f"is of method {method}, which has none: .*{reason}", err), err


MISTAKES = {
    "a gallery of rows": ("features", "--gallery g.html", "samples are rows of a table"),
    "one file for both": ("photographs", "--out a --gallery a", "different files"),
    "a gallery in place of the run's model": (
        "photographs",
        "--gallery {run}/summary.json",
        "--gallery would replace",
    ),
    "a folder in place of a file": ("photographs", "--out {run}", "needs a file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    name: str,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    case, flags, message = MISTAKES[name]
    run, source, _ = trained[case]
    monkeypatch.chdir(tmp_path)
    before = files(run)
    assert main(["labels", str(run), str(source), *flags.format(run=run).split()]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert files(run) == before
    assert files(tmp_path) == []
