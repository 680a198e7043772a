"""What every task has to keep. Add yours to ``TASKS`` with five rows of outputs and targets that fit it.

Hierarchies are ``HIERARCHY`` of three blocks, or ``FLAT`` for a task without primary classes (``hierarchy_of``).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maxl
from maxl.hierarchy import rows_of
from maxl.tasks import Classification, MultiLabel, Regression, Task, WithLoss

HIERARCHY = maxl.Hierarchy([3, 2, 4])
FLAT = maxl.Hierarchy.flat(4)
Y = torch.tensor([0, 2, 1, 1, 0])
LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
WEIGHTS = (0.5, 2.0, 1.5)


@dataclass(frozen=True)
class Ordered:
    """A task of one's own, as docs/extend.md writes it: one number a sample, the class it is nearest to."""

    def num_outputs(self, hierarchy: maxl.Hierarchy) -> int:
        return 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.squeeze(1) - targets).square()

    def rows(self, targets: Tensor, mask: Tensor) -> Tensor:
        return rows_of(mask, targets)


TASKS: dict[str, tuple[Task, Tensor, Tensor]] = {
    "classification, focal": (Classification(), torch.randn(5, 3), Y),
    "classification, cross-entropy": (Classification(gamma=0.0), torch.randn(5, 3), Y),
    "class weights": (Classification(gamma=0.0, class_weights=WEIGHTS), torch.randn(5, 3), Y),
    "class weights, focal and smoothed": (
        Classification(class_weights=WEIGHTS, label_smoothing=0.1),
        torch.randn(5, 3),
        Y,
    ),
    "label smoothing": (Classification(gamma=0.0, label_smoothing=0.2), torch.randn(5, 3), Y),
    "soft targets": (Classification(), torch.randn(5, 3), torch.rand(5, 3).softmax(1)),
    "soft targets, class weights": (
        Classification(class_weights=WEIGHTS, label_smoothing=0.1),
        torch.randn(5, 3),
        torch.rand(5, 3).softmax(1),
    ),
    "a loss of one's own": (WithLoss(Classification(), F.cross_entropy), torch.randn(5, 3), Y),
    "regression": (Regression(), torch.randn(5, 1), torch.randn(5)),
    "regression, a column": (Regression(), torch.randn(5, 1), torch.randn(5, 1)),
    "regression, two numbers": (Regression(2), torch.randn(5, 2), torch.randn(5, 2)),
    "regression, Huber": (Regression(2, huber=0.5), torch.randn(5, 2), torch.randn(5, 2)),
    "multi-label": (MultiLabel(), torch.randn(5, 3), LABELS),
    "multi-label, floats": (MultiLabel(), torch.randn(5, 3), LABELS.float()),
    "one's own": (Ordered(), torch.randn(5, 1), Y),
}
WITH_LOSSES = [name for name in TASKS if name != "a loss of one's own"]
CLASSES = [
    name for name, (task, _, targets) in TASKS.items() if task is not TASKS["one's own"][0] and targets is Y
]


