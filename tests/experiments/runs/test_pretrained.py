"""Weights that come with named models, from caches and folders as a download leaves them: there is no network here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from _data_helpers import pixels, write_image
from _run_helpers import digits, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.hub import RunModel
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.trainer import Trainer, resume, train
from maxl.experiments.runs.trunks import bare, build
from maxl.finetuning import parameter_layers

NAME = "test_resnet.r160_in1k"  # a very small one
SMALL: dict[str, Any] = {"trunk": f"timm:{NAME}", "image_size": 16, "train_size": 50, "epochs": 1}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, and no network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def published(cache: Path) -> dict[str, Tensor]:
    """Weights in the cache as if the hub had given them, classifier and all; and returned."""
    torch.manual_seed(5)
    whole = timm.create_model(NAME, pretrained=False)
    state = {name: (t + 0.01 if t.is_floating_point() else t) for name, t in whole.state_dict().items()}
    snapshot = cache / f"models--timm--{NAME}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    return state


def test_a_model_of_timm_brings_weights_mean_std_size_and_colours(cache: Path, tmp_path: Path) -> None:
    state = published(cache)
    config = tiny(method="maxl", pretrained=True, **SMALL)
    data = load_data(config)
    assert data.train.x.shape[1:] == (3, 16, 16)  # grey digits, repeated
    assert torch.equal(data.train.x[:, 0], data.train.x[:, 2])
    cfg = timm.models.get_pretrained_cfg(NAME)
    assert (data.mean, data.std) == (cfg.mean, cfg.std)
    assert load_data(dataclasses.replace(config, image_size=None)).input_shape == cfg.input_size
    run = Trainer(config, RunFolder(tmp_path / "run"), data)
    for trunk in (run.setup.network.trunk, run.setup.generator.trunk):  # type: ignore[union-attr]
        for name, tensor in bare(trunk).state_dict().items():  # type: ignore[arg-type]
            assert torch.equal(tensor, state[name]) or name.endswith("num_batches_tracked")
    summary = run.fit()
    assert summary["start"]["left"] == ["fc"]
    assert (summary["mean"], summary["input_shape"]) == (list(cfg.mean), [3, 16, 16])
    shutil.rmtree(cache)  # nothing more is needed of it
    loaded = load_model(tmp_path / "run")
    with torch.no_grad():
        correct = (loaded(data.test.x).argmax(1) == data.test.primary).double().mean()
    assert float(correct) == summary["test_accuracy"]
    assert judge(tmp_path / "run").metrics["accuracy"] == summary["test_accuracy"]
    image = write_image(tmp_path / "grey.png", pixels(1, 8, 8)[0]) or tmp_path / "grey.png"
    assert predict(tmp_path / "run", Path(image))
    sidecar = export(tmp_path / "run", "safetensors", tmp_path / "m.safetensors")
    assert json.loads(sidecar.read_text())["mean"] == list(cfg.mean)


def test_an_interruption_leaves_no_trace_in_a_run_from_pretrained_weights(
    cache: Path, tmp_path: Path
) -> None:
    published(cache)
    more: dict[str, Any] = {"layer_decay": 0.75, "freeze": ["conv1", "bn1"], "warmup": 0.5, "batch_size": 20}
    config = tiny(**{**SMALL, "method": "maxl", "pretrained": True, "epochs": 2, "evaluate": "next", **more})
    train(config, tmp_path / "whole")

    def cut(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", report=cut)
    resume(tmp_path / "cut")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert all(torch.equal(t, model(tmp_path / "whole")[n]) for n, t in model(tmp_path / "cut").items())


def test_weights_that_cannot_be_had_are_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"train --data digits --train-size 50 --epochs 1 --device cpu --out run --trunk timm:{NAME}"
    for more, message in (
        ("--pretrained --image-size 16", f"the weights of '{NAME}' could not be had"),
        ("--pretrained --trunk timm:resnet18.none", "timm has no weights 'none' of resnet18: it has "),
        ("--pretrained --trunk timm:test_vit5", "unknown trunk"),
        (
            "--pretrained --trunk hf:none/such",
            "the architecture of 'none/such', in a folder or on the hub, could not be had",
        ),
    ):
        assert main([*words.split(), *more.split()]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("maxl: error: ")
        assert message in error
        assert not (tmp_path / "run").exists()


def test_a_file_for_a_model_of_timm_takes_its_normalisation_unless_told_otherwise(
    cache: Path, tmp_path: Path
) -> None:
    save_file(published(cache), tmp_path / "w.safetensors")
    shutil.rmtree(cache)
    config = tiny(method="single", weights=str(tmp_path / "w.safetensors"), **SMALL)
    assert load_data(config).mean == timm.models.get_pretrained_cfg(NAME).mean
    plain = load_data(dataclasses.replace(config, normalisation="data"))
    assert (plain.mean, plain.input_shape) == ((0.5,), (1, 16, 16))
    with pytest.raises(
        ValueError, match=r"of another shape: conv1.0.weight is \(\d+, 3, 3, 3\), not \(\d+, 1, 3, 3\)"
    ):
        Trainer(dataclasses.replace(config, normalisation="data"), RunFolder(tmp_path), plain)
    wide = dataclasses.replace(
        digits(), train=dataclasses.replace(digits().train, x=torch.zeros(100, 2, 8, 8).byte())
    )
    from maxl.experiments.runs.libraries import own_inputs
    from maxl.experiments.runs.own_inputs import as_taken

    own = own_inputs("timm", NAME)
    assert own is not None
    with pytest.raises(ValueError, match="takes images of 3 channels; those of digits have 2"):
        as_taken(wide, own, by="--trunk x")


def encoder(folder: Path) -> nn.Module:
    """A very small ViT for classification in a folder, as save_pretrained leaves it."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(6)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    whole: nn.Module = transformers.ViTForImageClassification(config)
    whole.save_pretrained(folder)  # type: ignore[operator]
    processor = transformers.ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(folder)
    return whole


