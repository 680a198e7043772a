"""Weights and corrections of given labels, and losses that bear wrong ones, against what is written out here."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maxl
from _networks import batch as single_batch
from _networks import conv_trunk
from maxl.supervision import CorrectedLabels, GeneralizedCrossEntropy, SampleWeights, SmallLosses

CE = maxl.Classification(gamma=0.0)


def batch(n: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    x, y = single_batch(n, seed)
    return x.double(), y


def made(kind: Callable[..., nn.Module], seed: int = 0, **options: object) -> nn.Module:
    """A generator in float64 whose head is not at its start."""
    torch.manual_seed(seed)
    generator = kind(conv_trunk(), 3, feature_dim=16, **options).double()
    for p in generator.head.parameters():
        nn.init.normal_(p, std=0.5)
    return generator


def test_weights_start_at_one_and_corrections_at_the_given_label() -> None:
    x, y = batch(8)
    x = x.float()
    assert torch.equal(maxl.WeightGenerator(conv_trunk(), 3, feature_dim=16)(x, y), torch.ones(8))
    soft = maxl.LabelCorrector(conv_trunk(), 3, feature_dim=16, confidence=0.9)(x, y)
    expected = torch.where(F.one_hot(y, 3) == 1, 0.9, 0.05)
    torch.testing.assert_close(soft, expected)


def test_both_look_at_the_sample_and_at_its_label() -> None:
    x, y = batch(8)
    for kind in (maxl.WeightGenerator, maxl.LabelCorrector):
        generator = made(kind)
        given = generator(x, y)
        assert (given != generator(x, (y + 1) % 3)).any()
        assert (given != generator(x.flip(0), y)).any()
        assert torch.equal(given, generator.of_features(generator.trunk(x), y))


def test_scores_of_half_precision_become_float32() -> None:
    x, y = batch(8)
    for kind in (maxl.WeightGenerator, maxl.LabelCorrector):
        with torch.autocast("cpu", torch.bfloat16):
            assert kind(conv_trunk(), 3, feature_dim=16)(x.float(), y).dtype == torch.float32


@pytest.mark.parametrize("kind", [maxl.WeightGenerator, maxl.LabelCorrector])
def test_what_is_no_class_is_refused(kind: type[nn.Module]) -> None:
    x, y = batch(4)
    with pytest.raises(ValueError, match=r"int64 of shape \(N,\); got torch.float64"):
        made(kind)(x, F.one_hot(y, 3).double())
    with pytest.raises(ValueError, match="num_classes needs to be at least 2; got 1"):
        kind(conv_trunk(), 1, feature_dim=16)
    with pytest.raises(ValueError, match="pass feature_dim="):
        kind(nn.Flatten(), 3)


@pytest.mark.parametrize("confidence", [1 / 3, 1.0, 0.1])
def test_a_confidence_between_a_guess_and_certainty(confidence: float) -> None:
    with pytest.raises(ValueError, match="above 1/3, that of a guess, and below 1"):
        maxl.LabelCorrector(conv_trunk(), 3, feature_dim=16, confidence=confidence)


# The hypergradient, by a double backward written out


def by_double_backward(
    network: nn.Module, generator: nn.Module, loss: Callable[..., Tensor], trusted: tuple[Tensor, Tensor]
) -> list[Tensor]:
    x, y = batch(12)
    weights = dict(network.named_parameters())
    inner = loss(torch.func.functional_call(network, weights, (x,)), y, generator(x, y))
    gradients = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    moved = {n: p - 0.3 * g for (n, p), g in zip(weights.items(), gradients, strict=True)}
    outer = F.cross_entropy(torch.func.functional_call(network, moved, (trusted[0],)), trusted[1])
    return list(torch.autograd.grad(outer, [p for p in generator.parameters() if p.requires_grad]))


def effective(weights: Tensor, share: float) -> Tensor:
    """Moved towards their mean, by a search rather than by the formula."""
    weights = weights / weights.mean()

    def size(s: float) -> float:
        w = 1 + s * (weights.detach() - 1)
        return float(w.sum() ** 2 / w.square().sum() / len(w))

    if size(1.0) >= share:
        return weights
    s = torch.sqrt((1 / share - 1) / ((weights - 1) ** 2).mean())
    assert size(float(s.detach())) == pytest.approx(share)
    return 1 + s * (weights - 1)


CASES: dict[str, tuple] = {
    "weights": (
        SampleWeights(normalise=True),
        maxl.WeightGenerator,
        {},
        lambda z, y, w: (w * F.cross_entropy(z, y, reduction="none")).sum() / w.sum(),
    ),
    "weights that spread": (
        SampleWeights(normalise=True, effective=0.9),
        maxl.WeightGenerator,
        {},
        lambda z, y, w: (effective(w, 0.9) * F.cross_entropy(z, y, reduction="none")).mean(),
    ),
    "corrections": (
        CorrectedLabels(),
        maxl.LabelCorrector,
        {"confidence": 0.7},
        lambda z, y, t: -(t * z.log_softmax(1)).sum(1).mean(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_double_gradient_through_both(name: str) -> None:
    supervision, kind, options, loss = CASES[name]
    torch.manual_seed(1)
    network = nn.Sequential(conv_trunk(), nn.Linear(16, 3)).double()
    generator, trusted = made(kind, **options), batch(6, seed=5)
    if name == "weights that spread":  # so that the limit binds
        x, y = batch(12)
        weights = generator(x, y).detach()
        assert float(weights.sum() ** 2 / weights.square().sum() / 12) < 0.9
    expected = by_double_backward(network, generator, loss, trusted)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.SGD(network.parameters(), lr=0.3),
        torch.optim.SGD(generator.parameters(), lr=1.0),
        task=CE,
        supervision=supervision,
    )
    before = [p.detach().clone() for p in generator.parameters()]
    learner.step(*batch(12), outer_batch=trusted)
    found = [b - p.detach() for b, p in zip(before, generator.parameters(), strict=True)]
    assert any(float(e.abs().max()) > 1e-6 for e in expected)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-8, atol=1e-12)


# The effective sample size


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_few_samples_cannot_take_all_the_weight(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 10.0):
        weights = (spread * torch.randn(200, generator=generator, dtype=torch.float64)).exp()
        moved = SampleWeights(normalise=True, effective=share).of_batch(weights)
        assert float(moved.mean()) == pytest.approx(1)
        assert float(moved.sum() ** 2 / moved.square().sum() / 200) >= share - 1e-9
        own = float(weights.sum() ** 2 / weights.square().sum() / 200)
        if own >= share:  # nothing is to be done
            torch.testing.assert_close(moved, weights / weights.mean())
        assert bool((moved[weights.argsort()].diff() >= 0).all())


def test_equal_weights_have_a_derivative() -> None:
    weights = torch.ones(5, dtype=torch.float64, requires_grad=True)
    moved = SampleWeights(normalise=True, effective=0.5).of_batch(weights)
    (gradient,) = torch.autograd.grad(moved[0], weights)
    torch.testing.assert_close(gradient, torch.tensor([0.8, -0.2, -0.2, -0.2, -0.2], dtype=torch.float64))


def test_limits_that_cannot_be() -> None:
    for share in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="effective needs to be above 0 and below 1"):
            SampleWeights(normalise=True, effective=share)
    with pytest.raises(ValueError, match="pass normalise=True"):
        SampleWeights(effective=0.5)


# Losses that bear wrong labels


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_written_out(q: float) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 4, (9,))
    p = z.softmax(1)[torch.arange(9), y]
    loss = GeneralizedCrossEntropy(q).losses(CE, (z,), y, ())
    assert loss.auxiliary is None
    torch.testing.assert_close(loss.primary, ((1 - p**q) / q).mean())


def test_generalized_cross_entropy_between_cross_entropy_and_absolute_error() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 4, (9,))
    near = GeneralizedCrossEntropy(1e-9).losses(CE, (z,), y, ()).primary
    torch.testing.assert_close(near, F.cross_entropy(z, y), rtol=1e-6, atol=0)
    far = torch.tensor([[0.0, 1e6]], dtype=torch.float64, requires_grad=True)
    loss = GeneralizedCrossEntropy(0.7).losses(CE, (far,), torch.tensor([0]), ()).primary
    (gradient,) = torch.autograd.grad(loss, far)
    assert float(loss.detach()) == pytest.approx(1 / 0.7)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("keep", "count"), [(0.01, 1), (0.5, 4), (0.7, 6), (1.0, 8)])
def test_the_smallest_losses(keep: float, count: int) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(0, 3, (8,))
    each = F.cross_entropy(z, y, reduction="none").sort().values
    found = SmallLosses(keep).losses(CE, (z,), y, ()).primary
    torch.testing.assert_close(found, each[:count].mean())


@pytest.mark.parametrize("keep", [0.3, 0.7, 1.0])
def test_class_weights_select_no_sample_and_weigh_those_that_are_kept(keep: float) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 3, (40,))
    weights = (1.0, 0.2, 9.0)
    plain = F.cross_entropy(z, y, reduction="none")
    kept = plain.argsort()[: round(keep * 40)]
    expected = (torch.tensor(weights)[y] * plain)[kept].mean()
    for task, outputs, targets in (
        (maxl.Classification(0.0, weights), z, y),
        (maxl.Segmentation(gamma=0.0, class_weights=weights), z, y),
    ):
        found = SmallLosses(keep).losses(task, (outputs,), targets, ()).primary
        torch.testing.assert_close(found, expected, check_dtype=False)


@pytest.mark.parametrize("q", [1e-9, 0.7, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, (1.0, 0.2, 9.0)])
def test_generalized_cross_entropy_has_the_weights_and_the_smoothing_of_its_task(
    q: float, smoothing: float, weights: tuple[float, ...] | None
) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(0, 3, (8,))
    task = maxl.Classification(0.0, weights, smoothing)
    found = GeneralizedCrossEntropy(q).losses(task, (z,), y, ()).primary
    soft = (1 - smoothing) * F.one_hot(y, 3) + smoothing / 3
    of_classes = -torch.expm1(q * z.log_softmax(1)) / q
    each = (soft * of_classes).sum(1)
    if weights is not None:
        each = each * torch.tensor(weights, dtype=z.dtype)[y]
    torch.testing.assert_close(found, each.mean())
    if q < 1e-6:  # cross-entropy, as the task has it
        torch.testing.assert_close(found, task.loss(z, y), rtol=1e-6, atol=0)


def test_ranges_of_the_losses() -> None:
    for value in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="q needs to be above 0 and at most 1"):
            GeneralizedCrossEntropy(value)
        with pytest.raises(ValueError, match="keep needs to be above 0 and at most 1"):
            SmallLosses(value)
    z = torch.randn(4, 3)
    with pytest.raises(ValueError, match="is of classes"):
        GeneralizedCrossEntropy().losses(CE, (z,), torch.rand(4, 3), ())


def test_they_train_without_a_second_head() -> None:
    x, y = batch(12)
    for supervision in (GeneralizedCrossEntropy(), SmallLosses()):
        torch.manual_seed(0)
        network = nn.Sequential(conv_trunk(), nn.Linear(16, 3)).double()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        learner = maxl.MultiTaskLearner(network, optimizer, task=CE, supervision=supervision)
        losses = [float(learner.train_step(x, y).loss) for _ in range(20)]
        assert losses[-1] < losses[0]