def hierarchy_of(task: Task) -> maxl.Hierarchy:
    return FLAT if isinstance(task, Regression) else HIERARCHY


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


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_of_a_batch_is_the_mean_of_its_parts_by_their_samples(name: str) -> None:
    task, outputs, targets = TASKS[name]
    parts = [task.loss(outputs[part], targets[part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(task.loss(outputs, targets), (2 * parts[0] + 3 * parts[1]) / 5)


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_has_the_dtype_of_the_outputs_and_targets_get_no_gradient(name: str) -> None:
    task, outputs, targets = TASKS[name]
    assert task.loss(outputs.double(), targets).dtype == torch.float64
    assert not targets.requires_grad


@pytest.mark.parametrize("name", TASKS)
def test_every_row_may_use_some_auxiliary_class_and_the_head_is_as_wide_as_the_outputs(name: str) -> None:
    task, outputs, targets = TASKS[name]
    hierarchy = FLAT if "soft" in name else hierarchy_of(task)
    rows = task.rows(targets, hierarchy.mask)
    assert rows.dtype == torch.bool
    assert rows.shape == (5, hierarchy.num_auxiliary)
    assert rows.any(1).all()
    if hierarchy is not FLAT or isinstance(task, Regression):
        assert task.num_outputs(hierarchy) == outputs.shape[1]


@pytest.mark.parametrize("name", CLASSES)
def test_a_row_may_use_the_block_of_its_target(name: str) -> None:
    task, _, targets = TASKS[name]
    assert torch.equal(task.rows(targets, HIERARCHY.mask), HIERARCHY.mask[targets])
    assert task.num_outputs(HIERARCHY) == 3


@pytest.mark.parametrize("name", TASKS)
def test_every_row_may_use_all_classes_of_a_flat_hierarchy(name: str) -> None:
    task, _, targets = TASKS[name]
    rows = task.rows(targets, FLAT.mask)
    assert rows.shape == (5, 4)
    assert rows.all()


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_a_task_trains_both_networks(name: str) -> None:
    task, outputs, targets = TASKS[name]
    soft = "soft" in name
    hierarchy = FLAT if soft else hierarchy_of(task)
    heads = {"primary_head": nn.Linear(6, 3)} if soft else {}
    network = maxl.MultiTaskNetwork(nn.Linear(4, 6), hierarchy, feature_dim=6, task=task, **heads)
    generator = maxl.LabelGenerator(nn.Linear(4, 6), hierarchy, feature_dim=6, task=task)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (network, generator)]
    learner = maxl.MetaAuxiliaryLearner(network, generator, *optimizers)
    assert learner.task is task
    x = torch.randn(5, 4)
    result = learner.step(x, targets)
    assert result.primary_logits is not None
    assert result.primary_logits.shape == outputs.shape
    before = [p.detach().clone() for p in generator.parameters()]
    learner.step(x, targets)
    assert any(not torch.equal(p, q) for p, q in zip(before, generator.parameters(), strict=True))


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_a_step_on_parts_of_a_batch_is_the_step_on_the_whole(name: str) -> None:
    task, _, targets = TASKS[name]
    soft = "soft" in name
    hierarchy = FLAT if soft else hierarchy_of(task)
    heads = {"primary_head": nn.Linear(6, 3)} if soft else {}
    network = maxl.MultiTaskNetwork(nn.Linear(4, 6), hierarchy, feature_dim=6, task=task, **heads).double()
    learner = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1))
    x = torch.randn(5, 4).double()
    learner.backward(x, targets)
    whole = [p.grad for p in learner.weights().values()]
    learner.optimizer.zero_grad()
    learner.backward(x[:2], targets[:2], share=2 / 5)
    learner.backward(x[2:], targets[2:], share=3 / 5)
    for one, p in zip(whole, learner.weights().values(), strict=True):
        torch.testing.assert_close(one, p.grad)


def test_cross_entropy_is_gamma_zero() -> None:
    z = torch.randn(5, 3)
    torch.testing.assert_close(Classification(gamma=0.0).loss(z, Y), F.cross_entropy(z, Y))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_class_weights_multiply_the_loss_of_each_sample(gamma: float) -> None:
    z, weights = torch.randn(5, 3), torch.tensor(WEIGHTS)
    plain, weighted = Classification(gamma), Classification(gamma, class_weights=WEIGHTS)
    torch.testing.assert_close(weighted.losses(z, Y), weights[Y] * plain.losses(z, Y))
    torch.testing.assert_close(weighted.losses(z, F.one_hot(Y, 3).float()), weighted.losses(z, Y))
    if gamma == 0.0:
        torch.testing.assert_close(
            weighted.losses(z, Y), F.cross_entropy(z, Y, weight=weights, reduction="none")
        )


def test_label_smoothing_is_that_of_torch_and_the_same_for_classes_and_their_one_hot_labels() -> None:
    z = torch.randn(5, 3)
    smoothed = Classification(gamma=0.0, label_smoothing=0.3)
    torch.testing.assert_close(smoothed.loss(z, Y), F.cross_entropy(z, Y, label_smoothing=0.3))
    for task in (smoothed, Classification(label_smoothing=0.3)):
        torch.testing.assert_close(task.losses(z, Y), task.losses(z, F.one_hot(Y, 3).float()))


def test_tasks_with_the_same_settings_are_equal() -> None:
    assert Classification(class_weights=[1, 2]) == Classification(class_weights=(1.0, 2.0))
    assert hash(Classification(class_weights=[1, 2])) == hash(Classification(class_weights=(1.0, 2.0)))


def test_regression_is_the_mean_squared_error_or_that_of_huber() -> None:
    z, y = 3 * torch.randn(5, 2), torch.randn(5, 2)
    torch.testing.assert_close(Regression(2).loss(z, y), F.mse_loss(z, y))
    torch.testing.assert_close(Regression(2, huber=0.7).loss(z, y), F.huber_loss(z, y, delta=0.7))


def test_multi_label_is_binary_cross_entropy() -> None:
    z = torch.randn(5, 3)
    expected = F.binary_cross_entropy_with_logits(z, LABELS.float())
    torch.testing.assert_close(MultiLabel().loss(z, LABELS), expected)


def test_a_row_may_use_the_blocks_of_all_of_its_labels_and_without_one_all_classes() -> None:
    rows = MultiLabel().rows(LABELS, HIERARCHY.mask)
    first, second, third = HIERARCHY.mask
    everything = torch.ones(9, dtype=torch.bool)
    assert torch.equal(rows, torch.stack([first | third, everything, second, everything, third]))


