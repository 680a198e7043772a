"""Models of runs saved for the hub, published and loaded again, with the evidence for them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import maxl
from _judged_helpers import photographs, prices
from _run_helpers import files, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments import load
from maxl.experiments.cli import main
from maxl.experiments.hub import RunModel
from maxl.experiments.runs.folder import RunFolder
from maxl.experiments.runs.judgement import judge
from maxl.experiments.runs.loading import load_data
from maxl.experiments.runs.trainer import train
from maxl.experiments.studies.study import Study

SAVED = ["README.md", "config.json", "config.yaml", "model.safetensors", "summary.json"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for make in (photographs, prices):
        (root / make.__name__).mkdir()
        config, _ = make(root / make.__name__)
        train(config, root / f"{make.__name__}-run")
    return root


def samples(model: RunModel) -> torch.Tensor:
    x = torch.rand(5, *model.input_shape, generator=torch.Generator().manual_seed(0))
    return x if model.takes_images else x.double()


def test_a_model_is_loaded_from_text_or_path(root: Path) -> None:
    run = root / "photographs-run"
    model = maxl.load(str(run))
    assert maxl.load is load
    assert isinstance(model, RunModel)
    assert not model.training
    assert model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 3)
    with pytest.raises(ValueError, match="holds none"):
        load(root / "nowhere")


@pytest.mark.parametrize("case", ["photographs", "prices"])
def test_what_was_saved_is_loaded_again(case: str, root: Path, tmp_path: Path) -> None:
    model = load(root / f"{case}-run")
    assert model.save_pretrained(tmp_path / "saved") is None
    assert files(tmp_path / "saved") == SAVED
    again = RunModel.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(samples(model)), model(samples(model)))
    assert (again.primary_names, again.task, again.feature_names) == (
        model.primary_names,
        model.task,
        model.feature_names,
    )
    with pytest.raises(TypeError, match="got trsut"):
        RunModel.from_pretrained(tmp_path / "saved", trsut=True)
    again.save_pretrained(tmp_path / "twice")
    for name in SAVED:
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


def test_a_saved_folder_serves_the_commands_and_tells_no_path(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(root / "photographs-run").save_pretrained(tmp_path / "saved")
    test = root / "photographs" / "test"
    given = judge(tmp_path / "saved", test, device="cpu")
    assert given.metrics == judge(root / "photographs-run", test, device="cpu").metrics
    assert main(["predict", str(tmp_path / "saved"), str(test)]) == 0
    assert main(["train", "--resume", str(tmp_path / "saved")]) == 2
    assert "is finished" in capsys.readouterr().err
    for file in (tmp_path / "saved").iterdir():
        assert str(root).encode() not in file.read_bytes()


def test_of_a_file_of_finer_classes_the_name_is_kept_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    file = tmp_path / "secret" / "finer.csv"
    digits = load_data(tiny(train_size=None))
    rows = [f"{i},{y},{y}{'ab'[i % 2]}" for i, y in enumerate(digits.train.primary.tolist())]
    file.write_text("\n".join(["row,class,finer", *rows]))
    every = load_data(tiny(train_size=None, human=str(file)))
    train(tiny(human=str(file), method="human", epochs=1), tmp_path / "run", data=every)
    load(tmp_path / "run").save_pretrained(tmp_path / "saved")
    for saved in (tmp_path / "saved").iterdir():
        assert b"secret" not in saved.read_bytes()
    assert RunFolder(tmp_path / "saved").read_config().human == "finer.csv"
    RunModel.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_card_says_which_epoch_was_kept(keep: str, tmp_path: Path) -> None:
    settings = {"method": "single", "epochs": 6, "keep": keep, "validation_size": 50, "learning_rate": 0.05}
    for seed in range(8):
        summary = train(tiny(**settings, seed=seed), tmp_path / f"run{seed}")
        text = str(load(tmp_path / f"run{seed}").generate_model_card())
        kept = summary.get("kept_epoch", 6)
        assert ("after the last epoch" in text) == (kept == 6)
        assert (f"after epoch {kept} of 6, which was kept" in text) == (kept != 6)
        if kept != 6 or keep == "last":
            return
    raise AssertionError("no run whose best epoch is not the last")


def test_a_damaged_copy_is_refused(root: Path, tmp_path: Path) -> None:
    load(root / "prices-run").save_pretrained(tmp_path / "saved")
    content = bytearray((tmp_path / "saved" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "saved" / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="does not have its checksum"):
        RunModel.from_pretrained(tmp_path / "saved")


def test_another_model_in_the_same_folder_leaves_nothing_of_the_first(root: Path, tmp_path: Path) -> None:
    load(root / "photographs-run").save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "text.safetensors").write_bytes(b"of another run")
    load(root / "prices-run").save_pretrained(tmp_path / "saved")
    assert files(tmp_path / "saved") == SAVED
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "RMSE" in card
    assert "accuracy" not in card


def test_places_and_weights_that_are_refused(root: Path, tmp_path: Path) -> None:
    model = load(root / "prices-run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for place, message in (
        (tmp_path / "other", "something else"),
        (tmp_path / "other" / "file", "is a file"),
        (root / "prices-run", "something else"),
        (root / "prices-run" / "saved", "outside of runs and studies"),
    ):
        before = files(root)
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(place)
        assert files(root) == before
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="no longer those"):
        model.save_pretrained(tmp_path / "saved")
    assert files(tmp_path) == ["other", "other/file"]


def test_the_card_tells_what_the_run_told(root: Path) -> None:
    run = root / "photographs-run"
    card = ModelCard(str(load(run).generate_model_card()))
    summary, text = RunFolder(run).read_summary(), card.text
    assert card.data.library_name == "maxl-torch"
    assert card.data.pipeline_tag == "image-classification"
    assert f"| accuracy | {100 * summary['test_accuracy']:.4f} % | share of samples" in text
    assert f"| negative log-likelihood | {summary['test_nll']:.6f} |" in text
    for told in (
        "| method | maxl |",
        "| data | photographs |",
        "-dash, =formula, cat",
        "| torch |",
        "Not known: the run",
    ):
        assert told in text, told
    assert str(root) not in text
    assert "trust" not in text


def test_names_in_a_card_are_text(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "photographs-run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    summary = folder.read_summary()
    names = ["a | b", "<script>x</script>", "[link](http://x)\n# heading"]
    folder.write_summary({**summary, "primary_names": names})
    text = str(load(tmp_path / "run").generate_model_card())
    assert "<script>" not in text
    assert r"a \| b" in text
    assert r"\[link\](http://x) \# heading" in text


def test_the_card_of_a_studys_run_tells_how_it_compares(tmp_path: Path) -> None:
    base = tiny(epochs=1)
    Study(base, ["single", "maxl"], [0, 1]).run(tmp_path / "study", jobs=1)
    text = str(load(tmp_path / "study" / "runs" / "maxl" / "seed0").generate_model_card())
    assert "one of 2 of its method in a study" in text
    accuracies = {
        method: [
            RunFolder(tmp_path / "study" / "runs" / method / f"seed{seed}").read_summary()["test_accuracy"]
            for seed in (0, 1)
        ]
        for method in ("single", "maxl")
    }
    for method, values in accuracies.items():
        assert f"| {method} | 2 | {100 * sum(values) / 2:.2f} |" in text
    gained = 50 * (sum(accuracies["maxl"]) - sum(accuracies["single"]))
    row = re.search(r"\| single \| (\S+) points? \|", text)
    assert row is not None
    assert float(row[1].replace("−", "-")) == pytest.approx(gained, abs=0.051)
    single = str(load(tmp_path / "study" / "runs" / "single" / "seed1").generate_model_card())
    assert "This is single-task training." in single


def test_a_model_goes_to_the_hub_and_comes_back(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def create(_: object, repo_id: str, **options: Any) -> SimpleNamespace:
        sent["repo"] = (repo_id, options["private"])
        return SimpleNamespace(repo_id=repo_id)

    def upload(_: object, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, tmp_path / "hub")
        return f"https://hub/{repo_id}/commit"

    def download(repo_id: str, **options: Any) -> str:
        sent["wanted"] = (repo_id, options["revision"], options["allow_patterns"])
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    model = load(root / "prices-run")
    assert model.push_to_hub("owner/name", private=True) == "https://hub/owner/name/commit"
    assert sent["repo"] == ("owner/name", True)
    assert files(tmp_path / "hub") == SAVED
    monkeypatch.setattr("maxl.experiments.hub._model.snapshot_download", download)
    config = lambda **options: str(tmp_path / "hub" / options["filename"])  # noqa: E731
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", config)
    again = RunModel.from_pretrained("owner/name", revision="v1")
    assert sent["wanted"][:2] == ("owner/name", "v1")
    assert {*SAVED, "architecture.json", "text.safetensors", "columns.skops", "tokenizer.json"} == {
        *sent["wanted"][2]
    }
    with torch.no_grad():
        assert torch.equal(again(samples(model)), model(samples(model)))


def test_code_that_a_folder_names_is_not_run(root: Path, tmp_path: Path) -> None:
    load(root / "photographs-run").save_pretrained(tmp_path / "saved")
    folder = RunFolder(tmp_path / "saved")
    values = yaml.safe_load(folder.config.read_text()) | {"trunk": "evil:trunk"}
    folder.config.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(ValueError, match="wants to run code, trunk 'evil:trunk'"):
        RunModel.from_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="evil"):
        RunModel.from_pretrained(tmp_path / "saved", trust=True)
