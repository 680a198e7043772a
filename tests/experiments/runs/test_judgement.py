"""Runs measured on labelled samples: the figures of training, class by class, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics

from _data_helpers import pixels, write_cifar100_parquet, write_image
from _judged_helpers import CASES, CLASSES, VOID
from _run_helpers import one_thread as one_thread
from _run_helpers import tiny
from maxl.experiments.cli import main
from maxl.experiments.runs.files import RunWarning
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import Labels, Prediction, predict
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.measures import MEASURES
from maxl.experiments.runs.trainer import train


class Runs:
    """A run of each case, trained when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, tuple[Path, Path]] = {}

    def __getitem__(self, case: str) -> tuple[Path, Path]:
        """The run and its own test samples."""
        if case not in self.made:
            (self.root / case).mkdir()
            config, test = CASES[case](self.root / case)
            train(config, self.root / f"{case}-run")
            self.made[case] = (self.root / f"{case}-run", test)
        return self.made[case]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("case", CASES)
def test_a_runs_own_test_samples_give_the_figures_of_its_summary(case: str, runs: Runs) -> None:
    run, test = runs[case]
    summary = RunFolder(run).read_summary()
    told = {m.name: summary[m.key] for m in MEASURES[summary["task"]] if summary.get(m.key) is not None}
    given, own = judge(run, test, device="cpu"), judge(run, device="cpu")
    assert given.metrics == told  # to the last digit
    assert own.metrics == told
    assert (own.per_class, own.confusion) == (given.per_class, given.confusion)
    assert given.samples == own.samples
    assert given.names == tuple(summary["primary_names"])


def test_rows_for_a_data_set_known_by_name_have_its_own_column_of_labels(tmp_path: Path) -> None:
    domains = {"bank": ["balance", "transfer"], "travel": ["visa", "flight"]}
    sentences = [
        [f"{i} my {intent}", intent] for i in range(8) for intents in domains.values() for intent in intents
    ]
    parts = {"train": sentences, "val": sentences[:8], "test": sentences[8:16]}
    (tmp_path / "data_full.json").write_text(json.dumps(parts))
    (tmp_path / "domains.json").write_text(json.dumps(domains))
    summary = train(
        tiny(data="clinc150", data_dir=str(tmp_path), train_size=24, method="maxl"), tmp_path / "run"
    )
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    rows = [(sentence, domain_of[intent]) for sentence, intent in parts["test"]]
    pd.DataFrame(rows, columns=["text", "domain"]).to_csv(tmp_path / "new.csv", index=False)
    assert judge(tmp_path / "run", tmp_path / "new.csv").metrics["accuracy"] == summary["test_accuracy"]
    main(["labels", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "labels.csv")])
    assert len(pd.read_csv(tmp_path / "labels.csv")) == len(rows)


def test_classes_one_by_one(runs: Runs) -> None:
    run, test = runs["photographs"]
    judged = judge(run, test, device="cpu")
    found = predict(run, test)
    truth = [p.file.parent.name for p in found if isinstance(p.file, Path)]
    guesses = [p.name for p in found if isinstance(p, Prediction)]
    assert judged.names == CLASSES
    assert judged.confusion == metrics.confusion_matrix(truth, guesses, labels=CLASSES).tolist()
    columns = metrics.precision_recall_fscore_support(truth, guesses, labels=CLASSES, zero_division=0)
    for row, precision, recall, f1, support in zip(judged.per_class, *columns, strict=True):
        assert row["precision"] == (pytest.approx(precision) if row["predicted"] else None)
        assert (row["recall"], row["f1"]) == (pytest.approx(recall), pytest.approx(f1))
        assert row["support"] == support
    recalls = [row["recall"] for row in judged.per_class]
    assert judged.metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert judged.left_out == ()


