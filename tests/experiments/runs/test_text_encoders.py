"""Encoders of texts as trunks, by name: what they are given, what a run keeps of it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from _run_helpers import Interrupted, interrupt_after, metrics, model, tiny
from _run_helpers import one_thread as one_thread
from _text_helpers import LENGTH, encoder, texts, transformers, write_texts
from _text_helpers import little_garbage as little_garbage
from maxl.experiments.cli import main
from maxl.experiments.data import NO_TOKEN, DataSet, Tokens
from maxl.experiments.hub import RunModel
from maxl.experiments.runs.checking import Case, run_check
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.exporting import export
from maxl.experiments.runs.inference import predict
from maxl.experiments.runs.invented import invent
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.model import load_model
from maxl.experiments.runs.start import told
from maxl.experiments.runs.text_encoders import hub_tokens
from maxl.experiments.runs.trainer import resume, train
from maxl.experiments.runs.trunks import Words, bare, build
from maxl.finetuning import parameter_layers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, bert, and texts.csv."""
    folder = tmp_path_factory.mktemp("texts")
    encoder(folder / "bert")
    write_texts(folder / "texts.csv")
    return folder


def settings(place: Path, **changes: Any) -> RunConfig:
    words: dict[str, Any] = {
        "data": str(place / "texts.csv"),
        "trunk": f"hf:{place / 'bert'}",
        "text_length": LENGTH,
    }
    return tiny(
        **{
            **words,
            "train_size": None,
            "epochs": 1,
            "batch_size": 16,
            "psi": [2],
            "drop": ["finer"],
            **changes,
        }
    )


def tokens_of(place: Path, length: int | None = LENGTH) -> Tokens:
    tokens = hub_tokens(str(place / "bert"), length)
    assert tokens is not None
    return tokens


def test_texts_become_the_tokens_that_the_models_own_tokenizer_gives(place: Path) -> None:
    data = load_data(settings(place))
    own = transformers().AutoTokenizer.from_pretrained(place / "bert")
    every = [text for text, _, _ in texts()]
    assert data.train.rows is not None
    for x, row in zip(data.train.x, data.train.rows.tolist(), strict=True):
        expected = own(every[row], truncation=True, max_length=LENGTH)["input_ids"]
        assert x.tolist() == expected + [NO_TOKEN] * (LENGTH - len(expected))
    longer = sum(len(text.split()) + 2 > LENGTH for text in every)
    assert data.saw.endswith(
        f"at most {LENGTH} each; {longer} of 40 texts are longer and were cut, which --text-length changes"
    )
    assert (data.input_shape, data.text, data.tokens and data.tokens.column) == ((LENGTH,), None, "text")
    whole = load_data(settings(place, text_length=None))
    assert whole.input_shape == (12,)  # all that the model has positions for
    assert whole.saw.endswith("at most 12 each; none of 40 texts is longer")


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize("pool", ["mean", "first"])
def test_features_are_those_of_a_text_by_itself_whatever_it_is_padded_to(
    kind: str, pool: str, tmp_path: Path
) -> None:
    encoder(tmp_path / "bert", kind, padding=False, pad_token_id=1)
    tokens = tokens_of(tmp_path, None)
    assert tokens.length == (
        10 if kind == "Roberta" else 12
    )  # of RoBERTa positions begin behind that of padding
    x = tokens(["rain [PAD] unheard", "book a table please now", ""])
    trunk = build(f"hf:{tmp_path / 'bert'}", x.shape[1:], words=Words(pool=pool)).double().eval()
    inside: Any = bare(trunk)
    with torch.no_grad():
        together = trunk(x)
        for i, row in enumerate(x):
            real = row[row != NO_TOKEN].long().unsqueeze(0)
            states = inside(input_ids=real, attention_mask=torch.ones_like(real)).last_hidden_state[0]
            expected = states.mean(0) if pool == "mean" else states[0]
            torch.testing.assert_close(together[i], expected)
            torch.testing.assert_close(trunk(x[i : i + 1])[0], expected)
        nothing = torch.full((1, tokens.length), NO_TOKEN)
        assert trunk(nothing).isfinite().all()
        torch.testing.assert_close(trunk(torch.cat([nothing, x]))[:1], trunk(nothing))
    with pytest.raises(ValueError, match=r"takes tokens of texts, whole numbers \(N, L\); got torch.float32"):
        trunk(torch.zeros(2, tokens.length))


def test_methods_of_every_kind_train_on_texts(place: Path, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        **{method: {} for method in ("uniform", "frozen", "weighted")},
        "kmeans": {"cluster_features": "trunk"},
        "human": {"drop": None, "human": "finer"},
        "maxl": {"probe": "finer", "drop": None},
    }
    loaded: dict[str, DataSet] = {}
    for method, more in changes.items():
        config = settings(place, method=method, **more)
        kind = str(more.get("drop", "")) + str(more.get("probe"))
        data = loaded.setdefault(kind, load_data(config))
        summary = train(config, tmp_path / method, data=data)
        assert 0 <= summary["test_accuracy"] <= 1
        (row,) = metrics(tmp_path / method)
        if method in ("weighted", "maxl"):
            assert row["label_entropy"] > 0
    assert "test_probe" in summary
    assert "test_probe_inputs" not in summary  # numbers of tokens say nothing by their size