def test_an_encoder_of_transformers_for_images_trains_and_predicts_without_its_folder(tmp_path: Path) -> None:
    whole = encoder(tmp_path / "vit").eval()
    config = tiny(trunk=f"hf:{tmp_path / 'vit'}", pretrained=True, train_size=50, epochs=1, layer_decay=0.5)
    data = load_data(config)
    assert (data.input_shape, data.mean, data.std) == ((3, 16, 16), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    run = Trainer(config, RunFolder(tmp_path / "run"), data)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.vit(x).last_hidden_state.mean(1)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(run.setup.network.trunk.eval()(x), expected)
    assert [len(layer) for layer in parameter_layers(run.setup.network.trunk)] == [4, 16, 16, 18]
    summary = run.fit()
    assert summary["start"]["left"] == ["classifier", "pooler"] or summary["start"]["left"] == ["classifier"]
    shutil.rmtree(tmp_path / "vit")
    loaded = load_model(tmp_path / "run")
    with torch.no_grad():
        correct = (loaded(data.test.x).argmax(1) == data.test.primary).double().mean()
    assert float(correct) == summary["test_accuracy"]
    RunModel.of_run(tmp_path / "run").save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "saved").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    again = RunModel.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(data.test.x[:5]), loaded(data.test.x[:5]))
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        pytest.skip(f"the rest needs {' and '.join(missing)}: the extra onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages, about themselves
        export(tmp_path / "run", "onnx", tmp_path / "m.onnx")  # which compares its outputs with the model's
    assert (tmp_path / "m.onnx").stat().st_size > 0


def test_the_first_token_or_another_output_can_be_the_features(tmp_path: Path) -> None:
    from maxl.experiments.runs.trunks import Words

    encoder(tmp_path / "vit")
    x = torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    trunk = build(f"hf:{tmp_path / 'vit'}", (3, 16, 16), words=Words(pool="first")).eval()
    with torch.no_grad():
        assert torch.equal(trunk(x), bare(trunk)(x).last_hidden_state[:, 0])
    with pytest.raises(ValueError, match=r"output= needs to say where the features are .* got 'logits'"):
        build(f"hf:{tmp_path / 'vit'}", (3, 16, 16), words=Words(output="logits"))


OWN = """import torch
from torch import nn
class Several(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(64, 5), kind
    def forward(self, x):
        z = self.layer(x.flatten(1))
        tokens = torch.stack([z, 2 * z], 1)
        return {"tuple": (x, z), "dict": {"z": z, "x": x}, "tokens": {"last": tokens}}[self.kind]
def as_tuple(shape): return Several("tuple")
def as_dict(shape): return Several("dict")
def as_tokens(shape): return Several("tokens")
"""


@pytest.mark.parametrize(
    ("function", "words", "message"),
    [
        ("as_tuple", {"trunk_output": "1"}, None),
        ("as_dict", {"trunk_output": "z"}, None),
        ("as_tokens", {"trunk_output": "last", "trunk_pool": "mean"}, None),
        ("as_tokens", {"trunk_output": "last", "trunk_pool": "first"}, None),
        ("as_dict", {}, "Several gives dict: --trunk-output says where"),
        ("as_dict", {"trunk_output": "y"}, "got 'y' where there is z, x"),
        ("as_tokens", {"trunk_output": "last"}, r"Features gives \(1, 2, 5\): --trunk-output says"),
        ("as_tuple", {"trunk_output": "1", "trunk_pool": "mean"}, "pooling needs features of tokens"),
    ],
)
def test_modules_that_give_several_things_are_trunks_by_a_word(
    function: str, words: dict[str, str], message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "several_outputs.py").write_text(OWN)
    config = tiny(method="maxl", trunk=f"several_outputs:{function}", epochs=1, **words)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            Trainer(config, RunFolder(tmp_path / "run"), digits())
        return
    summary = train(config, tmp_path / "run", data=digits())
    loaded = load_model(tmp_path / "run", trust=True)
    with torch.no_grad():
        correct = (loaded(digits().test.x).argmax(1) == digits().test.primary).double().mean()
    assert float(correct) == summary["test_accuracy"]


def test_a_model_of_torchvision_has_features_of_its_measured_width(tmp_path: Path) -> None:
    trunk = build("torchvision:resnet18", (3, 32, 32))
    assert trunk.feature_dim == 512
    assert "model.fc.weight" not in trunk.state_dict()
    wide = build("torchvision:mobilenet_v3_small", (3, 32, 32))
    assert wide.feature_dim == 1024
    for name, message in (
        ("googlenet", "needs one linear layer that gives classes, to be left out; googlenet has 3"),
        ("squeezenet1_1", "squeezenet1_1 has 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build(f"torchvision:{name}", (3, 64, 64))
    with pytest.raises(ValueError, match=r"ResNet does not say it"):
        parameter_layers(trunk)


def test_torchvisions_weights_are_those_of_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loading code is torchvision's own; its cache is filled, and the checksum of the download is not asked for."""
    from torchvision import models

    whole = models.resnet18()
    url = models.get_model_weights("resnet18").DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / url.rsplit("/", 1)[1])
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    config = tiny(
        trunk="torchvision:resnet18", pretrained=True, train_size=20, image_size=16, method="single"
    )
    data = load_data(config)
    assert data.mean == (0.485, 0.456, 0.406)
    run = Trainer(config, RunFolder(tmp_path / "run"), data)
    assert run.start is not None
    assert run.start.left == ("fc (2 tensors)",)
    found = bare(run.setup.network.trunk).state_dict()
    assert torch.equal(found["layer4.1.conv2.weight"], whole.state_dict()["layer4.1.conv2.weight"])
