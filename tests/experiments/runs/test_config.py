"""The one definition of a run: checks, YAML, and messages that say what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import maxl
from maxl.experiments.cli import parser, read_config
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.runs.methods import METHODS, NOISE_METHODS
from maxl.experiments.runs.values import nearest


def test_a_config_survives_its_yaml_file(tmp_path: Path) -> None:
    config = RunConfig(
        method="weighted",
        psi=(2, 3),
        train_size=0.25,
        human=None,
        meta_learning_rate=1e-5,
        cache_labels=True,
        evaluate="next",
    )
    config.write(tmp_path / "config.yaml")
    assert RunConfig.read(tmp_path / "config.yaml") == config


def test_an_empty_mapping_gives_the_defaults_and_every_field_has_help() -> None:
    assert RunConfig.from_dict({}) == RunConfig()
    assert all(f.metadata["help"] for f in dataclasses.fields(RunConfig))


def test_the_learning_rate_follows_the_optimizer_unless_it_is_given() -> None:
    assert (RunConfig().learning_rate, RunConfig(optimizer="sgd").learning_rate) == (1e-3, 0.01)
    assert RunConfig(optimizer="sgd", learning_rate=0.5).learning_rate == 0.5


def test_older_files_name_no_trunk_of_the_generator_where_it_has_its_own(tmp_path: Path) -> None:
    assert RunConfig().generator_trunk == "shared"
    (tmp_path / "c.yaml").write_text("generator_trunk: null\n")
    assert RunConfig.read(tmp_path / "c.yaml").generator_trunk == "own"


def test_what_presets_say_of_a_run() -> None:
    for name in maxl.PRESETS:
        config = read_config(parser().parse_args(["train", "--preset", name, "--out", "run"]))
        assert config.generator_trunk == ("own" if name == "paper" else "shared")
    typed = ["train", "--preset", "paper", "--generator-trunk", "shared", "--out", "run"]
    assert read_config(parser().parse_args(typed)).generator_trunk == "shared"


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().epochs = 3  # type: ignore[misc]


def test_numbers_in_the_notation_that_yaml_reads_as_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("meta_learning_rate: 1e-3\ntrain_size: 100\npsi: 4\n")
    config = RunConfig.read(tmp_path / "c.yaml")
    assert (config.meta_learning_rate, config.train_size, config.psi) == (1e-3, 100.0, (4,))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_config(method: str) -> None:
    trusted = "checked" if method in NOISE_METHODS else None
    assert RunConfig(method=method, trusted=trusted).method == method


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs needs to be at least 1; got 0"),
        ({"batch_size": -1}, "--batch-size needs to be at least 1; got -1"),
        ({"meta_every": 0}, "--meta-every needs to be at least 1"),
        ({"seed": -1}, "--seed needs to be at least 0"),
        ({"seed": 2**32}, "--seed needs to be below 4294967296"),
        ({"gamma": -0.5}, "--gamma needs to be at least 0"),
        ({"gamma": float("nan")}, "--gamma needs to be a finite number; got nan"),
        ({"train_size": float("inf")}, "--train-size needs to be a finite number; got inf"),
        (
            {"validation_size": 1.0},
            "--validation-size needs .*2 or more; got 1, which may mean one sample or all",
        ),
        ({"train_size": 1}, "--train-size needs to be a fraction below 1, or a count of 2 or more; got 1"),
        ({"learning_rate": 0.0}, "--learning-rate needs to be above 0; got 0.0"),
        ({"psi": ()}, "--psi needs whole numbers of at least 1"),
        ({"psi": (3, 0)}, "--psi needs whole numbers of at least 1; got 3 0"),
        ({"held_out": 1.0}, "--held-out needs to be a fraction between 0 and 1"),
        ({"method": "maxxl"}, "--method needs to be one of .*; got 'maxxl'; did you mean 'maxl'?"),
        ({"optimizer": "lbfgs"}, "--optimizer needs to be one of sgd, adam, adamw; got 'lbfgs'"),
        ({"evaluate": "next", "lookahead": "virtual"}, "use it with --lookahead update"),
        ({"evaluate": "next", "schedule": "epochs"}, "--schedule epochs has no next batch"),
        ({"evaluate": "rotating", "cache_labels": True}, "use it without --cache-labels"),
        (
            {"label_statistics": "batch"},
            "is of a generator with a trunk of its own: add --generator-trunk own",
        ),
        ({"method": "gated", "lookahead": "virtual"}, "--method gated acts on the update just taken"),
        ({"momentum": 0.9, "optimizer": "adam"}, "--momentum goes with --optimizer sgd; got adam"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'?"),
        ({"zzz": 3}, "unknown key 'zzz'; choose from data, "),
        ({"epochs": "three"}, "epochs needs a value of kind int; got 'three'"),
        ({"epochs": 1.5}, "epochs needs a value of kind int; got 1.5"),
        ({"epochs": True}, "epochs needs a value of kind int; got True"),
        ({"epochs": None}, "epochs needs a value of kind int; got None"),
        ({"cache_labels": "yes"}, "cache_labels needs a value of kind bool; got 'yes'"),
        ({"psi": [2.5]}, "psi needs a value of kind"),
        ({"psi": "5"}, "psi needs a value of kind"),
        ({"learning_rate": "fast"}, "learning_rate needs a value of kind float; got 'fast'"),
        ({"data": ["digits"]}, "data needs a value of kind str"),
    ],
)
def test_plain_values_of_the_wrong_kind(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"here.*{message.replace('?', '.')}"):
        RunConfig.from_dict(values, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1", "is not valid YAML"),
        ("- 1\n- 2\n", "'name: value' a line; got list"),
        ("", "'name: value' a line; got NoneType"),
        ("epochz: 3\n", "c.yaml has an unknown key 'epochz'; did you mean 'epochs'"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig.read(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--config needs a file; .* does not exist"):
        RunConfig.read(tmp_path / "none.yaml")


def test_the_nearest_name_or_else_all_names() -> None:
    assert nearest("epocs", ["epochs", "seed"]) == "; did you mean 'epochs'?"
    assert nearest("qqq", ["epochs", "seed"]) == "; choose from epochs, seed"
