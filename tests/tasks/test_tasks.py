"""What every task has to keep. Add yours to ``TASKS`` with outputs and targets that fit it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import maxl
from maxl.tasks import Classification, Task, WithLoss

HIERARCHY = maxl.Hierarchy([3, 2, 4])
Y = torch.tensor([0, 2, 1, 1, 0])
TASKS: dict[str, tuple[Task, Tensor, Tensor]] = {
    "classification, focal": (Classification(), torch.randn(5, 3), Y),
    "classification, cross-entropy": (Classification(gamma=0.0), torch.randn(5, 3), Y),
    "soft targets": (Classification(), torch.randn(5, 3), torch.rand(5, 3).softmax(1)),
    "a loss of one's own": (WithLoss(Classification(), F.cross_entropy), torch.randn(5, 3), Y),
}
WITH_LOSSES = [name for name in TASKS if name != "a loss of one's own"]


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_a_scalar_with_a_gradient(name: str) -> None:
    task, outputs, targets = TASKS[name]
    z = outputs.double().requires_grad_()
    loss = task.loss(z, targets if not targets.is_floating_point() else targets.double())
    assert loss.shape == ()
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.norm() > 0


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_the_loss_is_the_mean_of_the_losses(name: str) -> None:
    task, outputs, targets = TASKS[name]
    each = task.losses(outputs, targets)
    assert each.shape == (5,)
    torch.testing.assert_close(task.loss(outputs, targets), each.mean())


@pytest.mark.parametrize("name", [n for n in TASKS if n != "soft targets"])
def test_a_row_may_use_the_block_of_its_target(name: str) -> None:
    task, _, targets = TASKS[name]
    assert torch.equal(task.rows(targets, HIERARCHY.mask), HIERARCHY.mask[targets])
    flat = maxl.Hierarchy.flat(4)
    assert task.rows(torch.randn(5, 2), flat.mask).all()
    assert task.num_outputs(HIERARCHY) == 3


def test_cross_entropy_is_gamma_zero() -> None:
    z = torch.randn(5, 3)
    torch.testing.assert_close(Classification(gamma=0.0).loss(z, Y), F.cross_entropy(z, Y))


def test_what_a_task_refuses() -> None:
    with pytest.raises(ValueError, match="gamma needs to be at least 0; got -1"):
        Classification(gamma=-1)
    with pytest.raises(ValueError, match="primary labels need to be at least 0; got -1"):
        Classification().rows(torch.tensor([0, -1]), HIERARCHY.mask)


def test_a_network_asks_its_task_for_the_size_of_its_head() -> None:
    class Pair(Classification):
        def num_outputs(self, hierarchy: maxl.Hierarchy) -> int:
            return 7

    network = maxl.MultiTaskNetwork(torch.nn.Linear(4, 6), HIERARCHY, feature_dim=6, task=Pair())
    assert network(torch.randn(2, 4)).primary.shape == (2, 7)
    learner = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1))
    assert learner.task is network.task