def test_a_run_keeps_all_that_it_needs_of_an_encoder(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "bert", tmp_path / "bert")
    shutil.copy(place / "texts.csv", tmp_path / "texts.csv")
    monkeypatch.chdir(tmp_path)
    words = f"train --data texts.csv --drop finer --text-length {LENGTH} --psi 2 --epochs 2 --batch-size 16 --device cpu"
    fine = "--pretrained --layer-decay 0.5 --freeze embeddings --trunk-learning-rate 1e-3 --method maxl --out run"
    assert main([*words.split(), "--trunk", "hf:bert", *fine.split()]) == 0
    assert "texts become tokens as hf:bert takes them, at most 6 each; " in capsys.readouterr().err
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["tokens"] == {"column": "text", "length": LENGTH}
    assert told(summary["start"]).startswith("starts from the weights of hf:bert: trunk")
    before = {
        name: t for name, t in load_tensors(place / "bert").items() if name.startswith("bert.embeddings.")
    }
    for name, tensor in before.items():  # which is frozen
        assert torch.equal(model(run)[f"trunk.features.module.{name.removeprefix('bert.')}"], tensor)
    shutil.rmtree(tmp_path / "bert")

    every = texts()
    (tmp_path / "new.txt").write_text("\n".join(text for text, _, _ in every) + "\n")
    predicted = [p[1] for p in predict(run, tmp_path / "new.txt")]
    assert predicted == [p[1] for p in predict(run, tmp_path / "texts.csv")]
    assert judge(run).metrics["accuracy"] == summary["test_accuracy"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was trained on
        accuracy = judge(run, tmp_path / "texts.csv").metrics["accuracy"]
    correct = [name == label for name, (_, label, _) in zip(predicted, every, strict=True)]
    assert accuracy == pytest.approx(sum(correct) / 40)
    assert invent(run, tmp_path / "texts.csv").labels.shape == (40, 4)

    loaded = load_model(run)
    assert loaded.tokens is not None
    x = loaded.tokens([text for text, _, _ in every])
    with pytest.raises(ValueError, match=r"tokens are whole numbers, as model\.tokens makes them"):
        loaded(x.float())
    for odd in (x.clamp_min(loaded.tokens.kinds), x.clamp_max(NO_TOKEN - 1), x > 0):
        with pytest.raises(
            ValueError, match=r"tokens are (numbers from -1 to 13|whole numbers), as model\.tokens"
        ):
            loaded(odd)
    RunModel.of_run(run).save_pretrained(tmp_path / "saved")
    again = RunModel.from_pretrained(tmp_path / "saved")
    assert again.tokens is not None
    with torch.no_grad():
        assert torch.equal(again(again.tokens([every[5][0]])), loaded(x[5:6]))
    assert "as `model.tokens` makes them" in (tmp_path / "saved" / "README.md").read_text()

    for name, content in {"missing": None, "damaged": "{}"}.items():
        file = tmp_path / name / "tokenizer.json"
        shutil.copytree(tmp_path / "saved", tmp_path / name)
        file.unlink()
        if content is not None:
            file.write_text(content)
        assert main(["predict", name, "new.txt"]) == 2
        error = capsys.readouterr().err
        assert "tokenizer.json" in error
        assert len(error.splitlines()) == 1


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_an_exported_program_takes_tokens(place: Path, tmp_path: Path) -> None:
    here = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    format, name = ("onnx", "m.onnx") if here else ("torch-export", "m.pt2")  # both are given the same
    train(settings(place, method="single"), tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages, about themselves
        file = export(tmp_path / "run", format, tmp_path / name)  # compared with the model there
    said = json.loads(file.read_text())
    tokens = {"column": "text", "length": LENGTH, "padding": NO_TOKEN, "kinds": 14}
    assert said["tokens"] == {**tokens, "tokenizer": f"{name}.tokenizer.json"}
    assert (said["input_dtype"], said["input_layout"], said["input_shape"]) == ("int64", "NL", [LENGTH])
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(tmp_path / said["tokens"]["tokenizer"]))
    loaded = load_model(tmp_path / "run")
    assert loaded.tokens is not None
    text = "book a table please now today"
    assert alone.encode(text).ids == loaded.tokens([text])[0].tolist()


def test_an_interruption_leaves_no_trace_and_another_run_goes_on_from_it(place: Path, tmp_path: Path) -> None:
    config = settings(place, method="maxl", epochs=2)
    data = load_data(config)
    train(config, tmp_path / "whole", data=data)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "cut", data=data, report=interrupt_after(1))
    resume(tmp_path / "cut")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert all(torch.equal(t, model(tmp_path / "whole")[n]) for n, t in model(tmp_path / "cut").items())
    after = dataclasses.replace(
        config, epochs=1, trunk="auto", method="single", from_run=str(tmp_path / "whole"), text_length=8
    )
    data = load_data(after)
    assert data.input_shape == (8,)  # positions are there for more
    assert data.tokens is not None
    assert torch.equal(data.tokens(["book a table"])[:, :LENGTH], tokens_of(place)(["book a table"]))
    summary = train(after, tmp_path / "next", data=data)
    assert "primary head (the same 2 classes)" in summary["start"]["taken"]
    with pytest.raises(ValueError, match="takes texts, one column of them; 'digits' has images"):
        load_data(dataclasses.replace(after, data="digits", drop=None))


