"""The gate on the auxiliary gradient: closed forms, the step it gives, and the gradient through that step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import maxl
from _networks import PSI, batch, flatten, pair, relative_error, same, snapshot
from maxl.learning import AccumulatingLearner, Gate, combine, cosine_gate, sign_gate


def test_the_gate_is_the_cosine_over_shared_weights_and_never_negative() -> None:
    a = [torch.tensor([3.0, 0.0]), torch.tensor([9.0]), None]
    b = [torch.tensor([4.0, 3.0]), None, torch.tensor([7.0])]
    assert cosine_gate(a, b).item() == pytest.approx(0.8)
    assert sign_gate(a, b).item() == 1.0
    against = [-g if g is not None else None for g in b]
    assert cosine_gate(a, against).item() == 0.0
    assert sign_gate(a, against).item() == 0.0
    assert cosine_gate([torch.zeros(2), None], [torch.ones(2), None]).item() == 0.0
    assert cosine_gate([None], [torch.ones(2)]).item() == 0.0


def test_a_gate_acts_on_shared_weights_alone() -> None:
    a, b = [torch.ones(2), torch.ones(1), None], [torch.ones(2), None, torch.ones(3)]
    total, factors, s = combine(lambda *_: torch.tensor(0.25), a, b)
    assert [g.tolist() for g in total if g is not None] == [[1.25, 1.25], [1.0], [1.0, 1.0, 1.0]]
    assert factors == [s, None, None]
    assert s.item() == 0.25


def learner(gate: Gate | None, evaluate: str = "same") -> maxl.MetaAuxiliaryLearner:
    network, generator = pair()
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.5),
        torch.optim.SGD(generator.parameters(), lr=0.5),
        lookahead="update",
        evaluate=evaluate,  # type: ignore[arg-type]
        gate=gate,
    )


@pytest.mark.parametrize("evaluate", ["same", "next"])
@pytest.mark.usefixtures("float64")
def test_the_hypergradient_goes_through_the_gated_step(evaluate: str) -> None:
    """Two iterations against the same written out, the gate's factor held constant."""
    ours = learner(cosine_gate, evaluate)
    f, g = copy.deepcopy(ours.network), copy.deepcopy(ours.generator)
    f.train()
    g.train()

    def losses(theta: dict[str, Tensor], x: Tensor, y: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        primary, auxiliary = functional_call(f, theta, (x,))
        return maxl.focal_loss(primary, y), maxl.focal_loss(auxiliary, labels)

    def grads_of(loss: Tensor, theta: dict[str, Tensor], graph: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            loss, list(theta.values()), create_graph=graph, retain_graph=True, allow_unused=True
        )

    batches = [batch(seed=1), batch(seed=2)]
    (x, y), judged = batches[0], batches[0] if evaluate == "same" else batches[1]
    theta = dict(f.named_parameters())
    labels = g(x, y)
    primary_loss, auxiliary_loss = losses(theta, x, y, labels)
    a, b = grads_of(primary_loss, theta, True), grads_of(auxiliary_loss, theta, True)
    dot = sum((p * q).sum() for p, q in zip(a, b, strict=True) if p is not None and q is not None)
    sizes = [
        torch.stack(
            [v.square().sum() for v, w in zip(s, o, strict=True) if v is not None and w is not None]
        ).sum()
        for s, o in ((a, b), (b, a))
    ]
    s = (dot / (sizes[0] * sizes[1]).sqrt()).clamp_min(0).detach()
    assert 0.01 < s < 0.99  # the gate is neither open nor shut here
    ahead = {}
    for (name, w), p, q in zip(theta.items(), a, b, strict=True):
        step = (s * q + p if p is not None else q) if q is not None else p
        assert step is not None
        ahead[name] = w - 0.5 * step
    outer = losses(ahead, *judged, labels)[0]
    entropy = (labels.mean(0) * labels.mean(0).log()).sum()
    expected = torch.autograd.grad(outer + 0.2 * entropy, list(g.parameters()))
    with torch.no_grad():
        moved = [p - 0.5 * d for p, d in zip(g.parameters(), expected, strict=True)]

    result = ours.step(*batches[0])
    assert result.gate == pytest.approx(float(s))
    if evaluate == "same":
        assert relative_error(flatten(list(ours.network.parameters())), flatten(list(ahead.values()))) < 1e-12
    else:
        ours.step(*batches[1])
    assert relative_error(flatten(list(ours.generator.parameters())), flatten(moved)) < 1e-12


@pytest.mark.parametrize("evaluate", ["same", "next"])
@pytest.mark.usefixtures("float64")
def test_an_open_gate_changes_nothing(evaluate: str) -> None:
    plain, open_gate = learner(None, evaluate), learner(lambda *_: torch.ones(()), evaluate)
    for seed in range(3):
        plain.step(*batch(seed=seed))
        open_gate.step(*batch(seed=seed))
    for one, other in ((plain.network, open_gate.network), (plain.generator, open_gate.generator)):
        assert relative_error(flatten(list(other.parameters())), flatten(list(one.parameters()))) < 1e-12


def test_a_shut_gate_leaves_the_trunk_to_the_primary_task() -> None:
    network, _ = pair()
    single = copy.deepcopy(network)
    x, y = batch()
    labels = torch.randint(0, sum(PSI), (len(x),))
    shut = maxl.MultiTaskLearner(
        network, torch.optim.SGD(network.parameters(), lr=0.1), gate=lambda *_: torch.zeros(())
    )
    before = snapshot(network.auxiliary_head)
    assert shut.train_step(x, y, labels).gate == 0
    maxl.MultiTaskLearner(single, torch.optim.SGD(single.parameters(), lr=0.1)).train_step(x, y)
    trunks = [flatten(list(n.trunk.parameters())) for n in (network, single)]
    assert relative_error(*trunks) < 1e-6
    assert not same(before, snapshot(network.auxiliary_head))  # its own head still learns


def test_what_a_gate_does_not_go_with_is_refused() -> None:
    network, generator = pair()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    with pytest.raises(ValueError, match='pass lookahead="update" with it'):
        maxl.MetaAuxiliaryLearner(network, generator, *optimizers, gate=cosine_gate, lookahead="virtual")
    with pytest.raises(ValueError, match="needs the gradients of a whole batch"):
        AccumulatingLearner(network, generator, *optimizers, microbatch=2, gate=cosine_gate)
    gated = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, lookahead="update", gate=cosine_gate)
    with pytest.raises(ValueError, match="the very x of the training step"):
        gated.meta_step(*batch())


def test_a_gate_on_a_part_of_a_batch_is_refused() -> None:
    network, generator = pair()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers, gate=cosine_gate)
    with pytest.raises(ValueError, match="whole batches; got a part of one"):
        learner.backward(*batch(), share=0.5)
