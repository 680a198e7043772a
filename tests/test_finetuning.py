"""Layers in order, learning rates by layer, and parts of a network that are not trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import maxl
from maxl.check import check_hypergradient
from maxl.finetuning import freeze, parameter_groups, parameter_layers
from maxl.trunks import ResidualTrunk


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh()),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


HIERARCHY = maxl.Hierarchy.uniform(num_primary=3, k=2)


def network(trunk: nn.Module, width: int) -> maxl.MultiTaskNetwork:
    torch.manual_seed(0)
    return maxl.MultiTaskNetwork(trunk, HIERARCHY, feature_dim=width)


def test_a_normalisation_belongs_to_the_layer_before_it_and_a_first_one_to_the_first() -> None:
    first, second = parameter_layers(convolutions())
    assert first == ["0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias"]
    assert second == ["2.weight", "2.bias", "3.weight", "3.bias"]
    blocks = parameter_layers(ResidualTrunk(5, width=4, depth=2, dropout=0.0))
    assert [layer[0] for layer in blocks] == ["first.weight", "blocks.0.0.weight", "blocks.1.0.weight"]
    assert blocks[-1][-1] == "last.0.bias"


class Stated(nn.Module):
    def __init__(self, layers: list[list[str]]) -> None:
        super().__init__()
        self.late, self.early = nn.Linear(4, 4), nn.Linear(4, 4)
        self._layers = layers

    def parameter_layers(self) -> list[list[str]]:
        return self._layers

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.late(self.early(x))
        return y


EARLY, LATE = ["early.weight", "early.bias"], ["late.weight", "late.bias"]


def test_a_trunk_says_its_layers_and_what_it_says_is_checked() -> None:
    assert parameter_layers(Stated([EARLY, LATE])) == [EARLY, LATE]
    for wrong, message in (
        ([EARLY], "late.bias is in no layer"),
        ([EARLY, LATE, EARLY], "early.bias is in several"),
        ([EARLY, LATE, ["other"]], "other is in several, or is no parameter of it"),
    ):
        with pytest.raises(ValueError, match=message):
            parameter_layers(Stated(wrong))


class OwnOrder(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("trunk", [nn.TransformerEncoderLayer(4, 2), OwnOrder(nn.Linear(2, 2))])
def test_an_order_is_not_guessed(trunk: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"does not say it: give it a method parameter_layers\(\)"):
        parameter_layers(trunk)


def test_a_weight_that_two_layers_share_is_of_the_first() -> None:
    shared = nn.Linear(3, 3)
    layers = parameter_layers(nn.Sequential(shared, nn.Linear(3, 3), shared))
    assert layers == [["0.weight", "0.bias"], ["1.weight", "1.bias"]]


def test_rates_fall_layer_by_layer_from_the_heads_to_the_inputs() -> None:
    net = network(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 5)), 5)
    groups = parameter_groups(net, 0.1, trunk_lr=0.04, layer_decay=0.5)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.02, 0.1])
    trunk, heads = net.trunk, [*net.primary_head.parameters(), *net.auxiliary_head.parameters()]
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in trunk[0].parameters()]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in heads}
    one = parameter_groups(net, 0.1, layer_decay=1.0)
    assert {group["lr"] for group in one} == {0.1}
    freeze(net.trunk, ["0"])
    assert [g["lr"] for g in parameter_groups(net, 0.1, layer_decay=0.5)] == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr needs to be above 0"),
        ({"lr": 0.1, "trunk_lr": -1.0}, "trunk_lr needs to be above 0"),
        ({"lr": 0.1, "layer_decay": 0.0}, "layer_decay needs to be above 0 and at most 1"),
        ({"lr": 0.1, "layer_decay": 1.5}, "layer_decay needs to be above 0 and at most 1"),
    ],
)
def test_rates_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(network(nn.Linear(4, 5), 5), **options)


def test_frozen_parts_stand_still_and_keep_their_statistics() -> None:
    torch.manual_seed(1)
    net = network(convolutions(), 4)
    modules = freeze(net.trunk, ["0", "1.0", "1.1"])
    before = {name: t.clone() for name, t in net.trunk.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(net, 0.1, trunk_lr=0.05))
    net.train()
    for module in modules:
        module.eval()
    learner = maxl.MultiTaskLearner(net, optimizer)
    learner.train_step(torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,)))
    after = net.trunk.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == {"2", "3"}


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has none below '7': there are 0, 1, 2, 3"):
        freeze(convolutions(), ["7"])
    with pytest.raises(ValueError, match=r"has none below '1.2': there are 1.0, 1.1"):
        freeze(convolutions(), ["1.2"])  # of a name that a part begins with
    trunk = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    freeze(trunk, ["a"])
    assert [name for name, p in trunk.named_parameters() if p.requires_grad] == ["ab.weight", "ab.bias"]


@pytest.mark.parametrize("lookahead", ["taken", "virtual"])
def test_the_double_gradient_of_a_partly_frozen_network_with_rates_by_layer_is_exact(lookahead: str) -> None:
    """Compared with central differences of the whole meta objective, in float64."""
    torch.manual_seed(2)
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.randint(0, 3, (6,))
    net = network(convolutions(), 4).double()
    net.trunk(x)  # statistics of their own
    modules = freeze(net.trunk, ["0", "1"])
    net.train()
    for module in modules:
        module.eval()
    generator = maxl.LabelGenerator(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), HIERARCHY, feature_dim=4
    ).double()
    start, begun = copy.deepcopy(net.state_dict()), copy.deepcopy(generator.state_dict())
    weight = generator.head[2].weight

    def groups() -> list[dict[str, object]]:
        return parameter_groups(net, 0.3, trunk_lr=0.2, layer_decay=0.5)

    def objective() -> float:
        """The primary loss after a step with the generator's labels."""
        net.load_state_dict(start)
        optimizer = torch.optim.SGD(groups())
        with torch.no_grad():
            labels = generator(x, y)
        optimizer.zero_grad()
        maxl.MultiTaskLearner(net, optimizer).train_step(x, y, labels)
        return float(maxl.Classification().loss(net.predict(x), y).detach())

    learner = maxl.MetaAuxiliaryLearner(
        net,
        generator,
        torch.optim.SGD(groups()),
        torch.optim.SGD(generator.parameters(), lr=1.0),
        supervision=maxl.supervision.AuxiliaryLabels(entropy_weight=0.0),
        lookahead=maxl.Virtual() if lookahead == "virtual" else maxl.Taken(),
    )
    if lookahead == "virtual":  # a step from the weights that a step has led to
        learner.train_step(x, y)
        start = copy.deepcopy(net.state_dict())
        learner.meta_step()
    else:
        learner.step(x, y)
    found = (begun["head.2.weight"] - weight.detach()).clone()
    generator.load_state_dict(begun)
    expected, h = torch.zeros_like(found), 1e-4
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            sides = []
            for move in (h, -2 * h, h):
                with torch.no_grad():
                    weight[i, j] += move
                sides.append(objective())
            expected[i, j] = (sides[0] - sides[1]) / (2 * h)
    assert float(expected.abs().max()) > 1e-8
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-10)


def test_the_check_finds_a_partly_frozen_network_exact() -> None:
    torch.manual_seed(3)
    net = network(convolutions(), 4)
    for module in freeze(net.trunk, ["0", "1"]):
        module.eval()
    generator = maxl.LabelGenerator(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), HIERARCHY, feature_dim=4)
    report = check_hypergradient(
        net, generator, torch.randn(6, 1, 8, 8), torch.randint(0, 3, (6,)), repeats=1
    )
    assert [row.method for row in report.rows if row.works][:2] == ["forward", "reverse"]
    assert max(row.relative_error for row in report.rows[:2]) < 1e-5


def test_features_of_pixels_are_averaged_and_layers_are_those_of_the_module_inside() -> None:
    inside = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3))
    trunk = maxl.Features(inside, pool="mean", feature_dim=4)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(trunk(x), inside(x).mean((2, 3)))
    assert parameter_layers(trunk) == [
        ["module.0.weight", "module.0.bias"],
        ["module.1.weight", "module.1.bias"],
    ]
