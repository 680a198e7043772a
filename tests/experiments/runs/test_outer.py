"""How many samples can be held out to judge the lookahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from _run_helpers import digits, files, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.runs.outer import check_held_out
from maxl.experiments.runs.trainer import train

RUN = "--data digits --train-size 100 --trunk mlp --epochs 1 --batch-size 25 --device cpu --no-tensorboard"


@pytest.mark.parametrize("evaluate", ["held-out", "rotating"])
@pytest.mark.parametrize("share", [1e-9, 1e-320, 0.009])
def test_less_than_a_sample_cannot_be_held_out(tmp_path: Path, evaluate: str, share: float) -> None:
    config = tiny(method="maxl", evaluate=evaluate, held_out=share)
    with pytest.raises(
        ValueError, match=rf"at least one sample, 1/100 with --evaluate {evaluate}; got {share}"
    ):
        train(config, tmp_path / "run", data=digits())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "command", ["train --method maxl --out new", "compare --methods maxl --seeds 0 --out new"]
)
def test_the_commands_refuse_it_in_one_line_and_write_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(f"{command} {RUN} --evaluate rotating --held-out 1e-9".split()) == 2
    err = capfd.readouterr().err
    assert err.startswith("maxl: error: --held-out needs a share of at least one sample")
    assert err.count("\n") == 1
    assert files(tmp_path) == []


def test_a_single_sample_may_be_held_out() -> None:
    for samples in range(2, 200):
        check_held_out(tiny(method="maxl", evaluate="rotating", held_out=1 / samples), samples)
    check_held_out(tiny(method="single", evaluate="rotating", held_out=1e-9), 10)
