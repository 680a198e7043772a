"""Forward mode on the building blocks that networks are made of, and on families of timm."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import maxl
from maxl.check import HypergradientReport, check_hypergradient
from maxl.hypergradients import differentiable_kernels

WIDTH = 16


class Attention(nn.Module):
    """Scaled dot-product attention over positions, with dropout in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return mixed


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(WIDTH, WIDTH, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x)[0]
        return states


class Channels(nn.Module):
    """Runs a layer for (N, C, L) on (N, L, C)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.layer(x.transpose(1, 2))
        return mixed.transpose(1, 2)


class StochasticDepth(nn.Module):
    """Drops its branch for some samples in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.branch(x)
        if self.training:
            branch = branch * x.new_empty(len(x), 1, 1).bernoulli_(0.7) / 0.7
        return x + branch


class Tied(nn.Module):
    """The same layer twice, and its weight a third time under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.again = nn.Linear(WIDTH, WIDTH)
        self.again.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.again(self.layer(self.layer(x).tanh()).tanh())
        return mixed


class Trunk(nn.Module):
    """(N, L, WIDTH) to (N, WIDTH): an embedding layer, the block under test and a mean over positions."""

    feature_dim = WIDTH

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.block(self.first(x))
        return mixed.mean(1)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "rms norm": lambda: nn.RMSNorm(WIDTH),
    "group norm": lambda: Channels(nn.GroupNorm(4, WIDTH)),
    "instance norm": lambda: Channels(nn.InstanceNorm1d(WIDTH, affine=True)),
    "batch norm": lambda: Channels(nn.BatchNorm1d(WIDTH)),
    "attention": Attention,
    "multi-head attention": SelfAttention,
    "transformer layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "stochastic depth": StochasticDepth,
    "dropout": lambda: nn.Dropout(0.3),
    "tied weights": Tied,
    "hard swish": nn.Hardswish,
    "gelu": nn.GELU,
}


def networks(block: Callable[[], nn.Module]) -> tuple[maxl.MultiTaskNetwork, maxl.LabelGenerator]:
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    return maxl.MultiTaskNetwork(Trunk(block()), hierarchy), maxl.LabelGenerator(Trunk(block()), hierarchy)


def check(network: nn.Module, generator: nn.Module, x: Tensor | None = None) -> HypergradientReport:
    x = torch.randn(6, 5, WIDTH) if x is None else x
    y = torch.randint(0, 3, (len(x),))
    return check_hypergradient(network, generator, x, y, learning_rate=0.1, repeats=1)


def assert_exact(report: HypergradientReport, bound: float = 1e-5) -> None:
    forward = report.rows[0]
    assert forward.method == "forward"
    assert forward.works, str(report)
    assert forward.relative_error is not None, str(report)
    assert forward.relative_error < bound, str(report)
    assert report.central_difference_error is not None, str(report)
    assert report.central_difference_error < 1e-4, str(report)
    assert forward.note == "", str(report)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_forward_mode_is_exact_on_the_block(block: Callable[[], nn.Module], training: bool) -> None:
    network, generator = networks(block)
    assert_exact(check(network.train(training), generator.train(training)))


def test_running_statistics_of_instance_norm_stay() -> None:
    def block() -> nn.Module:
        return Channels(nn.InstanceNorm1d(WIDTH, affine=True, track_running_stats=True))

    assert_exact(check(*networks(block)))


def test_weight_norm_needs_reverse_mode() -> None:
    report = check(*networks(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))))
    forward, reverse, _ = report.rows
    assert (forward.works, forward.note) == (False, "no forward-mode formula: _weight_norm_interface")
    assert reverse.relative_error is not None
    assert reverse.relative_error < 1e-5
    assert report.recommended == "reverse"


def test_spectral_norm_is_exact_in_both_modes() -> None:
    """Its power iteration is hidden from gradients, and its vectors are buffers that every pass moves."""
    assert_exact(check(*networks(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)))))


def test_lstm_in_float64() -> None:
    network, generator = networks(lambda: Recurrent(nn.LSTM))
    report = check(network.double(), generator.double(), torch.randn(6, 5, WIDTH).double())
    assert_exact(report)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_do_without_fused_kernels(
    kind: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "enabled", True)
    network = Recurrent(kind)
    with differentiable_kernels(network, "cuda"):
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled
    with differentiable_kernels(nn.Linear(2, 2), "cuda"):
        assert torch.backends.cudnn.enabled  # convolutions keep their fast kernels


def test_frozen_weights_carry_nothing() -> None:
    network, generator = networks(Tied)
    network.trunk.first.requires_grad_(False)
    generator.trunk.first.requires_grad_(False)
    assert_exact(check(network, generator))


def test_a_weight_that_one_head_does_not_use() -> None:
    class OwnLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = Trunk(nn.Tanh())
            self.private = nn.Linear(WIDTH, WIDTH)  # the auxiliary task's alone
            self.primary, self.auxiliary = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 6)
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.trunk(x)
            return self.primary(features), self.auxiliary(self.private(features).tanh())

    assert_exact(check(OwnLayers(), networks(nn.Tanh)[1]))


def test_labels_that_cannot_reach_the_primary_loss_are_reported() -> None:
    network, generator = networks(nn.Tanh)
    network.trunk.requires_grad_(False)
    report = check(network, generator)
    assert any("exactly zero" in note for note in report.notes)


def test_channels_last() -> None:
    def trunk() -> nn.Module:
        layers = (
            nn.Conv2d(3, WIDTH, 3),
            nn.BatchNorm2d(WIDTH),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return nn.Sequential(*layers)

    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy).to(memory_format=torch.channels_last)
    generator = maxl.LabelGenerator(trunk(), hierarchy).to(memory_format=torch.channels_last)
    x = torch.randn(6, 3, 8, 8).to(memory_format=torch.channels_last)
    assert_exact(check(network, generator, x))


def test_bfloat16_autocast_gives_the_same_direction() -> None:
    network, generator = networks(lambda: nn.LayerNorm(WIDTH))
    x, y = torch.randn(6, 5, WIDTH), torch.randint(0, 3, (6,))
    exact = torch.cat([h.flatten() for h in maxl.hypergradient(network, generator, x, y, 0.1)])
    with torch.autocast("cpu", torch.bfloat16):
        coarse = torch.cat([h.flatten() for h in maxl.hypergradient(network, generator, x, y, 0.1)])
    assert torch.nn.functional.cosine_similarity(coarse, exact, dim=0) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mode"),
    [
        *itertools.product(("convnext", "deit", "mobilenetv3", "regnet"), ("eval", "train")),
        ("mobileone", "train, first stages"),
    ],
)
def test_forward_mode_is_as_exact_as_rounding_allows(family: str, mode: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from families import FINE, measure
    finally:
        sys.path.pop(0)
    row = measure(family, mode)
    assert row.verdict in FINE, f"{row.verdict}\n{row.report}"
