"""The check of hypergradients on a user's networks: right figures, right names, nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import _networks
import maxl
from maxl.check import HypergradientReport, MethodResult, check_hypergradient
from maxl.experiments.runs.checking import Case, run_check


class Square(torch.autograd.Function):
    """Has a double backward and no forward-mode formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class SquareOnce(Square):
    """Has neither."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class Trunk(nn.Module):
    feature_dim = 8

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def networks(
    function: Callable[[Tensor], Tensor],
) -> tuple[maxl.MultiTaskNetwork, maxl.LabelGenerator, Tensor, Tensor]:
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    network = maxl.MultiTaskNetwork(Trunk(function), hierarchy)
    generator = maxl.LabelGenerator(Trunk(torch.tanh), hierarchy)
    return network, generator, torch.randn(10, 6), torch.randint(0, 3, (10,))


def by_method(report: HypergradientReport) -> dict[str, MethodResult]:
    return {row.method: row for row in report.rows}


def test_exact_methods_are_exact_and_one_is_recommended() -> None:
    report = check_hypergradient(*networks(torch.tanh), learning_rate=0.1)
    rows = by_method(report)
    assert list(rows) == ["forward", "reverse", "finite-difference"]
    for method in ("forward", "reverse"):
        assert rows[method].works
        assert rows[method].relative_error is not None
        assert rows[method].relative_error < 1e-5
    assert report.recommended in ("forward", "reverse")
    assert report.reference == "reverse in float64"
    assert report.central_difference_error is not None
    assert report.central_difference_error < 1e-6
    assert report.sensitivity is not None
    assert report.sensitivity < 1e-5
    assert report.notes == ()


def test_times_are_ratios_to_the_single_task_step() -> None:
    report = check_hypergradient(*networks(torch.tanh), repeats=2)
    assert report.step_seconds is not None
    for row in report.rows:
        assert row.seconds is not None
        assert row.step_ratio == pytest.approx(row.seconds / report.step_seconds)


def test_nothing_changes() -> None:
    network, generator = _networks.pair(dropout=0.5)
    x, y = _networks.batch()
    network.auxiliary_head[0].weight.grad = torch.ones_like(network.auxiliary_head[0].weight)
    generator.eval()
    before = _networks.snapshot(network), _networks.snapshot(generator), torch.get_rng_state()
    check_hypergradient(network, generator, x, y, repeats=1)
    assert _networks.same(before[0], _networks.snapshot(network))
    assert _networks.same(before[1], _networks.snapshot(generator))
    assert torch.equal(before[2], torch.get_rng_state())
    assert network.training
    assert not generator.training
    kept = [name for name, p in network.named_parameters() if p.grad is not None]
    assert kept == ["auxiliary_head.0.weight"]
    assert all(p.grad is None for p in generator.parameters())


def test_dropout_and_batch_norm_are_no_obstacle() -> None:
    network, generator = _networks.pair(dropout=0.5)
    report = check_hypergradient(network, generator, *_networks.batch(), repeats=1)
    forward = by_method(report)["forward"]
    assert forward.relative_error is not None
    assert forward.relative_error < 1e-5
    assert forward.note == ""
    assert report.central_difference_error is not None
    assert report.central_difference_error < 1e-4


def test_a_live_adam_is_followed() -> None:
    network, generator, x, y = networks(torch.tanh)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    learner = maxl.MultiTaskLearner(network, optimizer)
    for _ in range(3):
        learner.train_step(x, y, torch.randint(0, 6, (10,)))
    report = check_hypergradient(network, generator, x, y, optimizer=optimizer, repeats=1)
    forward = by_method(report)["forward"]
    assert forward.relative_error is not None
    assert forward.relative_error < 1e-4  # Adam divides by small second moments
    assert report.central_difference_error is not None
    assert report.central_difference_error < 1e-5
    assert optimizer.state[network.trunk.layer.weight]["step"] == 3


@pytest.mark.parametrize(
    ("function", "method", "note"),
    [
        (
            lambda x: torch.cdist(x, x).sum(1, keepdim=True) + x,
            "forward",
            "no forward-mode formula: _cdist_forward",
        ),
        (Square.apply, "forward", "no forward-mode formula: a custom autograd.Function without jvp"),
        (nn.Hardsigmoid(), "reverse", "no double backward: hardsigmoid_backward"),
    ],
    ids=["operator", "custom function", "hard sigmoid"],
)
def test_the_obstacle_is_named_and_the_other_method_recommended(
    function: Callable[[Tensor], Tensor], method: str, note: str
) -> None:
    report = check_hypergradient(*networks(function), learning_rate=0.1)
    row = by_method(report)[method]
    assert (row.works, row.note) == (False, note)
    other = "reverse" if method == "forward" else "forward"
    assert report.recommended == other
    assert report.reference == f"{other} in float64"
    assert report.central_difference_error is not None
    assert report.central_difference_error < 1e-3


def test_a_silent_loss_of_terms_is_caught() -> None:
    report = check_hypergradient(*networks(SquareOnce.apply), learning_rate=0.1)
    rows = by_method(report)
    assert not rows["forward"].works
    assert not rows["reverse"].works
    assert "once_differentiable" in rows["reverse"].note
    assert report.reference == "finite-difference in float64"
    assert report.recommended == "finite-difference"


def test_reverse_mode_refuses_to_drop_terms_silently() -> None:
    network, generator, x, y = networks(SquareOnce.apply)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(RuntimeError, match="a once_differentiable autograd"):
        maxl.hypergradient(network, generator, x, y, method="reverse")
    for lookahead in ("virtual", "update"):
        learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, lookahead=lookahead)
        with pytest.raises(RuntimeError, match='pass hypergradient="finite-difference"'):
            learner.step(x, y)


def test_a_batch_of_one_under_batch_norm() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8))
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    f = maxl.MultiTaskNetwork(network, hierarchy, feature_dim=8)
    g = maxl.LabelGenerator(Trunk(torch.tanh), hierarchy)
    report = check_hypergradient(f, g, torch.randn(1, 6), torch.tensor([2]))
    assert report.recommended is None
    assert report.step_seconds is None
    assert not any(row.works for row in report.rows)
    assert all("BatchNorm" in row.note for row in report.rows)
    assert "a larger batch" in str(report)


def test_integer_inputs_are_passed_on() -> None:
    hierarchy = maxl.Hierarchy.uniform(3, 2)

    def trunk() -> nn.Module:
        return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, 8))

    network, generator = maxl.MultiTaskNetwork(trunk(), hierarchy), maxl.LabelGenerator(trunk(), hierarchy)
    tokens, y = torch.randint(0, 20, (9, 5)), torch.randint(0, 3, (9,))
    report = check_hypergradient(network, generator, tokens, y)
    assert report.notes == ("inputs of torch.int64 are passed on as they are",)
    assert report.recommended in ("forward", "reverse")


def test_noise_drawn_per_precision_moves_the_reference() -> None:
    report = check_hypergradient(*networks(lambda x: (x + 0.5 * torch.randn_like(x)).tanh()))
    assert report.reference == "reverse in float32"
    assert any("float64 differ" in note for note in report.notes)
    forward = by_method(report)["forward"]
    assert forward.relative_error is not None
    assert forward.relative_error < 1e-5


class WrongTangent(torch.autograd.Function):
    """The identity with a forward-mode formula that is a fifth too large."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 1.2 * tangent