def test_a_class_without_samples_keeps_its_number_and_is_left_out_of_the_means(
    runs: Runs, tmp_path: Path
) -> None:
    run, test = runs["photographs"]
    shutil.copytree(test / CLASSES[2], tmp_path / CLASSES[2])
    write_image(tmp_path / "beside.png", pixels(1)[0])
    whole, judged = judge(run, test, device="cpu"), judge(run, tmp_path, device="cpu")
    assert whole.confusion is not None
    assert judged.confusion == [[0, 0, 0], [0, 0, 0], whole.confusion[2]]
    assert judged.metrics["accuracy"] == judged.metrics["balanced_accuracy"] == whole.per_class[2]["recall"]
    assert [row["recall"] for row in judged.per_class] == [None, None, whole.per_class[2]["recall"]]
    assert judged.left_out == (
        "1 image outside of the classes' folders",
        "classes without a sample, left out of balanced accuracy, F1 and AUROC: -dash, =formula",
    )


def test_finer_classes_are_told_by_their_parents(runs: Runs, tmp_path: Path) -> None:
    run, test = runs["finer"]
    whole = judge(run, test, device="cpu")
    assert whole.names == ("cat/old", "cat/young", "dog/old", "dog/young")
    shutil.copytree(test / "dog/young", tmp_path / "dog/young")  # one finer class alone is still a finer one
    one = judge(run, tmp_path, device="cpu")
    assert [row["support"] for row in one.per_class] == [0, 0, 0, 3]
    assert one.per_class[3]["recall"] == whole.per_class[3]["recall"]
    write_image(tmp_path / "cat" / "flat.png", pixels(1)[0])
    with pytest.raises(ValueError, match=r"class/subclass/image; got '.*flat\.png'"):
        judge(run, tmp_path, device="cpu")


def test_a_class_is_what_is_written_whatever_else_the_column_holds(runs: Runs, tmp_path: Path) -> None:
    run, test = runs["features"]
    whole, table = judge(run, test, device="cpu"), pd.read_csv(test)
    tens = table[table["label"] == 10].astype({"label": str})
    for written in ("10", "10.0", "010"):
        tens.assign(label=written, more="words").to_csv(tmp_path / "tens.csv", index=False)
        judged = judge(run, tmp_path / "tens.csv", device="cpu")
        assert [row["support"] for row in judged.per_class] == [0, 0, len(tens)]
        assert judged.per_class[2]["recall"] == whole.per_class[2]["recall"]
    table.assign(label=table["label"].astype(float)).to_parquet(tmp_path / "floats.parquet")
    assert judge(run, tmp_path / "floats.parquet", device="cpu").metrics == whole.metrics
    table.assign(label=table["label"].astype(str))[["label", "b", "time"]].to_parquet(
        tmp_path / "text.parquet"
    )
    assert judge(run, tmp_path / "text.parquet", device="cpu").metrics == whole.metrics


def test_a_column_is_known_by_the_classes_that_it_declares(tmp_path: Path) -> None:
    write_cifar100_parquet(tmp_path / "data", per_fine_class=1)
    config = tiny(data="cifar100", data_dir=str(tmp_path / "data"), train_size=None, epochs=1, psi=[2])
    train(config, tmp_path / "run")
    judged = judge(tmp_path / "run", tmp_path / "data" / "test.parquet", device="cpu")
    summary = RunFolder(tmp_path / "run").read_summary()
    assert judged.metrics["nll"] == summary["test_nll"]
    assert [row["support"] for row in judged.per_class] == [5] * 20


def test_texts_give_the_figures_of_training_but_for_what_was_rounded(tmp_path: Path) -> None:
    for part, count in (("train", 40), ("test", 20)):
        lines = [f"{('red cold', 'blue warm')[i % 2]} thing{i % 7},{'ab'[i % 2]}" for i in range(count)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["sentence,label", *lines]))
    train(tiny(data=str(tmp_path), train_size=None, batch_size=8, learning_rate=0.01), tmp_path / "run")
    summary = RunFolder(tmp_path / "run").read_summary()
    judged = judge(tmp_path / "run", tmp_path / "test.csv", device="cpu")
    assert judged.metrics["accuracy"] == summary["test_accuracy"]
    assert judged.metrics["nll"] == pytest.approx(summary["test_nll"], rel=1e-5)
    assert judge(tmp_path / "run", device="cpu").metrics["nll"] == summary["test_nll"]
    (tmp_path / "lines.txt").write_text("red\n")
    with pytest.raises(ValueError, match="CSV or parquet file with their targets"):
        judge(tmp_path / "run", tmp_path / "lines.txt", device="cpu")


