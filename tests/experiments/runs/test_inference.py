"""A run's model on its own: the same predictions, from images, and in other formats."""

from __future__ import annotations

import csv
import json
import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from _data_helpers import pixels, write_csv, write_folder, write_image
from _run_helpers import digits, files, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.data import TextFeatures, evaluation_batches
from maxl.experiments.runs.exporting import FORMATS, export
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import train

COLOUR = {"trunk": "convnet4", "train_size": None, "batch_size": 8, "epochs": 20, "optimizer": "adam"}


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("grey") / "run"
    train(tiny(trunk="convnet4", optimizer="adam"), run, data=digits())
    return run


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two classes, 6 by 9 pixels, one dark and one light, and a run on them."""
    root = tmp_path_factory.mktemp("colour")
    write_folder(root / "images", ("cat", "dog"), count=10, size=(6, 9))
    for i, image in enumerate(pixels(10, 6, 9, seed=5)):
        write_image(root / "images" / "cat" / f"{i}.png", image // 4)
    train(tiny(data=str(root / "images"), learning_rate=0.01, **COLOUR), root / "run")
    return root


@pytest.fixture(scope="module")
def feature_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("features")
    config = tiny(data=str(write_csv(root / "t.csv")), train_size=None, batch_size=8)
    train(config, root / "run")
    return root / "run"


def test_the_model_gives_the_runs_accuracy_and_has_no_auxiliary_part(grey_run: Path) -> None:
    model, data = load_model(grey_run), digits()
    assert not model.training
    assert (model.primary_names, model.input_shape) == (tuple("0123456789"), (1, 8, 8))
    assert not any("auxiliary" in name for name, _ in model.named_modules())
    with torch.no_grad():
        correct = (model(data.test.x).argmax(1) == data.test.primary).float().mean()
    assert float(correct) == pytest.approx(RunFolder(grey_run).read_summary()["test_accuracy"], abs=1e-6)


def test_bytes_and_floats_are_normalised_as_in_training(grey_run: Path) -> None:
    model, data = load_model(grey_run), digits()
    batch = next(evaluation_batches(data.test, 20, data.mean, data.std))
    with torch.no_grad():
        expected = model.primary_head(model.trunk(batch.x))
        assert torch.equal(model(data.test.x[:20]), expected)
        torch.testing.assert_close(model(data.test.x[:20] / 255), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of two classes that one word tells apart, and a run on them."""
    root = tmp_path_factory.mktemp("text")
    lines = [f"{('red cold', 'blue warm')[i % 2]} thing{i},{'ab'[i % 2]}" for i in range(40)]
    (root / "t.csv").write_text("\n".join(["sentence,label", *lines]))
    config = tiny(data=str(root / "t.csv"), train_size=None, batch_size=8, learning_rate=0.01, epochs=10)
    train(config, root / "run")
    return root / "run"


def test_texts_are_classified_from_lines_and_tables(text_run: Path, tmp_path: Path) -> None:
    texts = ["a red thing", "warm and blue", "cold"]
    (tmp_path / "new.txt").write_text("\n".join(texts) + "\n")
    pd.DataFrame({"id": [1, 2, 3], "sentence": texts}).to_csv(tmp_path / "new.csv", index=False)
    found = predict(text_run, tmp_path / "new.txt")
    assert [(p.file, p.name) for p in found] == [(0, "a"), (1, "b"), (2, "a")]
    assert predict(text_run, tmp_path / "new.csv") == found


def test_the_features_of_a_text_are_those_of_training(text_run: Path) -> None:
    data = load_data(tiny(data=str(text_run.parent / "t.csv"), train_size=None))
    stored = TextFeatures.read(RunFolder(text_run).text)
    assert data.text is not None
    assert (stored.terms, stored.column) == (data.text.terms, "sentence")
    texts = ["red cold thing1", "blue", "nothing known"]
    torch.testing.assert_close(stored(texts), data.text(texts), rtol=1e-5, atol=1e-5)


