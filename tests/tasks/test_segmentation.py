"""A class for each position: what ignored ones change (nothing), and that rows are what is computed with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import maxl
from maxl.supervision import AuxiliaryLabels, CorrectedLabels, FixedLabels, SampleWeights, UniformLabels

IGNORED = 9
TASK = maxl.Segmentation(ignore_index=IGNORED, gamma=0.0)
HIERARCHY = maxl.Hierarchy.uniform(num_primary=3, k=2)
LOOKAHEADS = {"taken": maxl.Taken, "next": maxl.Next, "virtual": maxl.Virtual}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 2, 4, 4).double(), torch.randint(0, 3, (2, 4, 4))
    y[0, 0] = IGNORED
    y[1, 2, 1:3] = IGNORED
    return x, y


def trunk(kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 5, kernel, padding=kernel // 2), nn.Tanh()).double()


def networks(task: Any = TASK, kernel: int = 3) -> tuple[maxl.MultiTaskNetwork, maxl.LabelGenerator]:
    network = maxl.MultiTaskNetwork(trunk(kernel), HIERARCHY, feature_dim=5, task=task).double()
    return network, maxl.LabelGenerator(trunk(kernel), HIERARCHY, feature_dim=5, task=task).double()


def learner_of(
    network: nn.Module, generator: nn.Module, kind: type[Any] = maxl.MetaAuxiliaryLearner, **words: Any
) -> Any:
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (network, generator)]
    return kind(network, generator, *optimizers, **words)


def state(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for m in modules for p in m.parameters()]


def test_the_loss_is_cross_entropy_over_all_positions_the_ignored_ones_as_zeros(
    batch: tuple[Tensor, Tensor],
) -> None:
    _, y = batch
    z = torch.randn(2, 4, 4, 3).double()
    each = F.cross_entropy(z.movedim(-1, 1), y, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(TASK.losses(z, y), each.flatten())
    torch.testing.assert_close(TASK.loss(z, y), each.sum() / 32)


def test_outputs_and_labels_have_a_row_for_each_position(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network, generator = networks()
    assert network(x).primary.shape == (2, 4, 4, 3)
    assert network(x).auxiliary.shape == (2, 4, 4, 6)
    assert network.predict(x).shape == (2, 4, 4, 3)
    labels = generator(x, y)
    counts = y != IGNORED
    assert not labels[~counts].any()
    torch.testing.assert_close(labels[counts].sum(-1), torch.ones(int(counts.sum())).double())
    assert not labels[counts][~HIERARCHY.mask[y[counts]]].any()


def independent_gradient(
    network: nn.Module,
    generator: nn.Module,
    x: Tensor,
    y: Tensor,
    judge: tuple[Tensor, Tensor],
    weight: float,
) -> list[Tensor]:
    """dL_out/dθ₂ by differentiating a plain step twice, with every formula written out anew."""
    counts, classes = (y != IGNORED).double(), y.where(y != IGNORED, torch.zeros(()).long())

    def primary(z: Tensor, target: Tensor) -> Tensor:
        return (
            F.cross_entropy(z.movedim(-1, 1), target, ignore_index=IGNORED, reduction="sum") / target.numel()
        )

    features = generator.trunk(x).movedim(1, -1)
    logits = generator.head(features).masked_fill(~HIERARCHY.mask[classes], -torch.inf)
    labels = logits.softmax(-1) * counts.unsqueeze(-1)
    theta = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
    z, a = functional_call(network, theta, (x,))
    auxiliary = -(labels * a.log_softmax(-1)).sum() / y.numel()
    gradients = torch.autograd.grad(
        primary(z, y) + weight * auxiliary, list(theta.values()), create_graph=True
    )
    ahead = {name: p - 0.5 * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
    outer = primary(functional_call(network, ahead, (judge[0],))[0], judge[1])
    mean = labels.flatten(0, -2).mean(0)
    outer = outer + 0.2 * (mean * mean.clamp_min(1e-300).log()).sum()
    return list(torch.autograd.grad(outer, list(generator.parameters())))


@pytest.mark.parametrize("name", LOOKAHEADS)
def test_the_hypergradient_is_that_of_a_double_backward_with_ignored_pixels(
    name: str, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    network, generator = networks()
    judge = (torch.randn(2, 2, 4, 4).double(), y.flip(0)) if name == "next" else (x, y)
    supervision = AuxiliaryLabels(F.cross_entropy, weight=0.7)
    learner = learner_of(network, generator, lookahead=LOOKAHEADS[name](), supervision=supervision)
    if name == "virtual":  # a further step, from where the first one leads
        learner.train_step(x, y)
    expected = independent_gradient(copy.deepcopy(network), copy.deepcopy(generator), x, y, judge, 0.7)
    before = state(generator)
    if name == "virtual":
        learner.meta_step()
    else:
        learner.step(x, y)
    if name == "next":
        learner.step(*judge)
    for old, p, g in zip(before, generator.parameters(), expected, strict=True):
        assert g.norm() > 0
        torch.testing.assert_close(p.detach(), old - 0.5 * g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_stands_at_an_ignored_pixel_changes_nothing(
    weighted: bool, batch: tuple[Tensor, Tensor]
) -> None:
    """With kernels of one pixel: larger ones see an ignored pixel as a neighbour."""
    x, y = batch
    kind = maxl.WeightedLabelGenerator if weighted else maxl.LabelGenerator
    network, _ = networks(kernel=1)
    generator = kind(trunk(1), HIERARCHY, feature_dim=5, task=TASK).double()
    other = x + 7 * (y == IGNORED).unsqueeze(1)
    ends = []
    for inputs in (x, other):
        pair = copy.deepcopy(network), copy.deepcopy(generator)
        learner = learner_of(*pair)
        for _ in range(2):
            learner.step(inputs, y)
        ends.append(state(*pair))
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two)


def test_a_network_of_single_pixels_trains_as_classification_of_the_rows(
    batch: tuple[Tensor, Tensor],
) -> None:
    x, y = batch
    y = y.where(y != IGNORED, torch.zeros(()).long())
    dense = networks(kernel=1)
    plain = networks(maxl.Classification(gamma=0.0), kernel=1)
    for one, two in zip(dense, plain, strict=True):
        two.load_state_dict(one.state_dict())
        two.trunk.append(nn.Flatten())
    learner_of(*dense).step(x, y)
    learner_of(*plain).step(x.movedim(1, -1).reshape(-1, 2, 1, 1), y.flatten())
    for p, q in zip(state(*dense), state(*plain), strict=True):
        torch.testing.assert_close(p, q)


def test_a_step_in_parts_is_the_step_on_the_whole_though_parts_ignore_different_numbers(
    batch: tuple[Tensor, Tensor],
) -> None:
    x, y = batch
    network, generator = networks()
    whole, parts = (network, generator), (copy.deepcopy(network), copy.deepcopy(generator))
    learner_of(*whole).step(x, y)
    learner_of(*parts, kind=maxl.AccumulatingLearner, microbatch=1).step(x, y)
    for p, q in zip(state(*whole), state(*parts), strict=True):
        torch.testing.assert_close(p, q)


def test_labels_come_from_anywhere_and_ignored_pixels_count_in_none(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    counts = y != IGNORED
    classes = y.where(counts, torch.zeros(()).long())
    network, _ = networks()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = AuxiliaryLabels(F.cross_entropy)
    for source, labels in (
        (UniformLabels(HIERARCHY, TASK), HIERARCHY.mask[classes].double() / 2),
        (FixedLabels(2 * classes), F.one_hot(2 * classes, 6).double()),
    ):
        learner = maxl.MultiTaskLearner(network, optimizer, source=source, supervision=loss)
        auxiliary = network(x).auxiliary.log_softmax(-1)
        expected = -(labels * auxiliary).sum(-1)[counts].sum() / 32
        result = learner.step(x, y, torch.arange(2))
        torch.testing.assert_close(result.auxiliary_loss, expected.detach())


def test_kept_labels_are_those_of_their_pixels(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network, generator = networks()
    learner = learner_of(network, generator, schedule=maxl.Every(2), cache_size=2)
    index = torch.tensor([1, 0])
    first = learner.step(x, y, index).labels
    assert torch.equal(learner.step(x.flip(0), y.flip(0), index.flip(0)).labels, first.flip(0))


def test_corrections_and_weights_of_pixels_leave_ignored_ones_out(batch: tuple[Tensor, Tensor]) -> None:
    _, y = batch
    counts, z = y != IGNORED, torch.randn(2, 4, 4, 3).double()
    soft, weights = torch.rand(2, 4, 4, 3).double().softmax(-1), torch.rand(2, 4, 4).double()
    corrected = CorrectedLabels().losses(TASK, (z,), y, (soft,)).primary
    torch.testing.assert_close(corrected, -(soft * z.log_softmax(-1)).sum(-1)[counts].sum() / 32)
    weighted = SampleWeights().losses(TASK, (z,), y, (weights,)).primary
    torch.testing.assert_close(weighted, (weights.flatten() * TASK.losses(z, y)).mean())


def test_a_class_for_each_token_is_the_same_with_features_last() -> None:
    task = maxl.Segmentation()
    network = maxl.MultiTaskNetwork(nn.Embedding(10, 6), HIERARCHY, feature_dim=6, task=task)
    generator = maxl.LabelGenerator(nn.Embedding(10, 6), HIERARCHY, feature_dim=6, task=task)
    x, y = torch.randint(0, 10, (4, 7)), torch.randint(0, 3, (4, 7))
    y[:, 5:] = -100  # padding
    assert network.predict(x).shape == (4, 7, 3)
    before = state(generator)
    learner = learner_of(network, generator)
    learner.step(x, y)
    assert learner.task is task
    assert any(not torch.equal(p, q) for p, q in zip(before, state(generator), strict=True))


def test_a_generator_on_the_networks_features_labels_pixels(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network, _ = networks()
    generator = maxl.LabelGenerator.sharing(network).double()
    result = learner_of(network, generator).step(x, y)
    assert result.labels is not None
    assert result.labels.shape == (2, 4, 4, 6)


def test_a_loss_of_ones_own_gets_rows(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network, generator = networks()

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, ignore_index=IGNORED)

    result = learner_of(network, generator, primary_loss=own, auxiliary_loss=F.cross_entropy).step(x, y)
    counts = y != IGNORED
    assert result.primary_logits is not None
    expected = F.cross_entropy(result.primary_logits[counts], y[counts])
    torch.testing.assert_close(result.primary_loss, expected)


def test_what_segmentation_refuses(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    network, _ = networks()
    with pytest.raises(ValueError, match=r"classes in \[0, 3\) or ignore_index=-100; got 9"):
        maxl.Segmentation().loss(network.predict(x), y)
    with pytest.raises(ValueError, match=r"classes in \[0, 3\) or ignore_index=9; got 4"):
        TASK.rows(torch.tensor([[4]]), HIERARCHY.mask)
    with pytest.raises(ValueError, match="a target for each position"):
        TASK.loss(network.predict(x), y[:, :2])
    with pytest.raises(ValueError, match="gamma needs to be at least 0; got -1"):
        maxl.Segmentation(gamma=-1)
    small = maxl.MultiTaskNetwork(trunk(), HIERARCHY, feature_dim=6, task=TASK).double()
    with pytest.raises(ValueError, match=r"the trunk of a dense task needs to give features"):
        small(x)


def test_segmentations_with_the_same_settings_are_equal() -> None:
    one, two = (maxl.Segmentation(class_weights=w) for w in ([1, 2], (1.0, 2.0)))
    assert one == two
    assert hash(one) == hash(two)


def test_the_information_of_labels_is_that_of_the_pixels_that_count(batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    _, generator = networks()
    labels, counts = generator(x, y).detach(), y != IGNORED
    of_all = maxl.label_information(labels.flatten(0, -2), y.flatten(), HIERARCHY)
    of_some = maxl.label_information(labels[counts], y[counts], HIERARCHY)
    torch.testing.assert_close(of_all, of_some * counts.double().mean())