def test_test_samples_that_have_changed_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    config, test = CASES["features"](tmp_path / "data")
    train(config, tmp_path / "run")
    table = pd.read_csv(test)
    table.assign(label=table["label"].to_numpy()[::-1]).to_csv(test, index=False)
    with pytest.warns(RunWarning, match=r"here and .* in summary\.json: the data has changed since"):
        judge(tmp_path / "run", device="cpu")
    for file in test.parent.iterdir():
        file.write_text(file.read_text().replace(",10\n", ",11\n"))
    with pytest.raises(ValueError, match="has changed since"):
        judge(tmp_path / "run", device="cpu")


def test_samples_of_training_are_no_test(runs: Runs) -> None:
    run, test = runs["features"]
    with pytest.warns(RunWarning, match="samples that the run was trained on"):
        judged = judge(run, test.with_name("train.csv"), device="cpu")
    assert judged.trained_on
    assert not judge(run, test, device="cpu").trained_on


def test_numbers_one_by_one_in_their_units(runs: Runs) -> None:
    run, test = runs["prices"]
    judged, table = judge(run, test, device="cpu"), pd.read_csv(test)
    found = pd.DataFrame([p.values for p in predict(run, test)])  # type: ignore[union-attr]
    for name, row in zip(judged.names, judged.per_class, strict=True):
        truth, guesses = table[name], found[name]
        assert row["mae"] == pytest.approx(metrics.mean_absolute_error(truth, guesses), rel=1e-5)
        assert row["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, guesses), rel=1e-5)
        assert row["r2"] == pytest.approx(metrics.r2_score(truth, guesses), rel=1e-4)
    assert judged.metrics["mae"] == pytest.approx(np.mean([row["mae"] for row in judged.per_class]))


def test_targets_that_are_all_equal_have_no_r2(runs: Runs, tmp_path: Path) -> None:
    run, test = runs["prices"]
    table = pd.read_csv(test).assign(depth=-5.25)
    table.to_csv(tmp_path / "equal.csv", index=False)
    judged = judge(run, tmp_path / "equal.csv", device="cpu")
    price, depth = judged.per_class
    assert depth["r2"] is None
    assert judged.metrics["r2"] == pytest.approx(price["r2"])
    assert judged.left_out == ("R² of depth: it needs samples whose targets differ",)
    table.iloc[:1].to_csv(tmp_path / "one.csv", index=False)
    one = judge(run, tmp_path / "one.csv", device="cpu")
    assert one.metrics["r2"] is None
    assert one.metrics["mae"] == pytest.approx(np.mean([row["mae"] for row in one.per_class]))


def test_labels_one_by_one(runs: Runs, tmp_path: Path) -> None:
    run, test = runs["colours"]
    table = pd.read_csv(test).assign(green=0)
    table.to_csv(tmp_path / "no-green.csv", index=False)
    judged = judge(run, tmp_path / "no-green.csv", device="cpu")
    found = [p.probabilities for p in predict(run, test) if isinstance(p, Labels)]
    for name in ("red", "blue"):
        row, p = judged.per_class[judged.names.index(name)], [each[name] for each in found]
        assert row["average_precision"] == pytest.approx(
            metrics.average_precision_score(table[name], p), rel=1e-5
        )
        assert row["f1"] == pytest.approx(metrics.f1_score(table[name], np.array(p) > 0.5, zero_division=0))
    green = judged.per_class[1]
    assert (green["average_precision"], green["f1"], green["support"]) == (None, None, 0)
    precisions = [judged.per_class[i]["average_precision"] for i in (0, 2)]
    assert judged.metrics["map"] == pytest.approx(np.mean(precisions))
    assert judged.left_out == ("label without a sample, left out of mAP, F1 (macro) and AUROC: green",)
    table.assign(red=0, blue=0).to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(ValueError, match=r"labels need to occur; no sample of '.*none\.csv'"):
        judge(run, tmp_path / "none.csv", device="cpu")


def test_pixels_that_stand_for_no_class_do_not_count(runs: Runs, tmp_path: Path) -> None:
    run, test = runs["scenes"]
    whole = judge(run, test, device="cpu")
    assert sum(int(row["pixels"] or 0) for row in whole.per_class) == 5 * 70
    assert whole.left_out == ("50 pixels that stand for no class",)
    ious = [row["iou"] for row in whole.per_class]
    assert whole.metrics["miou"] == pytest.approx(np.mean(ious))
    shutil.copytree(test, tmp_path / "some")
    for file in (tmp_path / "some" / "masks").iterdir():
        mask = np.asarray(Image.open(file)).copy()
        mask[mask == 2] = VOID
        Image.fromarray(mask).save(file)
    some = judge(run, tmp_path / "some", device="cpu")
    assert (some.per_class[2]["iou"], some.per_class[2]["pixels"]) == (None, 0)
    assert some.metrics["miou"] == pytest.approx(np.mean([row["iou"] for row in some.per_class[:2]]))
    (tmp_path / "some" / "classes.txt").write_text("2\n1\n0\n")
    with pytest.raises(ValueError, match="need to be those of the run, in their order: 0, 1, 2; got 2, 1, 0"):
        judge(run, tmp_path / "some", device="cpu")


def test_an_image_is_turned_as_its_camera_says_and_its_size_does_not_matter(
    runs: Runs, tmp_path: Path
) -> None:
    run, test = runs["photographs"]
    folder = tmp_path / "turned"
    for file in sorted((test / "cat").iterdir()):
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[274] = 6  # to be shown a quarter turn clockwise
        Image.open(file).rotate(90, expand=True).save(folder / "cat" / file.name, exif=exif)
    assert judge(run, folder, device="cpu").confusion[2] == judge(run, test, device="cpu").confusion[2]  # type: ignore[index]


REFUSED = {
    "an unknown class": ("photographs", {"dig": 2}, "'.*dig/0.png' has 'dig' .2 such samples"),
    "parts in place of classes": ("photographs", {"test/cat": 1}, "the folder seems to hold parts"),
    "no image": ("photographs", {}, "has no images in subfolders"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_are_refused(name: str, runs: Runs, tmp_path: Path) -> None:
    case, content, message = REFUSED[name]
    for folder, count in content.items():
        for i in range(count):
            write_image(tmp_path / "data" / folder / f"{i}.png", pixels(1, 8, 8)[0])
    (tmp_path / "data").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=message):
        judge(runs[case][0], tmp_path / "data", device="cpu")


def test_tables_that_are_refused(runs: Runs, tmp_path: Path) -> None:
    run, test = runs["features"]
    table = pd.read_csv(test)
    for changed, message in (
        (table.drop(columns="label"), "no column 'label'"),
        (table.drop(columns="b"), "lacks 'b'"),
        (table.assign(label=[*table["label"][1:], 7]), "row 29 of '.*' has '7' .1 such samples"),
        (table.assign(label=[*table["label"][1:], None]), "row 29 of '.*' has none in column 'label'"),
        (table[:0], "at least one row"),
        (table.assign(b=[*table["b"][1:], None]), "column 'b', row 29 holds nan"),
    ):
        changed.to_csv(tmp_path / "changed.csv", index=False)
        with pytest.raises(ValueError, match=message):
            judge(run, tmp_path / "changed.csv", device="cpu")
    for source, message in ((tmp_path, "is a folder"), (tmp_path / "changed.txt", "CSV or parquet")):
        (tmp_path / "changed.txt").write_text("a")
        with pytest.raises(ValueError, match=message):
            judge(run, source, device="cpu")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        judge(run, tmp_path / "nowhere", device="cpu")
    run, test = runs["tagged"]
    with pytest.raises(ValueError, match="a folder gives each image one class"):
        judge(run, test.parent / "test", device="cpu")