def test_texts_that_cannot_be_classified(text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("words\nred\n")
    (tmp_path / "empty.txt").write_text("")
    for file, message in (
        ("other.csv", "lacks 'sentence'"),
        ("empty.txt", "at least one text"),
        (".", "needs a .txt, CSV or parquet file"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(text_run, tmp_path / file)


def test_a_model_on_features(feature_run: Path) -> None:
    data = load_data(tiny(data=str(feature_run.parent / "t.csv"), train_size=None))
    model = load_model(feature_run)
    assert (model.feature_names, data.features and data.features.names) == (("a", "b"), ("a", "b"))
    with torch.no_grad():
        logits = model(data.test.x * model.std + model.mean)
    correct = (logits.argmax(1) == data.test.primary).float().mean()
    assert float(correct) == pytest.approx(RunFolder(feature_run).read_summary()["test_accuracy"])


def test_rows_of_a_table_are_predicted_as_they_stand(
    feature_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(feature_run.parent / "t.csv")
    model = load_model(feature_run)
    with torch.no_grad():
        expected = model(torch.tensor(table[["a", "b"]].to_numpy(), dtype=torch.float32)).softmax(1)
    new = tmp_path / "new.csv"
    table[["b", "a"]].assign(more="words").to_csv(new, index=False)  # other order, no labels, another column
    assert main(["predict", str(feature_run), str(new), "--device", "cpu"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [r["row"] for r in rows] == [str(i) for i in range(len(table))]
    assert [r["class"] for r in rows] == [model.primary_names[c] for c in expected.argmax(1).tolist()]
    assert [float(r["probability"]) for r in rows] == pytest.approx(expected.max(1).values.tolist(), abs=1e-5)
    table.to_parquet(tmp_path / "new.parquet")
    by_parquet = predict(feature_run, tmp_path / "new.parquet")
    assert [p.name for p in by_parquet] == [r["class"] for r in rows]


def test_samples_of_another_shape_are_refused(grey_run: Path) -> None:
    with pytest.raises(ValueError, match=r"run's shape \(N, 1, 8, 8\); got \(2, 1, 9, 8\)"):
        load_model(grey_run)(torch.zeros(2, 1, 9, 8))


@pytest.mark.parametrize("kind", ["grey", "features", "text"])
def test_samples_of_another_kind_are_refused_or_right(
    kind: str, grey_run: Path, feature_run: Path, text_run: Path
) -> None:
    """Whatever kind of number a model is given: a sentence, or the outputs for these numbers."""
    model = load_model({"grey": grey_run, "features": feature_run, "text": text_run}[kind])
    bytes_ = torch.randint(0, 2, (3, *model.input_shape), dtype=torch.uint8)
    whole = {torch.int8, torch.int32, torch.int64, torch.uint8}
    taken = {"grey": {torch.uint8}, "features": whole, "text": set[torch.dtype]()}[kind]
    floats = {torch.float16, torch.float32, torch.float64}
    with torch.no_grad():
        expected = model(bytes_ if kind == "grey" else bytes_.double())
        for dtype in (*whole, *floats, torch.bool, torch.complex64):
            x = bytes_.to(dtype)
            if dtype in floats:
                given = model(x / 255 if kind == "grey" else x)
                torch.testing.assert_close(given, expected, rtol=0.02, atol=0.02)
            elif dtype in taken:
                assert torch.equal(model(x), expected)
            else:
                with pytest.raises(ValueError, match=rf"need to be .*; got {dtype}"):
                    model(x)


def test_folders_that_give_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds none"):
        load_model(tmp_path / "none")
    RunFolder(tmp_path / "started").create(tiny())
    with pytest.raises(ValueError, match=r"is not: continue it with maxl train --resume .*started"):
        load_model(tmp_path / "started")


def test_predictions_are_the_models_sorted_by_path(colour: Path) -> None:
    model = load_model(colour / "run")
    predictions = predict(colour / "run", colour / "images")
    assert [p.file for p in predictions] == sorted((colour / "images").rglob("*.png"))
    for p in predictions[:3] + predictions[-3:]:
        from PIL import Image

        x = torch.from_numpy(np.array(Image.open(p.file))).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = model(x).softmax(1)[0]
        assert p.name == model.primary_names[int(expected.argmax())]
        assert p.probability == pytest.approx(float(expected.max()), rel=1e-5)
    assert sum(p.name == p.file.parent.name for p in predictions) > 15  # dark and light are told apart


def test_images_of_any_size_and_mode_are_fitted(colour: Path, grey_run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "large.png", pixels(1, 40, 31)[0])
    write_image(tmp_path / "grey.png", pixels(1, 6, 9, channels=1)[0])
    write_image(tmp_path / "b.JPG", pixels(1, 8, 8)[0])
    (tmp_path / "notes.txt").write_text("no image")
    names = ["a/large.png", "b.JPG", "grey.png"]
    for run in (colour / "run", grey_run):
        predictions = predict(run, tmp_path)
        assert [str(p.file.relative_to(tmp_path)) for p in predictions] == names
        assert all(0 < p.probability <= 1 for p in predictions)
    one, among_others = predict(grey_run, tmp_path / "grey.png")[0], predict(grey_run, tmp_path)[2]
    assert one[:2] == among_others[:2]
    assert one.probability == pytest.approx(among_others.probability, rel=1e-4)


def test_a_colour_image_of_greys_is_the_grey_image(grey_run: Path, tmp_path: Path) -> None:
    image = pixels(1, 8, 8, channels=1)[0]
    write_image(tmp_path / "grey.png", image)
    write_image(tmp_path / "rgb.png", image.repeat(3, axis=2))
    one, other = predict(grey_run, tmp_path)
    assert (one.name, one.probability) == (other.name, pytest.approx(other.probability, abs=0.02))


def test_export_as_safetensors_is_the_weights_and_what_goes_with_them(grey_run: Path, tmp_path: Path) -> None:
    sidecar = export(grey_run, "safetensors", tmp_path / "new" / "m.safetensors")
    assert (tmp_path / "new/m.safetensors").read_bytes() == (grey_run / "model.safetensors").read_bytes()
    described = json.loads(sidecar.read_text())
    assert described["primary_names"] == list("0123456789")
    assert (described["input_shape"], described["mean"], described["std"]) == ([1, 8, 8], [0.5], [0.2])
    assert described["trunk"] == "convnet4"
    assert not described["normalisation_inside"]
    assert files(tmp_path) == ["new", "new/m.safetensors", "new/m.safetensors.json"]


@pytest.mark.parametrize("kind", ["grey", "features"])
def test_export_as_a_torch_program(kind: str, grey_run: Path, feature_run: Path, tmp_path: Path) -> None:
    run = grey_run if kind == "grey" else feature_run
    sidecar = export(run, "torch-export", tmp_path / "m.pt2")
    program, model = torch.export.load(tmp_path / "m.pt2").module(), load_model(run)
    for batch in (1, 5):
        x = torch.rand(batch, *model.input_shape, dtype=torch.float32 if kind == "grey" else torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(program(x), model(x))
    described = json.loads(sidecar.read_text())
    assert described["normalisation_inside"]
    assert described["input_dtype"] == ("float32" if kind == "grey" else "float64")
    assert files(tmp_path) == ["m.pt2", "m.pt2.json"]


@pytest.mark.parametrize("kind", ["grey", "features"])
def test_export_as_onnx(kind: str, grey_run: Path, feature_run: Path, tmp_path: Path) -> None:
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        pytest.skip(f"needs {' and '.join(missing)}: the extra onnx")
    run = grey_run if kind == "grey" else feature_run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages, about themselves
        sidecar = export(run, "onnx", tmp_path / "m.onnx")
        from onnxruntime import InferenceSession

        session = InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    model = load_model(run)
    for batch in (1, 4):
        x = torch.rand(batch, *model.input_shape, dtype=torch.float32 if kind == "grey" else torch.float64)
        with torch.no_grad():
            got = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
            torch.testing.assert_close(got, model(x), rtol=1e-3, atol=1e-4)
    assert json.loads(sidecar.read_text())["input_dtype"] == str(x.dtype).removeprefix("torch.")
    assert files(tmp_path) == ["m.onnx", "m.onnx.json"]


def test_an_onnx_program_that_computes_something_else_is_one_line(
    grey_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx")
    pytest.importorskip("onnxscript", reason="the extra onnx")
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        "run",
        lambda *given: [outputs[:, ::-1].copy() for outputs in run(*given)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages, about themselves
        assert main(["export", str(grey_run), "--format", "onnx", "--out", str(tmp_path / "m.onnx")]) == 2
    err = capfd.readouterr().err
    assert err.splitlines()[-1].startswith("maxl: error: the exported program's outputs are not the model's")
    assert files(tmp_path) == []


def test_formats_side_by_side_keep_what_goes_with_each(grey_run: Path, tmp_path: Path) -> None:
    told = {}
    for format in ("safetensors", "torch-export"):
        sidecar = export(grey_run, format, tmp_path / f"m{FORMATS[format]}")
        told[format] = json.loads(sidecar.read_text())
    assert files(tmp_path) == ["m.pt2", "m.pt2.json", "m.safetensors", "m.safetensors.json"]
    weights, program = told["safetensors"], told["torch-export"]
    assert json.loads((tmp_path / "m.safetensors.json").read_text()) == weights
    assert (weights["format"], weights["normalisation_inside"]) == ("safetensors", False)
    assert weights["input"] == "pixels divided by 255, then (x - mean) / std by channel"
    assert program["input"] == "pixels divided by 255"
    for one in (weights, program):
        assert (one["input_layout"], one["input_range"], one["input_channels"]) == ("NCHW", [0, 1], ["grey"])
        assert (one["output_shape"], one["output_dtype"]) == (["N", 10], "float32")


def test_a_missing_package_is_named(grey_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "maxl.experiments.runs.exporting.find_spec", lambda name: None if name == "onnxscript" else True
    )
    with pytest.raises(ValueError, match=r'needs onnxscript: pip install "maxl-torch\[onnx\]"'):
        export(grey_run, "onnx", tmp_path / "m.onnx")
    assert files(tmp_path) == []


def test_a_program_that_computes_something_else_is_not_written(
    grey_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = torch.export.load

    class Wrong:
        def __init__(self, path: Path) -> None:
            self.program = load(path).module()

        def module(self) -> object:
            return lambda x: self.program(x) + 1

    monkeypatch.setattr(torch.export, "load", Wrong)
    with pytest.raises(ValueError, match="outputs are not the model's, they differ by up to 1"):
        export(grey_run, "torch-export", tmp_path / "m.pt2")
    assert files(tmp_path) == []


def test_the_predict_command_writes_csv(
    colour: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["predict", str(colour / "run"), str(colour / "images"), "--device", "cpu"]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert main([*line, "--out", str(tmp_path / "p.csv")]) == 0
    assert (tmp_path / "p.csv").read_text() == text
    assert files(tmp_path) == ["p.csv"]
    rows = list(csv.DictReader(text.splitlines()))
    expected = predict(colour / "run", colour / "images")
    assert [(r["file"], r["class"]) for r in rows] == [(str(p.file), p.name) for p in expected]
    assert [float(r["probability"]) for r in rows] == pytest.approx(
        [p.probability for p in expected], abs=1e-6
    )


def test_the_export_command_names_what_it_wrote(
    grey_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(grey_run)]) == 0
    assert capsys.readouterr().out.split() == ["model.safetensors", "model.safetensors.json"]
    assert set(FORMATS) == {"safetensors", "torch-export", "onnx"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict none .", "holds none"),
        ("predict GREY none", "none does not exist"),
        ("predict GREY empty", "empty has none"),
        ("predict FEATURES .", "needs a CSV or parquet file for a run on features"),
        ("predict FEATURES lacking.csv", "lacking.csv lacks 'b'"),
        ("predict GREY broken --out p.csv", "broken.png' cannot be decoded"),
        ("predict GREY broken --device gpu", "--device gpu cannot be used here"),
        ("export GREY --format onx", "got 'onx'; did you mean 'onnx'"),
        (
            "export GREY --format torch-export --out m.onnx",
            "needs to end in .pt2 for torch-export; got m.onnx",
        ),
        ("export none", "holds none"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    line: str,
    message: str,
    grey_run: Path,
    feature_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_text("no image")
    write_csv(tmp_path / "t.csv")
    pd.read_csv(tmp_path / "t.csv")[["a"]].to_csv(tmp_path / "lacking.csv", index=False)
    before = files(tmp_path)
    words = {"GREY": str(grey_run), "FEATURES": str(feature_run)}
    assert main([words.get(word, word) for word in line.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("maxl: error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert files(tmp_path) == before


def test_images_in_a_folder_that_cannot_be_read_are_not_left_out(
    grey_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", pixels(1, 8, 8)[0])
    assert len(predict(grey_run, tmp_path)) == 2
    scandir = os.scandir

    def guarded(path: str) -> object:  # permissions do not bind root
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="shut cannot be read"):
        predict(grey_run, tmp_path)
