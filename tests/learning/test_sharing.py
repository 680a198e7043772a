"""A generator that is a head on the network's own features: exact, and without a pass of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import maxl
from _networks import PSI, batch, conv_trunk, flatten, relative_error, same, snapshot

RATE = 0.1
HIERARCHY = maxl.Hierarchy(PSI)
LOOKAHEADS = {
    "taken": maxl.Taken(),
    "taken, low memory": maxl.Taken(recompute=True),
    "next": maxl.Next(),
    "next, low memory": maxl.Next(recompute=True),
    "virtual": maxl.Virtual(),
    "virtual, low memory": maxl.Virtual(recompute=True),
}


def networks(
    kind: type[maxl.LabelGenerator] = maxl.LabelGenerator, trunk: str = "trained"
) -> tuple[maxl.MultiTaskNetwork, Any]:
    """A network and a head on its features: those of a trunk that is trained, or from its second block on, or that
    takes features which another network has made.
    """
    torch.manual_seed(0)
    made = (
        nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh())
        if trunk == "pre-computed"
        else conv_trunk()
    )
    network = maxl.MultiTaskNetwork(made, HIERARCHY, feature_dim=16)
    if trunk == "partly frozen":
        network.trunk[0].requires_grad_(False)
        network.trunk[1].requires_grad_(False)
    return network, kind.sharing(network)


def make(network: nn.Module, generator: nn.Module, **options: Any) -> maxl.MetaAuxiliaryLearner:
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=RATE),
        torch.optim.SGD(generator.parameters(), lr=1.0),
        **{"entropy_weight": 0.0, **options},
    )


def truth(
    network: nn.Module, generator: Any, x: Tensor, y: Tensor, outer: tuple[Tensor, Tensor], *, virtual: bool
) -> Tensor:
    """dL_out/dθ₂ by a plain double backward, labels made of the features of the training pass as it began."""
    network, generator = copy.deepcopy((network, generator))
    weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
    features = network.trunk(x).detach()
    signals = generator.of_features(features, y)

    def step(w: dict[str, Tensor], t: Any) -> dict[str, Tensor]:
        primary, auxiliary = functional_call(network, w, (x,))
        labels, counts = t if isinstance(t, tuple) else (t, None)
        loss = maxl.focal_loss(primary, y) + maxl.focal_loss(auxiliary, labels, sample_weight=counts)
        grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
        return {n: p - RATE * g for (n, p), g in zip(w.items(), grads, strict=True)}

    if virtual:
        weights = {n: p.detach().requires_grad_() for n, p in step(weights, signals.detach()).items()}
    ahead = step(weights, signals)
    loss = maxl.focal_loss(functional_call(network, ahead, (outer[0],))[0], outer[1])
    return flatten(torch.autograd.grad(loss, list(generator.parameters())))


@pytest.mark.parametrize("way", [maxl.Forward(), maxl.Reverse()], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", LOOKAHEADS)
@pytest.mark.usefixtures("float64")
def test_the_gradient_is_that_of_a_double_backward_with_the_features_as_constants(
    name: str, way: maxl.Forward
) -> None:
    network, generator = networks()
    x, y = batch(seed=1)
    later = batch(seed=2)
    waits = isinstance(LOOKAHEADS[name], maxl.Next)
    virtual = isinstance(LOOKAHEADS[name], maxl.Virtual)
    expected = truth(network, generator, x, y, later if waits else (x, y), virtual=virtual)
    before = flatten(list(generator.parameters()))
    learner = make(network, generator, lookahead=LOOKAHEADS[name], way=way)
    learner.step(x, y)
    if waits:
        learner.step(*later)
    assert relative_error(before - flatten(list(generator.parameters())), expected) < 1e-10


@pytest.mark.parametrize(
    ("name", "passes"), [("taken", 3), ("taken, low memory", 3), ("next", 2), ("virtual", 4)]
)
def test_the_generator_takes_no_pass_of_the_trunk(name: str, passes: int) -> None:
    network, generator = networks()
    learner = make(network, generator, lookahead=LOOKAHEADS[name], check="never")
    learner.step(*batch(seed=0))
    calls: list[int] = []
    network.trunk.register_forward_hook(lambda *_: calls.append(1))
    learner.step(*batch(seed=1))
    assert (
        len(calls) == passes
    )  # training, judging, tangent; a virtual step trains once more; the next batch judges


def test_its_weights_are_the_heads_alone_and_the_networks_stay_the_networks() -> None:
    network, generator = networks()
    own = {id(p) for p in network.parameters()}
    assert [name.split(".")[0] for name, _ in generator.named_parameters()] == ["head"] * 4
    assert all(name.startswith("head") for name in generator.state_dict())
    assert not any(id(p) in own for p in generator.parameters())
    learner = make(network, generator)
    learner.train_step(*batch())
    trained = snapshot(network)
    learner.meta_step()
    assert same(trained, snapshot(network))


def test_asked_by_itself_it_reads_the_trunk_as_it_stands_and_leaves_it_alone() -> None:
    network, generator = networks()
    x, y = batch()
    before = snapshot(network)
    labels = generator(x, y)
    assert same(before, snapshot(network))
    torch.testing.assert_close(labels, generator.of_features(network.trunk(x), y))
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("trunk", ["trained", "partly frozen", "pre-computed"])
@pytest.mark.parametrize("kind", [maxl.LabelGenerator, maxl.WeightedLabelGenerator])
@pytest.mark.parametrize("name", ["taken", "taken, low memory", "next"])
@pytest.mark.usefixtures("float64")
def test_partly_frozen_trunks_and_pre_computed_features_are_shared_too_with_weights_and_without(
    name: str, kind: type[maxl.LabelGenerator], trunk: str
) -> None:
    network, generator = networks(kind, trunk)
    (x, y), later = batch(seed=1), batch(seed=2)
    waits = isinstance(LOOKAHEADS[name], maxl.Next)
    expected = truth(network, generator, x, y, later if waits else (x, y), virtual=False)
    before = flatten(list(generator.parameters()))
    learner = make(network, generator, lookahead=LOOKAHEADS[name])
    learner.step(x, y)
    if waits:
        learner.step(*later)
    assert expected.norm() > 0
    assert relative_error(before - flatten(list(generator.parameters())), expected) < 1e-10


@pytest.mark.usefixtures("float64")
def test_a_resumed_training_teaches_with_the_features_that_the_labels_were_made_of() -> None:
    results = []
    for resumed in (False, True):
        network, generator = networks()
        learner = make(network, generator, lookahead=maxl.Next())
        for seed in range(2):
            learner.step(*batch(seed=seed))
        if resumed:
            states = copy.deepcopy((network.state_dict(), generator.state_dict(), learner.state_dict()))
            network, generator = networks()
            network.load_state_dict(states[0])
            generator.load_state_dict(states[1])
            learner = make(network, generator, lookahead=maxl.Next())
            learner.load_state_dict(states[2])
        learner.step(*batch(seed=2))
        results.append(flatten([*network.parameters(), *generator.parameters()]))
    assert relative_error(results[1], results[0]) < 1e-12


@pytest.mark.usefixtures("float64")
def test_a_batch_in_parts_has_the_labels_of_each_parts_features() -> None:
    results = []
    for parts in (1, 3):
        torch.manual_seed(0)
        trunk = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 16), nn.Tanh()
        )  # without BatchNorm, which sees the batch
        network = maxl.MultiTaskNetwork(trunk, HIERARCHY, feature_dim=16)
        generator = maxl.LabelGenerator.sharing(network)
        learner = make(network, generator, entropy_weight=0.2)
        x, y = batch()
        for some, of_them in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            learner.backward(some, of_them, share=len(of_them) / len(y))
        learner.optimizer.step()
        learner.meta_step()
        results.append(flatten([*network.parameters(), *generator.parameters()]))
    assert relative_error(results[1], results[0]) < 1e-12


def test_another_network_is_refused() -> None:
    network, generator = networks()
    with pytest.raises(ValueError, match="needs to be trained with that very network"):
        make(copy.deepcopy(network), generator)
    copied, along = copy.deepcopy((network, generator))
    make(copied, along)


class Calling(maxl.MultiTaskNetwork):
    """Uses its trunk in a way of its own."""

    def __init__(self, use: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__(conv_trunk(), HIERARCHY)
        self.use = use

    def forward(self, x: Tensor) -> Any:
        features = self.use(self.trunk, x)
        return self.primary_head(features), self.auxiliary_head(features)


def test_a_compiled_pass_that_would_not_be_the_networks_is_refused() -> None:
    network = Calling(lambda trunk, x: 2 * trunk(x))
    with pytest.raises(ValueError, match="got Calling, whose forward is its own: drop compile=True"):
        make(network, maxl.LabelGenerator.sharing(network), compile=True)
    plain, generator = networks()
    learner = make(plain, generator, compile=True)
    handle = plain.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="calls no hooks of the network itself"):
        learner.step(*batch())
    handle.remove()
    plain.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="calls no hooks of the network itself"):
        learner.step(*batch())


USES: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int]] = {
    "not as a module": (lambda trunk, x: trunk.forward(x), 0),
    "twice": (lambda trunk, x: trunk(x) + trunk(x.flip(0)), 2),
}


@pytest.mark.parametrize("lookahead", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.parametrize(("use", "calls"), USES.values(), ids=USES)
def test_a_trunk_that_is_not_called_once_as_a_module_is_refused(use: Any, calls: int, lookahead: Any) -> None:
    network = Calling(use)
    learner = make(network, maxl.LabelGenerator.sharing(network), lookahead=lookahead)
    with pytest.raises(ValueError, match=rf"once a pass, as a module; got {calls} calls"):
        learner.step(*batch())


def in_place(width: int, count: int) -> nn.Module:
    return nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Sigmoid(), nn.Linear(width, count))


@pytest.mark.parametrize("lookahead", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.parametrize("whose", ["network", "generator"])
def test_heads_that_change_features_in_place_are_refused(whose: str, lookahead: Any) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
    heads: dict[str, Any] = (
        {"primary_head": in_place(16, HIERARCHY.num_primary)} if whose == "network" else {}
    )
    network = maxl.MultiTaskNetwork(trunk, HIERARCHY, feature_dim=16, **heads)
    head = in_place(16, HIERARCHY.num_auxiliary) if whose == "generator" else None
    learner = make(network, maxl.LabelGenerator.sharing(network, head=head), lookahead=lookahead)
    with pytest.raises(ValueError, match=rf"head.*{whose}|{whose}'s head"):
        learner.step(*batch())


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_trunk_is_not_shared() -> None:
    network = maxl.MultiTaskNetwork(
        torch.jit.trace(nn.Linear(6, 8), torch.zeros(2, 6)), HIERARCHY, feature_dim=8
    )
    with pytest.raises(ValueError, match="got a scripted one"):
        maxl.LabelGenerator.sharing(network)
