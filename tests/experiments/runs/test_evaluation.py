"""What a run looks at: accuracy, label statistics with their verdict, gradient cosine, calibration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import maxl
from _networks import batch, pair, same, snapshot
from maxl.experiments.runs.evaluation import (
    calibrate,
    describe_labels,
    evaluate,
    evaluating,
    gradient_cosine,
)
from maxl.hierarchy import Hierarchy
from maxl.supervision import AuxiliaryLabels, UniformLabels
from maxl.tasks import Regression

PSI = Hierarchy([4, 4])
Y = torch.arange(2).repeat(40)
OWN = torch.arange(80) // 2 % 4 + 4 * Y


def one_hot(labels: Tensor) -> Tensor:
    return nn.functional.one_hot(labels, 8).float()


def test_uniform_labels_are_said_to_carry_no_information() -> None:
    look = describe_labels(UniformLabels(PSI).constant(Y, Y, None)[0], Y, PSI)
    assert look.entropy == pytest.approx(math.log(4))
    assert look.information == pytest.approx(0, abs=1e-6)
    assert "no information: they are spread almost evenly" in str(look.verdict())


def test_collapsed_labels_are_said_to_be_collapsed() -> None:
    look = describe_labels(one_hot(4 * Y), Y, PSI)
    assert look.entropy == 0
    assert look.usage == pytest.approx(0.25)
    assert "no information" in str(look.verdict())
    assert "collapsed, 25% of the auxiliary classes in use" in str(look.verdict())


def test_nothing_is_said_of_classes_where_there_are_none() -> None:
    flat, y = Hierarchy.flat(3), torch.randn(6, 1)
    even, alike = torch.full((6, 3), 1 / 3), nn.functional.one_hot(torch.zeros(6, dtype=torch.int64), 3)
    said = [str(describe_labels(v.double(), y, flat, Regression()).verdict()) for v in (even, alike)]
    assert "almost evenly over all auxiliary classes" in said[0]
    assert "all samples get nearly the same label" in said[1]


def test_sharp_and_balanced_labels_get_no_complaint() -> None:
    look = describe_labels(one_hot(OWN), Y, PSI)
    assert look.verdict() is None
    assert look.information == pytest.approx(math.log(4))
    assert (look.usage, look.usage_per_class) == (1.0, [1.0, 1.0])


def test_one_auxiliary_class_a_class_repeats_the_primary_task() -> None:
    look = describe_labels(nn.functional.one_hot(Y, 2).float(), Y, Hierarchy([1, 1]))
    assert "labels repeat the primary task" in str(look.verdict())


def test_statistics_by_hand() -> None:
    labels = torch.tensor([[0.5, 0.5, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1.0]])
    look = describe_labels(labels, torch.tensor([0, 0, 1]), Hierarchy([2, 3]))
    assert look.entropy == pytest.approx(math.log(2) / 3)
    assert look.entropy_max == pytest.approx((2 * math.log(2) + math.log(3)) / 3)
    assert look.entropy_per_class == pytest.approx([math.log(2) / 2, 0])
    assert look.usage_per_class == pytest.approx([1 / 2, 1 / 3])
    assert look.usage == pytest.approx(2 / 5)
    of_mean = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert look.information == pytest.approx(2 / 3 * (of_mean - math.log(2) / 2))


def test_a_class_that_wins_fewer_than_one_in_a_hundred_is_not_in_use() -> None:
    y = torch.zeros(300, dtype=torch.int64)
    for winners, usage in ((2, 0.5), (3, 1.0)):
        labels = torch.tensor([[0.9, 0.1]]).repeat(300, 1)
        labels[:winners] = labels[:winners].flip(1)
        assert describe_labels(labels, y, Hierarchy.flat(2)).usage == usage


def test_a_class_without_samples_has_no_entropy() -> None:
    look = describe_labels(one_hot(OWN[Y == 0]), Y[Y == 0], PSI)
    assert math.isnan(look.entropy_per_class[1])
    assert look.usage_per_class == [1.0, 0.0]


def test_accuracy_and_loss_are_means_over_samples_whatever_the_batches() -> None:
    network, _ = pair(dropout=0.5)
    x, y = batch(13)
    network.train()
    with evaluating(network):
        logits = network.predict(x)
    expected = float(maxl.focal_loss(logits, y)), float((logits.argmax(1) == y).float().mean())
    for size in (13, 5, 1):
        batches = zip(x.split(size), y.split(size), strict=True)
        assert evaluate(network, batches, maxl.focal_loss) == pytest.approx(expected, rel=1e-5)


def test_evaluating_gives_every_module_its_own_mode_back() -> None:
    network, _ = pair()
    network.train()
    network.trunk[1].eval()
    before = [m.training for m in network.modules()]
    with evaluating(network, None):
        assert not any(m.training for m in network.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in network.modules()] == before
    assert torch.is_grad_enabled()


def test_the_gradient_cosine_is_that_of_two_ordinary_backward_passes_and_changes_nothing() -> None:
    network, generator = pair()
    x, y = batch()
    network.train()
    labels = generator(x, y).detach()
    before = snapshot(network)
    total, layers = gradient_cosine(
        network, network.trunk, x, y, (labels,), maxl.Classification(), AuxiliaryLabels()
    )
    assert same(before, snapshot(network))
    assert all(p.grad is None for p in network.parameters())

    gradients = []
    for task in (0, 1):
        loss = maxl.focal_loss(network(x)[task], (y, labels)[task])
        gradients.append(torch.autograd.grad(loss, list(network.trunk.parameters())))
    first, second = (torch.cat([g.flatten() for g in one]) for one in gradients)
    assert total == pytest.approx(float(torch.cosine_similarity(first, second, 0)), rel=1e-4)
    assert set(layers) == {"0", "4", "10"}  # the convolutions and the linear layer
    last = torch.cosine_similarity(gradients[0][-2].flatten(), gradients[1][-2].flatten(), 0)
    assert layers["10"] == pytest.approx(float(last), rel=1e-4)


def test_the_gradient_cosine_leaves_the_random_state_alone_where_there_is_dropout() -> None:
    network, generator = pair(dropout=0.5)
    x, y = batch()
    labels = generator(x, y).detach()
    network.train()
    state = torch.get_rng_state()
    gradient_cosine(network, network.trunk, x, y, (labels,), maxl.Classification(), AuxiliaryLabels())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_cosine_of_a_task_with_itself_is_one_and_against_itself_minus_one() -> None:
    trunk = nn.Linear(4, 3)
    head = nn.Linear(3, 2)
    network = maxl.MultiTaskNetwork(trunk, Hierarchy([1, 1]), primary_head=head, auxiliary_head=head)
    x, y = torch.randn(6, 4), torch.arange(6) % 2
    for sign in (1, -1):
        cosine, layers = gradient_cosine(
            network, trunk, x, y, (y,), maxl.Classification(), AuxiliaryLabels(weight=sign)
        )
        assert cosine == pytest.approx(sign)
        assert list(layers.values()) == pytest.approx([sign])


def test_calibration_takes_the_mean_of_the_batches_statistics() -> None:
    _, generator = pair()
    batches = [batch(16, seed) for seed in (1, 2, 3)]
    first = generator.trunk[0]
    with torch.no_grad():
        inputs = [first(x) for x, _ in batches]
    calibrate(generator, batches)
    norm = generator.trunk[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([z.mean((0, 2, 3)) for z in inputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([z.var((0, 2, 3)) for z in inputs]).mean(0))
    assert norm.momentum == 0.1
    assert not any(m.training for m in generator.modules())


def test_after_calibration_a_label_depends_on_its_sample_alone() -> None:
    _, generator = pair()
    x, y = batch()
    generator.train()
    with torch.no_grad():
        assert (generator(x, y)[:4] - generator(x[:4], y[:4])).abs().max() > 1e-3  # why it is needed
        calibrate(generator, [(x, y)])
        torch.testing.assert_close(generator(x, y)[:4], generator(x[:4], y[:4]))


def test_calibration_forgets_what_was_before() -> None:
    _, generator = pair()
    x, y = batch()
    calibrate(generator, [(x, y)])
    once = snapshot(generator)
    calibrate(generator, [(100 * x, y)])
    calibrate(generator, [(x, y)])
    assert same(once, snapshot(generator))


def test_calibration_of_a_generator_without_batch_norm_draws_no_batch() -> None:
    generator = maxl.LabelGenerator(nn.Linear(4, 3), PSI, feature_dim=3)

    def batches():
        raise AssertionError("drew a batch")
        yield

    calibrate(generator, batches())
    assert not generator.training
