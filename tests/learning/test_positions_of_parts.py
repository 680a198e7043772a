"""Parts of a batch whose samples have positions: as one batch where all have as many, else refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import maxl
from _networks import flatten, relative_error
from maxl.supervision import UniformLabels

pytestmark = pytest.mark.usefixtures("float64")
HIERARCHY = maxl.Hierarchy.uniform(2, 2)
TASK = maxl.Segmentation(gamma=0.0)
PADDED = "parts of a batch need samples with the same number of positions.* got 3 in a part and 6 in the next: pad all"


def texts() -> tuple[Tensor, Tensor]:
    """Four, two of which have three tokens and padding."""
    random = torch.Generator().manual_seed(1)
    x = torch.randint(1, 9, (4, 6), generator=random)
    y = torch.randint(0, 2, (4, 6), generator=random)
    x[:2, 3:], y[:2, 3:] = 0, TASK.ignore_index
    return x, y


def parts(lengths: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    x, y = texts()
    return [
        (x[rows, :length], y[rows, :length])
        for rows, length in zip((slice(0, 2), slice(2, 4)), lengths, strict=True)
    ]


def made(kind: type[Any] = maxl.MetaAuxiliaryLearner, **options: Any) -> Any:
    torch.manual_seed(0)
    network = maxl.MultiTaskNetwork(nn.Embedding(9, 4), HIERARCHY, feature_dim=4, task=TASK)
    generator = maxl.LabelGenerator(nn.Embedding(9, 4), HIERARCHY, feature_dim=4, task=TASK)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    if kind is maxl.MultiTaskLearner:
        return kind(network, optimizer, source=UniformLabels(HIERARCHY, TASK), **options)
    return kind(network, generator, optimizer, torch.optim.SGD(generator.parameters(), lr=1.0), **options)


def stepped(learner: Any, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The weights after a step on some parts of a batch."""
    for x, y in batches:
        learner.backward(x, y, share=1 / len(batches))
    learner.optimizer.step()
    modules = [learner.network]
    if isinstance(learner, maxl.MetaAuxiliaryLearner):
        learner.meta_step()
        modules.append(learner.generator)
    return flatten([p for module in modules for p in module.parameters()])


@pytest.mark.parametrize("kind", [maxl.MultiTaskLearner, maxl.MetaAuxiliaryLearner])
def test_parts_that_are_padded_alike_are_the_batch(kind: type[Any]) -> None:
    assert relative_error(stepped(made(kind), parts((6, 6))), stepped(made(kind), [texts()])) < 1e-12


@pytest.mark.parametrize("options", [{"microbatch": 1}, {}])
def test_parts_of_other_lengths_are_refused_and_nothing_moves(options: dict[str, int]) -> None:
    kinds = [maxl.AccumulatingLearner] if options else [maxl.MultiTaskLearner, maxl.MetaAuxiliaryLearner]
    for kind in kinds:
        learner = made(kind, **options)
        first, second = parts((3, 6))
        learner.backward(*first, share=0.5)
        before = [p.grad.clone() for p in learner.network.parameters()]
        with pytest.raises(ValueError, match=PADDED):
            learner.backward(*second, share=0.5)
        for p, gradient in zip(learner.network.parameters(), before, strict=True):
            assert torch.equal(p.grad, gradient)


def test_a_mean_over_positions_of_parts_of_other_lengths_is_another_one() -> None:
    """What is refused: the gradient of the whole, looped over its positions, is not the parts'."""
    network = made(maxl.MultiTaskLearner).network

    def of_positions(x: Tensor, y: Tensor) -> Tensor:
        z = network.predict(x)
        each = [F.cross_entropy(z[i, j], y[i, j]) for i, j in (y != TASK.ignore_index).nonzero()]
        return torch.stack(each).sum() / y.numel()

    whole = of_positions(*texts())
    for lengths, same in (((6, 6), True), ((3, 6), False)):
        together = sum(0.5 * of_positions(*part) for part in parts(lengths))
        assert bool((together - whole).abs() < 1e-12) is same
    torch.testing.assert_close(whole, TASK.loss(network.predict(texts()[0]), texts()[1]))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_steps_and_batches_that_are_left_out_may_have_other_lengths(set_to_none: bool) -> None:
    learner, other = made(), made()
    short, long = parts((3, 6))
    stepped(learner, [short, short])
    stepped(other, [short, short])
    learner.backward(*short, share=0.5)
    learner.optimizer.zero_grad(set_to_none=set_to_none)
    assert relative_error(stepped(learner, [long, long]), stepped(other, [long, long])) < 1e-12


def test_images_of_another_form_have_as_many_positions() -> None:
    x, y = torch.randn(4, 3, 6, 1), texts()[1].unsqueeze(2)
    ends = []
    for forms in ([(6, 1), (6, 1)], [(2, 3), (3, 2)]):
        torch.manual_seed(0)
        network = maxl.MultiTaskNetwork(nn.Conv2d(3, 4, 1), HIERARCHY, feature_dim=4, task=TASK)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
        learner = maxl.MultiTaskLearner(network, optimizer, source=UniformLabels(HIERARCHY, TASK))
        halves = [
            (x[rows].reshape(2, 3, *form), y[rows].reshape(2, *form))
            for rows, form in zip((slice(0, 2), slice(2, 4)), forms, strict=True)
        ]
        ends.append(stepped(learner, halves))
    assert relative_error(*ends) < 1e-12