class WrongBackward(torch.autograd.Function):
    """The identity with a backward that is a fifth too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 1.2 * gradient


class WrongTwice(WrongTangent):
    """The same, whose second derivative by reverse mode is a fifth too large as well."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return WrongBackward.apply(gradient)


class Through(nn.Module):
    """A network whose auxiliary logits pass through a function."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        primary, auxiliary = self.network(x)
        return primary, self.function(auxiliary)


def test_a_wrong_method_is_not_recommended() -> None:
    network, generator, x, y = networks(torch.tanh)
    report = check_hypergradient(Through(network, WrongTangent.apply), generator, x, y, repeats=1)
    assert by_method(report)["forward"].relative_error == pytest.approx(0.2, rel=1e-3)
    assert report.recommended == "reverse"


def test_a_wrong_reference_is_not_trusted() -> None:
    network, generator, x, y = networks(torch.tanh)
    report = check_hypergradient(Through(network, WrongTwice.apply), generator, x, y, repeats=1)
    assert report.central_difference_error == pytest.approx(0.2 / 1.2, rel=0.3)
    assert report.recommended is None
    assert any("trust no method" in note for note in report.notes)


class Counting(nn.BatchNorm1d):
    """Counts its passes even when told to track nothing."""

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("num_batches_tracked").add_(1)
        return super().forward(x)


class Hiding(nn.Module):
    """Counts its passes in a buffer that it reaches by another way than its name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.hidden = [self.get_buffer("passes")]

    def forward(self, x: Tensor) -> Tensor:
        self.hidden[0].add_(1)
        return x


def test_a_changed_buffer_is_noted() -> None:
    network, generator, x, y = networks(torch.tanh)
    network.trunk = nn.Sequential(network.trunk, Hiding())
    report = check_hypergradient(network, generator, x, y, repeats=1, directions=0)
    assert all(row.note == "changes network.trunk.1.passes" for row in report.rows)


def test_batch_norm_with_code_of_its_own_changes_nothing() -> None:
    network, generator, x, y = networks(torch.tanh)
    network.trunk = nn.Sequential(network.trunk, Counting(8))
    report = check_hypergradient(network, generator, x, y, repeats=1, directions=0)
    assert all(row.note == "" for row in report.rows)


def test_networks_that_cannot_be_copied_are_refused() -> None:
    network, generator, x, y = networks(torch.tanh)
    network.kept = network.trunk.layer.weight * 2  # not a leaf
    with pytest.raises(ValueError, match="deep-copyable"):
        check_hypergradient(network, generator, x, y)


def test_the_table_reads_line_by_line() -> None:
    text = str(check_hypergradient(*networks(nn.Hardsigmoid())))
    lines = text.splitlines()
    assert lines[0].split() == ["method", "works", "rel.", "error", "seconds", "x", "step", "note"]
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["forward", "yes"],
        ["reverse", "no"],
        ["finite-difference", "yes"],
    ]
    assert "recommended        forward" in lines
    assert max(map(len, lines)) < 130


def test_run_check_builds_by_name_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    report = run_check(Case("mlp", (6,), 3, [2, 1, 2], 8), repeats=1)
    assert report.recommended in ("forward", "reverse")
    assert torch.equal(before, torch.get_rng_state())


def test_run_check_needs_psi_for_every_class() -> None:
    with pytest.raises(ValueError, match="one entry per primary class; got 2 for 3"):
        Case("mlp", (6,), 3, [2, 1], 8)


def test_repeats_need_to_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        check_hypergradient(*networks(torch.tanh), repeats=0)