def test_how_wide_the_primary_head_is() -> None:
    assert Regression().num_outputs(FLAT) == 1
    assert Regression(3).num_outputs(FLAT) == 3
    assert MultiLabel().num_outputs(HIERARCHY) == 3
    assert MultiLabel(3).num_outputs(HIERARCHY) == 3
    assert MultiLabel(6).num_outputs(FLAT) == 6


def test_what_a_task_refuses() -> None:
    with pytest.raises(ValueError, match="gamma needs to be at least 0; got -1"):
        Classification(gamma=-1)
    with pytest.raises(ValueError, match=r"label_smoothing needs to be in \[0, 1\); got 1"):
        Classification(label_smoothing=1)
    with pytest.raises(ValueError, match=r"finite numbers of at least 0; got -1.0 for class 1"):
        Classification(class_weights=[1, -1])
    with pytest.raises(ValueError, match="class_weights need one above 0"):
        Classification(class_weights=[0, 0])
    with pytest.raises(ValueError, match="one number a class; got 2 for 3 classes"):
        Classification(class_weights=[1, 2]).num_outputs(HIERARCHY)
    with pytest.raises(ValueError, match="one number a class; got 2 for 3 classes"):
        Classification(class_weights=[1, 2]).loss(torch.randn(5, 3), Y)
    with pytest.raises(ValueError, match="primary labels need to be at least 0; got -1"):
        Classification().rows(torch.tensor([0, -1]), HIERARCHY.mask)


def test_a_generator_that_was_not_told_the_task_says_so() -> None:
    generator = maxl.LabelGenerator(nn.Linear(4, 6), HIERARCHY, feature_dim=6)
    with pytest.raises(
        ValueError, match=r"classes need shape \(N,\); got \(5, 3\): say what targets mean with task="
    ):
        generator(torch.randn(5, 4), LABELS)


def test_what_regression_refuses() -> None:
    with pytest.raises(ValueError, match="num_targets needs to be at least 1; got 0"):
        Regression(0)
    with pytest.raises(ValueError, match="huber needs to be a number above 0, or None; got 0"):
        Regression(huber=0)
    with pytest.raises(ValueError, match="needs a flat hierarchy; got one of 3 blocks"):
        maxl.MultiTaskNetwork(nn.Linear(4, 6), HIERARCHY, feature_dim=6, task=Regression())
    with pytest.raises(ValueError, match="needs a flat hierarchy; got one of 3 blocks"):
        Regression().rows(torch.randn(5), HIERARCHY.mask)
    for outputs, targets in ((torch.randn(5, 1), torch.randn(1, 5)), (torch.randn(5, 2), torch.randn(5))):
        with pytest.raises(ValueError, match=r"outputs of shape \(N, D\) and targets of shape \(N, D\)"):
            Regression().loss(outputs, targets)


def test_samples_without_a_label_may_have_a_block_of_their_own() -> None:
    task, hierarchy = MultiLabel(2), maxl.Hierarchy([2, 1, 3])
    targets = torch.tensor([[0, 0], [1, 0], [1, 1]])
    assert task.rows(targets, hierarchy.mask).int().tolist() == [
        [0, 0, 0, 1, 1, 1],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]
    assert task.num_outputs(hierarchy) == 2
    with pytest.raises(ValueError, match=r"shape \(N, 3\), one column for each block"):
        MultiLabel().rows(targets, hierarchy.mask)  # three blocks are three labels where nothing else is said


def test_what_multi_label_refuses() -> None:
    with pytest.raises(ValueError, match="num_labels needs to be at least 1; got 0"):
        MultiLabel(0)
    with pytest.raises(
        ValueError, match=r"one block for each label, one more .* or a single one; got 3 for 4 labels"
    ):
        MultiLabel(4).num_outputs(HIERARCHY)
    with pytest.raises(ValueError, match=r"labels need shape \(N, C\), as the outputs have; got \(5,\)"):
        MultiLabel().loss(torch.randn(5, 3), Y)
    with pytest.raises(ValueError, match=r"labels need shape \(N, 3\), one column for each block"):
        MultiLabel().rows(LABELS[:, :2], HIERARCHY.mask)
    with pytest.raises(ValueError, match="labels need to be 0 or 1; got 2"):
        MultiLabel().rows(LABELS * 2, HIERARCHY.mask)


def test_a_network_asks_its_task_for_the_size_of_its_head() -> None:
    class Pair(Classification):
        def num_outputs(self, hierarchy: maxl.Hierarchy) -> int:
            return 7

    network = maxl.MultiTaskNetwork(torch.nn.Linear(4, 6), HIERARCHY, feature_dim=6, task=Pair())
    assert network(torch.randn(2, 4)).primary.shape == (2, 7)
    learner = maxl.MultiTaskLearner(network, torch.optim.SGD(network.parameters(), lr=0.1))
    assert learner.task is network.task
