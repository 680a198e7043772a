"""Compiled passes: the same steps as eager ones, and eager ones where nothing compiles."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import batch, flatten, pair, relative_error
from maxl.hypergradients import Compiled, CompiledPasses
from maxl.supervision import Cached


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of the compiler but its code generation, which takes minutes."""
    real = torch.compile

    def compile_(function: Any, *, dynamic: bool, fullgraph: bool, options: Any) -> Any:
        return real(function, dynamic=dynamic, fullgraph=fullgraph, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_)
    yield
    torch.compiler.reset()


def learner(
    compile: bool, *, dropout: float = 0.0, optimizer: Any = None, shared: bool = False, **options: Any
) -> maxl.MetaAuxiliaryLearner:
    network, generator = pair(dropout)
    if shared:
        generator = maxl.LabelGenerator.sharing(network)
    optimizer = optimizer or functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        optimizer(network.parameters()),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        compile=compile,
        **options,
    )


def after_steps(learner: maxl.MetaAuxiliaryLearner, steps: int = 3) -> Tensor:
    torch.manual_seed(3)
    for seed in range(steps):
        learner.step(*batch(seed=seed))
    buffers = [b.double() for m in (learner.network, learner.generator) for b in m.buffers()]
    return flatten([*learner.network.parameters(), *learner.generator.parameters(), *buffers])


CASES: dict[str, dict[str, Any]] = {
    "exact": {"lookahead": "update"},
    "next": {"lookahead": "update", "evaluate": "next"},
    "virtual, adam": {"optimizer": functools.partial(torch.optim.Adam, lr=0.01)},
    "dropout": {"dropout": 0.5, "lookahead": "update"},
    "finite differences": {"hypergradient": "finite-difference", "lookahead": "update"},
    "reverse": {"hypergradient": "reverse", "lookahead": "update"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.usefixtures("float64", "traced")
def test_compiled_steps_equal_eager_ones(options: dict[str, Any]) -> None:
    eager, compiled = (after_steps(learner(c, **options)) for c in (False, True))
    bound = (
        1e-9 if options.get("hypergradient") == "finite-difference" else 1e-12
    )  # it divides by a small step
    assert relative_error(compiled, eager) < bound


@pytest.mark.parametrize("lookahead", [maxl.Taken(recompute=True), maxl.Next()], ids=["low memory", "next"])
@pytest.mark.usefixtures("float64", "traced")
def test_compiled_steps_equal_eager_ones_of_a_generator_that_shares_the_trunk(lookahead: Any) -> None:
    results = []
    for compiled in (False, True):
        one = learner(compiled, dropout=0.5, shared=True, lookahead=lookahead)
        generator = one.generator
        before = flatten([*generator.parameters()])
        results.append(after_steps(one))
        assert relative_error(flatten([*generator.parameters()]), before) > 1e-6
        if compiled:
            assert one.passes is not None
            assert one.passes.call.compiled is not None
    assert relative_error(results[1], results[0]) < 1e-12


@pytest.mark.usefixtures("float64", "traced")
def test_features_that_a_head_changes_in_place_stay_what_the_trunk_gave() -> None:
    torch.manual_seed(0)
    hierarchy = maxl.Hierarchy.uniform(3, 2)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    heads = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(8, 3)), nn.Linear(8, 6)
    network = maxl.MultiTaskNetwork(
        trunk, hierarchy, feature_dim=8, primary_head=heads[0], auxiliary_head=heads[1]
    )
    generator = maxl.LabelGenerator.sharing(network)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    compiled = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, compile=True)
    x, y = batch()
    expected = generator.of_features(trunk(x).detach(), y).detach()
    labels = compiled.step(x, y).labels
    assert labels is not None
    assert relative_error(labels, expected) < 1e-12


