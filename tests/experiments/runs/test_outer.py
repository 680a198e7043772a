"""How many samples can be held out to judge the lookahead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from _run_helpers import digits, files, tiny
from _run_helpers import one_thread as one_thread
from maxl.experiments.cli import main
from maxl.experiments.data import Split
from maxl.experiments.runs.evaluation import some_of
from maxl.experiments.runs.outer import check_held_out, folds, split_off
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


def unequal(*sizes: int) -> Split:
    """Samples of classes of such sizes."""
    primary = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Split(torch.zeros(len(primary), 1), primary)


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_have_the_classes_in_proportion(seed: int) -> None:
    split = unequal(900, 100)
    for count, expected in ((2, [450, 50]), (10, [90, 10])):
        parts = folds(split, count, seed)
        for part in parts:
            assert split.primary[part].bincount(minlength=2).tolist() == pytest.approx(expected, abs=1)
        assert torch.cat(parts).sort().values.tolist() == list(range(1000))


def test_what_is_held_out_leaves_a_rare_class_to_train_on() -> None:
    kept, judges = split_off(unequal(480, 20), 0.1, 0)
    assert judges.primary.bincount().tolist() == pytest.approx([48, 2], abs=1)
    assert kept.primary.bincount().tolist() == pytest.approx([432, 18], abs=1)
    kept, _ = split_off(unequal(50, 1), 0.9, 0)
    assert kept.primary.bincount().tolist() == [4, 1]
    with pytest.raises(ValueError, match=r"leave a sample of each class .* 1 of 3 classes would have none"):
        split_off(unequal(8, 1, 1), 0.8, 0)


def test_some_of_many_are_no_phase_of_what_repeats() -> None:
    assert some_of(5, 7).tolist() == list(range(5))
    some = some_of(4000, 2000)
    assert (len(some), some.unique().equal(some)) == (2000, True)
    assert 900 < int((some % 2).sum()) < 1100