def test_the_double_gradient_of_an_encoder_of_texts_is_checked_on_tokens(place: Path) -> None:
    report = run_check(Case(f"hf:{place / 'bert'}", (LENGTH,), 2, 2, 4), repeats=1)
    assert report.recommended in ("forward", "reverse")
    assert all(row.relative_error < 1e-3 for row in report.rows if row.method in ("forward", "reverse"))  # type: ignore[operator]
    trunk = build(f"hf:{place / 'bert'}", (LENGTH,))
    assert [len(layer) for layer in parameter_layers(trunk)] == [5, 16]


REFUSALS: dict[str, tuple[str, str]] = {
    "images": ("--data digits", "hf:bert takes texts, one column of them; 'digits' has images"),
    "numbers": ("--data numbers.csv", "'numbers.csv' has the columns a, b: leave out the others with --drop"),
    "several columns": ("--data texts.csv", "'texts.csv' has the columns text, finer: leave out"),
    "a model of images": (
        "--data texts.csv --drop finer --trunk hf:vit",
        "'hf:vit' needs images of shape (C, H, W); got samples of shape",
    ),
    "a decoder": ("--trunk hf:t5", "--trunk hf: takes encoders of text; a t5 has a decoder, too"),
    "one that looks back alone": ("--trunk hf:gpt2", "in GPT2Model a token sees those before it alone"),
    "one without a mask": ("--trunk hf:fnet", "those of FNetModel depend on padding"),
    "too long": ("--text-length 13", "--text-length needs to be at most 12 for hf:bert; got 13"),
    "too short": ("--text-length 2", "a text needs room for a word beside 2 special tokens"),
    "no encoder": ("--trunk resmlp --text-length 8", "--text-length is for an encoder of texts"),
    "on disk": ("--stream", "is read whole: write it as parquet, or leave --stream out"),
    "clusters": (
        "--method kmeans",
        "numbers of tokens say nothing by their size: use --cluster-features trunk",
    ),
    "another generator": (
        "--method maxl --generator-trunk mlp",
        "--generator-trunk mlp needs to take what --trunk",
    ),
    "a generator of texts": (
        "--trunk resmlp --generator-trunk hf:bert",
        "needs to take what --trunk resmlp does",
    ),
    "pixels": ("--normalisation model", "--normalisation model is of images; hf:bert takes texts"),
    "a wrong tokenizer": ("--trunk hf:small", "it numbers 14 tokens, of which the model knows 9"),
    "a missing tokenizer": ("--trunk hf:mute", "that of 'mute' knows no word: put its files beside"),
    "a damaged tokenizer": (
        "--trunk hf:hurt",
        "the tokenizer of 'hurt', in a folder or on the hub, could not be had",
    ),
    "crops": ("--augment crop", "--augment crop needs images"),
}


@pytest.fixture(scope="module")
def odd(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same, and with models that are no encoders of texts."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(place, folder, dirs_exist_ok=True)
    (folder / "numbers.csv").write_text("a,b,label\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(40)))
    encoder(folder / "gpt2", "GPT2")
    encoder(folder / "fnet", "FNet")
    encoder(folder / "small", vocab_size=9)
    shutil.copytree(place / "bert", folder / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree(place / "bert", folder / "hurt")
    (folder / "hurt" / "tokenizer.json").write_text('{"model": 3}')
    library: Any = transformers()
    library.T5Config(d_model=8, num_layers=1, num_heads=1, d_ff=8, vocab_size=20).save_pretrained(
        folder / "t5"
    )
    library.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(
        folder / "vit"
    )
    return folder


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_right_is_one_line(
    case: str, odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(odd)
    words, message = REFUSALS[case]
    start = "train --trunk hf:bert --epochs 1 --method single --device cpu --no-tensorboard"
    data = [] if "--data" in words else ["--data", "texts.csv", "--drop", "finer"]
    assert main([*start.split(), *data, *words.split(), "--out", str(tmp_path / "run")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("maxl: error: ")
    assert message in error
    assert not (tmp_path / "run").exists()
