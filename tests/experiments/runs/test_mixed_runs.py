"""Runs on images beside columns: what is trained is what is measured, predicted, explored and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from _mixed_helpers import config, table, write
from _run_helpers import Interrupted, interrupt_after, model
from _run_helpers import one_thread as one_thread
from maxl.experiments import load
from maxl.experiments.cli import main
from maxl.experiments.data import DataSet, MixedShape, evaluation_batches
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.fingerprint import fingerprint, what_changed
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import Numbers, Prediction, predict
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.mixed import MixedTrunk
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.rates import freeze_parts, network_groups
from maxl.experiments.runs.snapshot import read_snapshot
from maxl.experiments.runs.trainer import Trainer, resume, train
from maxl.experiments.runs.trunks import bare, build, build_for, chosen, prefix

SHAPE = MixedShape(4, (1, 4, 4))


def inputs(data: DataSet) -> torch.Tensor:
    """The test samples as a network takes them."""
    (batch,) = evaluation_batches(data.test, 1000, data.mean, data.std)
    return batch.x


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of method maxl in run/, and its tables train.csv and test.csv in data/."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "data").mkdir()
    for part in ("train", "test"):
        write(folder / "data", table(40), name=f"{part}.csv")
    train(config(str(folder / "data"), method="maxl"), folder / "run")
    return folder


def test_the_trunk_gives_features_of_both() -> None:
    trunk = build("convnet4", SHAPE, width=8).eval()
    assert isinstance(trunk, MixedTrunk)
    assert trunk.feature_dim == 8 + 128
    columns, images = torch.randn(5, 4), torch.randn(5, 1, 4, 4)
    features = trunk(torch.cat([columns, images.flatten(1)], 1))
    assert torch.equal(features, torch.cat([trunk.image(images), trunk.columns(columns)], 1))
    assert chosen("auto", "classification", SHAPE) == "convnet4"
    assert chosen("auto", "classification", MixedShape(4, (3, 64, 80))) == "resnet18"
    own = build("_mixed_helpers:own_trunk", SHAPE)
    assert isinstance(bare(own), torch.nn.Sequential)
    assert prefix(own) == "image.model."
    assert own(torch.zeros(2, 20)).shape == (2, 7 + 128)
    with pytest.raises(ValueError, match="'resmlp' needs features of shape \\(D,\\); got images"):
        build("resmlp", SHAPE)
    with pytest.raises(ValueError, match="gives features for a whole sample"):
        build_for("mlp", "segmentation", SHAPE)


@pytest.mark.parametrize("both", [True, False])
def test_what_neither_images_nor_columns_tell_is_learned_from_both(tmp_path: Path, both: bool) -> None:
    bright, right = [i // 2 % 2 for i in range(160)], [i % 2 for i in range(160)]
    frame = table(160, age=[4 * r - 2 + 0.01 * i for i, r in enumerate(right)])
    frame["kind"] = [["no", "yes"][b ^ r] for b, r in zip(bright, right, strict=True)]
    file = write(tmp_path, frame, lambda i: np.full((2, 2, 1), 200 * bright[i] + i % 20, np.uint8))
    settings = config(file, method="single", epochs=8, types=["age=number"] if both else None)
    summary = train(settings, tmp_path / "run")
    assert summary["test_accuracy"] == 1 if both else summary["test_accuracy"] < 0.8


def test_what_is_measured_is_what_was_trained_whatever_way_the_rows_come(place: Path) -> None:
    run, summary = place / "run", json.loads((place / "run" / "summary.json").read_text())
    assert summary["input_shape"] == [20]
    assert summary["image_shape"] == [1, 4, 4]
    assert summary["image_column"] == "image"
    assert summary["columns"] == {"age": "number", "colour": "category"}
    data, network = load_data(config(str(place / "data"))), load_model(run)
    x = inputs(data)
    with torch.no_grad():
        logits = network.outputs(x)
        pixels = data.test.x.flatten(1) / 255
        torch.testing.assert_close(network(torch.cat([x[:, :4], pixels], 1)), logits)
    rows = table(40).drop(columns=["kind", "leak"])[["colour", "image", "age"]]
    rows = rows.iloc[::-1]  # columns and rows in another order
    rows.to_csv(place / "data" / "new.csv", index=False)
    found = [p for p in predict(run, place / "data" / "new.csv", proba=True) if isinstance(p, Prediction)]
    given = torch.tensor([[*(p.probabilities or {}).values()] for p in reversed(found)])
    torch.testing.assert_close(given, logits.double().softmax(1), check_dtype=False)
    own, again = judge(run), judge(run, place / "data" / "test.csv")
    assert own.metrics["accuracy"] == again.metrics["accuracy"] == summary["test_accuracy"]
    assert own.metrics["nll"] == pytest.approx(summary["test_nll"]) == again.metrics["nll"]
    for wrong in (torch.zeros(2, 19), torch.zeros(2, 1, 4, 4), torch.zeros(2, 20, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"samples need the run's shape|need to be floats"):
            network(wrong)


def test_numbers_are_predicted_in_their_units(tmp_path: Path) -> None:
    frame = table(40, price=[3.0 * i + i % 2 for i in range(40)])
    for part in ("train", "test"):
        file = Path(write(tmp_path, frame, name=f"{part}.csv"))
    settings = config(str(tmp_path), primary="price", task="regression", method="uniform", epochs=1)
    summary = train(settings, tmp_path / "run")
    found = [p.values["price"] for p in predict(tmp_path / "run", file) if isinstance(p, Numbers)]
    assert np.abs(np.array(found) - frame["price"]).mean() == pytest.approx(summary["test_mae"], rel=1e-5)


def test_pictures_are_those_of_the_samples(place: Path) -> None:
    snapshot = read_snapshot(place / "run" / "snapshot.npz")
    assert snapshot.gallery_images.shape[2:] == (4, 4, 1)
    assert snapshot.sample_images is not None
    assert snapshot.sample_positions is not None
    assert (snapshot.sample_images[:, 0, 0, 0] == 2 * snapshot.sample_positions).all()
    setup = Trainer(config(str(place / "data"), method="maxl"), RunFolder(place / "none")).setup
    setup.network.load_state_dict(model(place / "run"), strict=False)
    with torch.no_grad():
        features = setup.network.eval().trunk(inputs(load_data(config(str(place / "data")))))
    np.testing.assert_allclose(snapshot.features, features.numpy(), atol=1e-2)
    found = invent(place / "run", place / "data" / "test.csv")
    assert found.data.images is not None
    assert found.data.images([3, 1])[:, 0, 0, 0].tolist() == [6, 2]
    best = found.labels[:, snapshot.gallery_auxiliary].topk(snapshot.gallery_scores.shape[1], dim=0).values
    np.testing.assert_allclose(snapshot.gallery_scores, best.T, atol=1e-5)
    page = place / "gallery.html"
    words = [
        *("labels", place / "run", place / "data" / "test.csv", "--out", place / "l.csv"),
        *("--gallery", page),
    ]
    assert main([*map(str, words)]) == 0
    assert "--types age=number colour=category" in page.read_text()  # of the command that trains on them
    assert snapshot.sample_probabilities is not None  # of the training samples, which are the same
    blocks = found.labels.view(40, 2, 2)[torch.arange(40), found.data.targets]
    np.testing.assert_allclose(
        snapshot.sample_probabilities, blocks[torch.from_numpy(snapshot.sample_positions)], atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": None}, "lacks 'age'"),
        ({"image": None}, "lacks 'image'"),
        ({"image": ["train.csv"]}, "row 0 of '.*' cannot be decoded as an image"),
        ({"image": ["images/none.png"]}, "the image in row 0 of .*none.png' is missing"),
        ({"age": ["old"]}, "column 'age' of '.*' needs to hold numbers"),
    ],
)
def test_rows_that_lack_something_are_refused(place: Path, change: dict[str, Any], message: str) -> None:
    rows = table(1).drop(columns=[name for name, values in change.items() if values is None])
    rows = rows.assign(**{name: values for name, values in change.items() if values is not None})
    rows.to_csv(file := place / "data" / "odd.csv", index=False)
    with pytest.raises((ValueError, OSError), match=message):
        predict(place / "run", file)
    with pytest.raises(ValueError, match="CSV or parquet file for a run on images and columns beside them"):
        predict(place / "run", place / "data" / "images")
    rows = table(2, colour=["red", "pink"])
    rows.to_csv(file, index=False)
    with pytest.warns(UserWarning, match="column 'colour' holds a category .* in 1 of 2 rows: 'pink'"):
        assert len(predict(place / "run", file)) == 2


def test_a_model_that_is_saved_predicts_the_same_and_its_card_says_what_it_takes(
    place: Path, tmp_path: Path
) -> None:
    load(place / "run").save_pretrained(tmp_path / "saved")
    rows = place / "data" / "test.csv"
    assert predict(tmp_path / "saved", rows) == predict(place / "run", rows)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "features of columns, as `maxl predict` makes them, and then the pixels of images of shape" in card


def test_an_exported_program_computes_the_same_and_its_file_says_what_it_takes(
    place: Path, tmp_path: Path
) -> None:
    sidecar = export(place / "run", "torch-export", tmp_path / "m.pt2")  # compared there
    said = json.loads(sidecar.read_text())
    assert said["input_shape"] == [20]
    assert said["input_layout"] == "ND"
    columns, pixels = said["input_parts"]
    assert (columns["start"], columns["stop"], len(columns["names"])) == (0, 4, 4)
    assert columns["names"][0] == "number__age"
    assert (pixels["start"], pixels["stop"], pixels["shape"], pixels["layout"]) == (4, 20, [1, 4, 4], "CHW")
    assert "columns, as maxl predict makes them, then the pixels divided by 255" in said["input"]


@pytest.mark.parametrize("features", ["auto-encoder", "trunk"])
def test_clusters_are_of_images_and_columns(tmp_path: Path, features: str) -> None:
    file = write(tmp_path, table(40))
    settings = config(file, method="kmeans", cluster_features=features, epochs=1, train_size=20)
    assert train(settings, tmp_path / "run")["test_accuracy"] is not None


def test_an_interrupted_run_ends_as_it_would_have(place: Path, tmp_path: Path) -> None:
    settings = config(str(place / "data"), method="maxl")
    with pytest.raises(Interrupted):
        train(settings, tmp_path / "run", report=interrupt_after(1))
    resume(tmp_path / "run")
    before, after = model(place / "run"), model(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_value_of_a_column_is_part_of_what_identifies_the_data(tmp_path: Path) -> None:
    frame = table(20)
    before = fingerprint(load_data(config(write(tmp_path, frame))))
    frame.loc[[3, 4], "age"] = frame.loc[[4, 3], "age"].to_list()  # as if rows had been mixed up
    now = fingerprint(load_data(config(write(tmp_path, frame))))
    assert what_changed(before, now) == "its features"


def test_weights_rates_and_frozen_parts_are_those_of_the_image_trunk(place: Path, tmp_path: Path) -> None:
    state = {name: torch.full_like(t, 0.03) for name, t in build("mlp", (1, 4, 4)).state_dict().items()}
    save_file({f"backbone.{name}": t for name, t in state.items()}, tmp_path / "w.safetensors")
    shared = {"method": "single", "weights": str(tmp_path / "w.safetensors")}
    settings = config(str(place / "data"), **shared, trunk_learning_rate=1e-5, layer_decay=0.5)
    trainer = Trainer(settings, RunFolder(tmp_path / "run"))
    trunk = trainer.setup.network.trunk
    assert isinstance(trunk, MixedTrunk)
    assert all(torch.equal(trunk.image.state_dict()[name], state[name]) for name in state)
    fresh = Trainer(config(str(place / "data"), method="single"), RunFolder(tmp_path / "run")).setup.network
    assert isinstance(fresh.trunk, MixedTrunk)
    assert torch.equal(trunk.columns.first.weight, fresh.trunk.columns.first.weight)
    assert trainer.start is not None
    assert trainer.start.record()["taken"] == ["image trunk (4 tensors)"]
    groups = network_groups(settings, trainer.setup.network)
    assert [group["lr"] for group in groups] == pytest.approx([2.5e-6, 5e-6, 1e-3])
    heads = {id(p) for p in groups[-1]["params"]}
    assert all(id(p) in heads for p in trunk.columns.parameters())
    assert sum(len(g["params"]) for g in groups) == len([*trainer.setup.network.parameters()])
    freeze_parts(config(str(place / "data"), method="maxl", freeze=["trunk"]), trunk)
    assert not any(p.requires_grad for p in trunk.image.parameters())
    assert all(p.requires_grad for p in trunk.columns.parameters())


def test_a_run_goes_on_from_another_with_the_same_columns(place: Path, tmp_path: Path) -> None:
    start = {"from_run": str(place / "run"), "method": "maxl", "trunk": "mlp"}
    colours = write(
        tmp_path, table(30), lambda i: np.full((5, 5, 3), (i, 2 * i, 3 * i), np.uint8)
    )  # another size, and colours where the run has grey
    settings = config(colours, **start)
    data = load_data(settings)
    assert data.input_shape == (20,)
    assert data.image_shape == (1, 4, 4)
    network = Trainer(settings, RunFolder(tmp_path / "run"), data).setup.network
    kept = model(place / "run")
    assert all(torch.equal(t, kept[f"trunk.{name}"]) for name, t in network.trunk.state_dict().items())
    named = load_data(config(colours, **start, types=None))
    assert named.columns is not None
    assert [*named.columns.kinds] == ["age", "colour"]
    with pytest.raises(ValueError, match=r"same columns .* differs in 'leak'"):
        load_data(config(colours, **start, types=["leak=category"]))
    alone = write(tmp_path, table(30)[["image", "kind"]], name="alone.csv")
    with pytest.raises(ValueError, match=r"same columns .* differs in 'age'"):
        load_data(config(alone, **start, types=None))


def test_a_run_on_images_alone_does_not_go_on_with_columns(tmp_path: Path) -> None:
    file = write(tmp_path, table(20))
    train(config(file, types=None, method="single", epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"--from .* takes no columns beside images; .* has columns beside"):
        load_data(config(file, from_run=str(tmp_path / "run")))
