"""Weights of a file under the names of a trunk: all of them, or a sentence on what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maxl.experiments.runs.weights_file import fit, read_weights


class Net(nn.Module):
    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(blocks))
        self.block1 = nn.Linear(2, 2)


def state(**more: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {**Net().state_dict(), **more}


WANTED = Net().state_dict()
FC = {"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(3)}


@pytest.mark.parametrize("before", ["", "module.", "backbone.", "module.encoder."])
def test_a_difference_at_the_beginning_of_names_is_seen_through(before: str) -> None:
    stored = {before + name: t for name, t in state().items()} | FC
    found = fit(stored, WANTED, "w.pt")
    assert {*found.tensors} == {name for name in WANTED if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(t, state()[name]) for name, t in found.tensors.items())
    assert found.left == ("fc (2 tensors)",)


def test_so_is_one_of_the_trunk_whose_names_are_longer() -> None:
    wanted = {f"net.{name}": t for name, t in WANTED.items()}
    found = fit(state(**FC), wanted, "w.pt")
    assert torch.equal(found.tensors["net.stem.weight"], state()["stem.weight"])
    assert found.left == ("fc (2 tensors)",)


def test_half_precision_becomes_what_the_trunk_has() -> None:
    found = fit({name: t.half() for name, t in state().items()}, WANTED, "w.pt")
    assert found.tensors["stem.weight"].dtype == torch.float32


def other(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    changed = state()
    changed.pop(name)
    return changed if tensor is None else {**changed, name: tensor}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (other("blocks.1.bias", None), r"11 of 12 tensors fit; missing: blocks.1.bias: choose"),
        (
            {n.replace("stem", "root"): t for n, t in state().items()},
            r"missing: stem.weight, stem.bias; unexpected: root.weight, root.bias",
        ),
        (
            other("stem.weight", torch.zeros(2, 3, 3, 3)),
            r"of another shape: stem.weight is \(2, 3, 3, 3\), not \(2, 1, 3, 3\)",
        ),
        ({}, "0 of 12 tensors fit; missing: stem.weight, stem.bias, bn.weight and 9 more"),
        (
            Net(blocks=3).state_dict(),
            r"of another model than the trunk, which has no place for blocks.2.weight, blocks.2.bias",
        ),
        (state(**{"block2.weight": torch.zeros(1)}), "has no place for block2.weight"),
        (
            other("block1.bias", torch.tensor([0.0, torch.nan])),
            "needs finite weights; block1.bias has others",
        ),
        (
            {f"{p}.{n}": t + i for i, p in enumerate(("student", "teacher")) for n, t in state().items()},
            "fits the trunk in several ways, below 'student.' and 'teacher.'",
        ),
    ],
)
def test_what_does_not_fit_is_named(stored: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(stored, WANTED, "w.pt")


def test_both_kinds_of_files_are_read(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    torch.save(state(), tmp_path / "a.pt")
    torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pt", "a.pth"):
        found = read_weights(tmp_path / name)
        assert {*found} == {*WANTED}
        assert torch.equal(found["stem.weight"], state()["stem.weight"])


class Evil:
    mark: Path

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    evil = Evil()
    evil.mark = tmp_path / "mark"
    torch.save({"stem.weight": evil}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(evil))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(
            ValueError, match=rf"tensors alone; .*{name} asks for code to be run, or is damaged"
        ):
            read_weights(tmp_path / name)
    assert not evil.mark.exists()


def test_a_file_that_holds_no_one_set_of_weights_says_so(tmp_path: Path) -> None:
    torch.save({"model": state(), "ema": state()}, tmp_path / "two.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "folder.pt").mkdir()
    for name, message in (
        ("two.pt", "holds 2 sets of weights, model, ema"),
        ("list.pt", "holds list"),
        ("cut.safetensors", "cannot read"),
        ("folder.pt", "is none"),
        ("none.pt", "does not exist"),
        ("weights.h5", "needs a file .safetensors, .pt, .pth, .bin"),
    ):
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / name)
