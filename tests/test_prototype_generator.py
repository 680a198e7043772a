"""Labels by distances to prototypes: closed forms, what stays frozen, and the gradient through the gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import PSI, batch, conv_trunk, relative_error, same, snapshot
from maxl.supervision import AuxiliaryLabels

HIERARCHY = maxl.Hierarchy(PSI)
K = sum(PSI)


def generator(dtype: torch.dtype = torch.float64, width: int = 5, **options: Any) -> maxl.PrototypeGenerator:
    random = torch.Generator().manual_seed(3)
    prototypes = torch.randn(K, width, generator=random, dtype=torch.float64).to(dtype)
    return maxl.PrototypeGenerator(nn.Identity(), HIERARCHY, prototypes, **options)


def points(n: int = 12, width: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(4)
    return torch.randn(n, width, generator=random, dtype=torch.float64), torch.arange(n) % len(PSI)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_labels_are_those_of_the_formula(temperature: float, offset: float) -> None:
    x, y = points()
    labels = generator(temperature=temperature)
    labels.prototypes.data += offset
    found = labels(x + offset, y)
    for i in range(len(x)):
        block = HIERARCHY.mask[y[i]]
        distances = (x[i] + offset - labels.prototypes[block]).square().sum(1)
        weights = torch.exp(-(distances - distances.min()) / temperature)
        torch.testing.assert_close(found[i][block], weights / weights.sum(), rtol=1e-9, atol=1e-12)
        assert (found[i][~block] == 0).all()


def test_far_from_the_origin_float32_labels_are_those_of_float64() -> None:
    x, y = points()
    exact, rounded = generator(), generator(torch.float32)
    exact.prototypes.data += 300.0
    rounded.prototypes.data = exact.prototypes.detach().float()
    moved = (x + 300.0).float()
    torch.testing.assert_close(rounded(moved, y).double(), exact(moved.double(), y), rtol=0, atol=1e-3)


def test_a_sample_at_a_prototype_has_its_label_at_a_low_temperature_and_an_even_one_at_a_high() -> None:
    y = HIERARCHY.owner
    sure, vague = generator(temperature=1e-3), generator(temperature=1e9)
    x = sure.prototypes.detach()
    torch.testing.assert_close(sure(x, y), torch.eye(K, dtype=torch.float64))
    rows = HIERARCHY.mask[y].double()
    torch.testing.assert_close(vague(x, y), rows / rows.sum(1, keepdim=True))


def test_prototypes_and_the_temperature_alone_are_learned() -> None:
    labels = maxl.PrototypeGenerator(conv_trunk(), HIERARCHY, torch.randn(K, 16))
    names = {name for name, p in labels.named_parameters() if p.requires_grad}
    assert names == {"prototypes", "log_temperature"}
    x, y = batch()
    labels(x, y)[:, 0].sum().backward()
    assert labels.prototypes.grad is not None
    block = HIERARCHY.owner == 0
    assert (labels.prototypes.grad[block] != 0).any()
    assert (labels.prototypes.grad[~block] == 0).all()
    assert all(p.grad is None for p in labels.trunk.parameters())


def test_the_feature_space_stays_as_it_was_given() -> None:
    trunk = conv_trunk(dropout=0.5)
    labels = maxl.PrototypeGenerator(trunk, HIERARCHY, torch.randn(K, 16))
    assert all(p.requires_grad for p in trunk.parameters())
    assert trunk.training
    x, y = batch()
    before, state = labels(x, y), snapshot(labels)
    with torch.no_grad():
        for p in trunk.parameters():  # somebody trains it
            p += 1.0
    labels.train()
    assert torch.equal(labels(x, y), before)  # no dropout, no statistics of the batch
    torch.testing.assert_close(labels(x[:3], y[:3]), before[:3])
    assert same(state, snapshot(labels))


def test_labels_survive_saving_and_copying() -> None:
    labels = maxl.PrototypeGenerator(conv_trunk(), HIERARCHY, torch.randn(K, 16), temperature=2.0)
    other = maxl.PrototypeGenerator(conv_trunk(), HIERARCHY, torch.zeros(K, 16))
    other.load_state_dict(labels.state_dict())
    x, y = batch()
    assert torch.equal(labels(x, y), other(x, y))
    assert torch.equal(labels(x, y), copy.deepcopy(labels)(x, y))


def test_labels_stay_float32_under_autocast_and_exact() -> None:
    x, y = points()
    labels = generator(torch.float32)
    expected = labels(x.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        found = labels(x.float(), y)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    half = generator(torch.bfloat16)(x.bfloat16(), y)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(1), torch.ones(len(x)))


@pytest.mark.parametrize(
    ("hierarchy", "task", "y"),
    [
        (maxl.Hierarchy.flat(4), maxl.Regression(), torch.randn(12)),
        (HIERARCHY, maxl.MultiLabel(), torch.randint(0, 2, (12, 3)).float()),
        (maxl.Hierarchy.from_labels(torch.tensor([0, 1, 0, 1]), torch.arange(4)), None, torch.arange(12) % 2),
    ],
    ids=["regression", "several labels", "blocks that are not consecutive"],
)
def test_other_tasks_and_hierarchies(
    hierarchy: maxl.Hierarchy, task: maxl.Regression | maxl.MultiLabel | None, y: Tensor
) -> None:
    x, _ = points()
    prototypes = torch.randn(hierarchy.num_auxiliary, 5, dtype=torch.float64)
    found = maxl.PrototypeGenerator(nn.Identity(), hierarchy, prototypes, task=task)(x, y)
    allowed = (task or maxl.Classification()).rows(y, hierarchy.mask)
    torch.testing.assert_close(found.sum(1), torch.ones(12, dtype=torch.float64))
    assert torch.equal(found > 0, allowed)


def test_every_pixel_has_a_label_and_ignored_ones_have_none() -> None:
    hierarchy, task = maxl.Hierarchy([2, 2]), maxl.Segmentation()
    y = torch.tensor([[[0, 1], [1, task.ignore_index]]])
    labels = maxl.PrototypeGenerator(nn.Identity(), hierarchy, torch.randn(4, 3), task=task)
    found = labels(torch.randn(1, 3, 2, 2), y)
    assert found.shape == (1, 2, 2, 4)
    assert found[0, 0, 0, 2:].tolist() == [0, 0]
    assert found[0, 0, 1, :2].tolist() == [0, 0]
    torch.testing.assert_close(found.sum(-1), torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]))


@pytest.mark.parametrize(
    ("prototypes", "options", "message"),
    [
        (torch.zeros(K - 1, 5), {}, r"one row for each of 9 auxiliary classes; got \(8, 5\)"),
        (torch.zeros(K), {}, r"shape \(K, D\) .* got \(9,\)"),
        (torch.zeros(K, 5, dtype=torch.int64), {}, "finite floating-point numbers"),
        (torch.full((K, 5), torch.nan), {}, "finite floating-point numbers"),
        (torch.zeros(K, 5), {"temperature": 0.0}, "temperature needs to be a number above 0; got 0"),
        (torch.zeros(K, 5), {"temperature": float("inf")}, "got inf"),
    ],
)
def test_what_gives_no_labels_is_refused(prototypes: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maxl.PrototypeGenerator(nn.Identity(), HIERARCHY, prototypes, **options)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features of shape \(N, 5\); Identity gave \(12, 4\)"):
        generator()(torch.zeros(12, 4, dtype=torch.float64), points()[1])


# The gradient through the gradient.


class Smooth(nn.Module):
    """A trunk without kinks, for finite differences."""

    def __init__(self, width: int = 5, features: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, features), nn.Tanh())
        self.feature_dim = features

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


RATE = 0.1


def network() -> maxl.MultiTaskNetwork:
    torch.manual_seed(0)
    smooth = maxl.MultiTaskNetwork(
        Smooth(), HIERARCHY, primary_head=nn.Linear(6, 3), auxiliary_head=nn.Linear(6, K)
    )
    return smooth.double()


def judged(labels: maxl.PrototypeGenerator, outer: tuple[Tensor, Tensor]) -> Tensor:
    """The primary loss on other samples after a step of SGD on the labels, by hand."""
    model, (x, y) = network(), points()
    logits = model(x)
    loss = maxl.focal_loss(logits.primary, y, 0.0) + maxl.focal_loss(
        logits.auxiliary, labels(x, y).detach(), 0.0
    )
    with torch.no_grad():
        weights = list(model.parameters())
        for p, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            p -= RATE * g
        return maxl.focal_loss(model.predict(outer[0]), outer[1], 0.0)


@pytest.mark.parametrize("way", [maxl.Forward(), maxl.Reverse()], ids=["forward", "reverse"])
def test_the_learners_hypergradient_is_that_of_finite_differences(way: Any) -> None:
    labels, model = generator(temperature=1.5), network()
    x, y = points()
    outer = (-x.flip(0) + 0.1, (y + 1) % 3)
    meta = torch.optim.SGD(labels.parameters(), lr=1.0)
    learner = maxl.MetaAuxiliaryLearner(
        *(model, labels, torch.optim.SGD(model.parameters(), lr=RATE), meta),
        task=maxl.Classification(gamma=0.0),
        supervision=AuxiliaryLabels(
            lambda logits, targets: maxl.focal_loss(logits, targets, 0.0), entropy_weight=0.0
        ),
        way=way,
    )
    before = {name: p.detach().clone() for name, p in labels.named_parameters()}
    learner.step(x, y, outer_batch=outer)
    for name, parameter in labels.named_parameters():
        found = before[name] - parameter.detach()  # SGD at rate 1: the gradient itself
        expected = torch.zeros_like(found)
        for i in range(found.numel()):
            ends = []
            for sign in (1, -1):
                moved = generator(temperature=1.5)
                with torch.no_grad():
                    moved.get_parameter(name).view(-1)[i] += sign * 1e-5
                ends.append(judged(moved, outer))
            expected.view(-1)[i] = (ends[0] - ends[1]) / 2e-5
        assert float(expected.abs().max()) > 1e-6
        assert relative_error(found, expected) < 1e-6


def test_taught_labels_make_a_better_step_for_the_samples_that_judge() -> None:
    labels, model = generator(temperature=1.5), network()
    x, y = points(48)
    outer = (x[12:], y[12:])
    before = float(judged(labels, outer))
    learner = maxl.MetaAuxiliaryLearner(
        model,
        labels,
        torch.optim.SGD(model.parameters(), lr=RATE),
        torch.optim.Adam(labels.parameters(), lr=0.05),
        task=maxl.Classification(gamma=0.0),
        supervision=AuxiliaryLabels(
            lambda logits, targets: maxl.focal_loss(logits, targets, 0.0), entropy_weight=0.0
        ),
        lookahead=maxl.Virtual(),
    )
    inner = points()
    for _ in range(30):  # the network stays, and its next step would be a better one
        learner.meta_step(*inner, outer_batch=outer)
    assert float(judged(labels, outer)) < before - 1e-4