@pytest.mark.usefixtures("traced")
def test_every_pass_of_the_papers_networks_compiles_once_and_whole() -> None:
    """No graph break and no fall-back, whatever the learning rate becomes."""
    compiled = learner(True, lookahead="update")
    torch._dynamo.utils.counters.clear()
    after_steps(compiled, 2)
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for group in compiled.optimizer.param_groups:
        group["lr"] *= 0.5
    after_steps(compiled, 3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == frames
    assert not torch._dynamo.utils.counters["graph_break"]
    passes = compiled.passes
    assert passes is not None
    assert passes.call.compiled is not None
    assert passes._replaced.compiled is not None
    assert passes._tangent.compiled is not None
    assert not isinstance(compiled.labels, Cached)


NORMS = {
    "batch norm": torch.nn.BatchNorm2d(4),
    "group norm": torch.nn.GroupNorm(2, 4),
    "layer norm": torch.nn.LayerNorm((4, 6, 6)),
    "instance norm": torch.nn.InstanceNorm2d(4, affine=True),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.usefixtures("traced")
def test_the_forward_mode_pass_compiles_in_bf16_between_two_convolutions(norm: torch.nn.Module) -> None:
    """A normalisation layer must hand on a value and a tangent of one precision."""
    torch.manual_seed(0)
    first, second = (torch.nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in ((1, 4), (4, 8)))
    pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    trunk = torch.nn.Sequential(first, norm, torch.nn.ReLU(), second, *pool)
    network = maxl.MultiTaskNetwork(trunk, maxl.Hierarchy.uniform(3, 2), feature_dim=8)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    u = {name: torch.randn_like(p) for name, p in weights.items()}
    x = torch.randn(5, 1, 6, 6)
    passes = CompiledPasses(network, "network")
    exact = passes.tangent(weights, u, x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = passes.tangent(weights, u, x)
    assert exact is not None
    assert rough is not None  # None: it did not compile
    for halves in zip(rough, exact, strict=True):
        for a, b in zip(*halves, strict=True):
            assert relative_error(a.float(), b) < 0.05
    assert not any(m._forward_pre_hooks for m in network.modules())


@pytest.mark.usefixtures("traced")
def test_single_task_training_compiles_the_primary_head_alone() -> None:
    results = []
    for compile in (False, True):
        network, _ = pair()
        built = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1), compile=compile)
        for seed in range(2):
            built.train_step(*batch(seed=seed))
        results.append(flatten(list(network.parameters())))
        assert all(p.grad is None for p in network.auxiliary_head.parameters())
    assert relative_error(results[1], results[0]) < 1e-5


class Untraceable(nn.Module):
    """A trunk that the compiler refuses whole, and eager PyTorch does not mind."""

    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return refused(self.layer(x))


@torch.compiler.disable  # type: ignore[misc]
def refused(x: Tensor) -> Tensor:
    return x.tanh()


def test_what_does_not_compile_runs_eagerly_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def run(*args: Any) -> Any:
            raise torch._dynamo.exc.Unsupported("no such operator\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    double = Compiled(lambda x: 2 * x, "the doubling")
    with pytest.warns(
        UserWarning, match=r"the doubling does not compile and runs eagerly: .*no such operator"
    ):
        assert double(torch.tensor(2.0)) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(torch.tensor(3.0)) == 6
    assert double.compiled is None


@pytest.mark.usefixtures("float64", "traced")
def test_a_trunk_with_a_graph_break_still_trains() -> None:
    hierarchy = maxl.Hierarchy.uniform(3, 2)

    def trained(compile: bool) -> Tensor:
        torch.manual_seed(0)
        network, generator = (
            maxl.MultiTaskNetwork(Untraceable(), hierarchy),
            maxl.LabelGenerator(Untraceable(), hierarchy),
        )
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
        built = maxl.MetaAuxiliaryLearner(
            network, generator, *optimizers, lookahead="update", compile=compile
        )
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            for _ in range(2):
                built.step(torch.ones(5, 6), torch.tensor([0, 1, 2, 0, 1]))
        return flatten([*network.parameters(), *generator.parameters()])

    assert relative_error(trained(True), trained(False)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("evaluate", ["same", "next"])
def test_generated_code_takes_the_same_steps(evaluate: str, shared: bool) -> None:
    eager, compiled = (
        after_steps(learner(c, dropout=0.3, shared=shared, lookahead="update", evaluate=evaluate))
        for c in (False, True)
    )
    assert relative_error(compiled, eager) < 1e-5
