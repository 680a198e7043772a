"""What is typed, a preset, a file and a command's defaults: which wins, and what --help says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from maxl.experiments.cli import parser, read_config
from maxl.experiments.runs.config import RunConfig
from maxl.experiments.studies.aims import AIMS, Aim
from maxl.experiments.studies.tuning import VALIDATION


def config_of(line: str, **defaults: str) -> RunConfig:
    return read_config(parser().parse_checked(line.split()), dict(defaults))


def passes(config: RunConfig) -> tuple[object, ...]:
    return config.lookahead, config.evaluate, config.meta_every


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The file that a run leaves, in which every field is named."""
    RunConfig(evaluate="next", meta_every=8, epochs=7).write(tmp_path / "config.yaml")
    return tmp_path / "config.yaml"


def test_a_preset_that_is_typed_wins_over_a_file(whole: Path) -> None:
    assert passes(config_of(f"train --config {whole}")) == ("update", "next", 8)
    for preset in ("paper", "exact", "next", "everyday"):
        told = config_of(f"train --config {whole} --preset {preset}")
        assert passes(told) == passes(config_of(f"train --preset {preset}")), preset
        assert told.epochs == 7
    assert config_of(f"train --config {whole} --preset paper").generator_trunk == "own"


def test_a_flag_wins_over_a_preset(whole: Path) -> None:
    assert passes(config_of(f"train --config {whole} --preset exact --meta-every 3")) == ("update", "same", 3)


def test_a_file_leaves_what_it_does_not_name_to_the_command(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("optimizer: sgd\n")
    told = config_of(f"advise --config {file}", cluster_features="trunk")
    assert (told.optimizer, told.learning_rate, told.cluster_features) == ("sgd", 0.01, "trunk")
    file.write_text("cluster_features: input\n")
    assert config_of(f"advise --config {file}", cluster_features="trunk").cluster_features == "input"


@pytest.mark.parametrize(("command", "says"), [("advise", "(0.2)"), ("tune", "(0.2)"), ("train", "(0.0)")])
def test_help_names_what_is_set_aside_for_validation(
    command: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parser().parse_checked([command, "--help"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "--validation-size" in line)
    assert line.endswith(says)
    assert {aim: Aim(aim).validation for aim in AIMS} == {"accuracy": 0.2, "structure": 0.2, "noise": 0.5}
    assert VALIDATION == 0.2
