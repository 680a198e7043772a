"""What differs between processes: trained as if it did not, or refused in all of them.

Run by ``test_unlike.py`` as ``python _unlike.py RANK SIZE STORE``; prints a JSON object, case by case: None if all is well.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from _started import try_all
from torch import Tensor, nn

import maxl
from maxl.supervision import Generated

HIERARCHY = maxl.Hierarchy.uniform(3, 2)


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())


def learner(
    world: Any, first: Callable[[], nn.Module] = trunk, momentum: float = 0.0, **options: Any
) -> maxl.MetaAuxiliaryLearner:
    network = maxl.MultiTaskNetwork(first(), HIERARCHY, feature_dim=16)
    generator = maxl.LabelGenerator(trunk(), HIERARCHY, feature_dim=16)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=momentum) for m in (network, generator)]
    return maxl.MetaAuxiliaryLearner(network, generator, *optimizers, world=world, **options)


def batch(step: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    return torch.randn(12, 8, generator=random), torch.randint(0, 3, (12,), generator=random)


def mine(step: int) -> tuple[Tensor, Tensor]:
    x, y = batch(step)
    return (x[:7], y[:7]) if dist.get_rank() == 0 else (x[7:], y[7:])


def weights(trained: Any) -> Tensor:
    modules = trained.network, trained.generator
    return torch.cat([t.detach().flatten() for m in modules for t in m.state_dict().values()])


def same_everywhere(trained: Any) -> None:
    own = weights(trained)
    first = own.clone()
    dist.broadcast(first, 0)
    assert (own - first).abs().max() < 1e-12, f"weights differ by {float((own - first).abs().max())}"


def refused(call: Callable[[], object], words: str, kind: type[Exception] = ValueError) -> None:
    said = "nothing was refused"
    try:
        call()
    except kind as error:
        said = str(error)
    assert words in said, said


class Sliced(nn.Module):
    """A weight that is part of a larger one, or lies otherwise in another process."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        whole = torch.randn(8, 16)[:, :8]
        square = torch.randn(8, 8)
        self.weight = nn.Parameter(
            square.t() if transposed and dist.get_rank() else square if transposed else whole
        )
        self.last = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.tanh(x @ self.weight))
        return result


def weights_that_lie_otherwise(world: maxl.DataParallel) -> None:
    for transposed in (False, True):
        torch.manual_seed(dist.get_rank())
        trained = learner(world, lambda t=transposed: Sliced(transposed=t))
        same_everywhere(trained)
        trained.step(*mine(0))
        same_everywhere(trained)


def a_learner_that_the_first_one_saved(world: maxl.DataParallel) -> None:
    torch.manual_seed(0)
    trained, alone = learner(world), None
    torch.manual_seed(0)
    alone = learner(None)
    for step in range(2):
        trained.step(*mine(step))
        alone.step(*batch(step))
    file = io.BytesIO()
    torch.save(trained, file)
    saved = [file.getvalue()]
    dist.broadcast_object_list(saved)
    loaded = torch.load(io.BytesIO(saved[0]), weights_only=False)
    for step in range(2, 5):
        loaded.step(*mine(step))
        alone.step(*batch(step))
    assert (weights(loaded) - weights(alone)).abs().max() < 1e-12


def gradients_of_another_loss(world: maxl.DataParallel) -> None:
    trained = learner(world)
    if dist.get_rank() == 0:
        sum(p.square().sum() for p in trained.network.parameters()).backward()
    refused(lambda: trained.backward(*mine(0)), "gradients of other losses are not summed over them")
    trained.optimizer.zero_grad()
    trained.step(*mine(0))
    same_everywhere(trained)


def no_sample_in_one_process(world: maxl.DataParallel) -> None:
    trained = learner(world)
    x, y = batch(0)
    refused(
        lambda: trained.step(*((x, y) if dist.get_rank() else (x[:0], y[:0]))), "1 of 2 processes had none"
    )
    trained.step(*mine(1))
    same_everywhere(trained)


def a_loss_that_is_trained(world: maxl.DataParallel) -> None:
    network = maxl.MultiTaskNetwork(trunk(), HIERARCHY, feature_dim=16)
    optimizer = torch.optim.SGD([*network.parameters(), nn.Parameter(torch.zeros(()))], lr=0.1)
    refused(
        lambda: maxl.MultiTaskLearner(network, optimizer, world=world),
        "weights of the network alone; got 1 tensors",
    )


def a_hook_in_one_process(world: maxl.DataParallel) -> None:
    for options in ({}, {"check": "never"}, {"lookahead": maxl.Virtual()}):
        torch.manual_seed(0)
        trained = learner(world, **options)
        torch.manual_seed(0)
        alone = learner(None, **options)
        if dist.get_rank() == 0:
            trained.network.trunk[2].register_full_backward_hook(lambda *_: None)
        for step in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that reverse mode takes over
                trained.step(*mine(step))
            alone.step(*batch(step))
        assert (weights(trained) - weights(alone)).abs().max() < 1e-10


def restored_in_the_first_one(world: maxl.DataParallel) -> None:
    """States of optimizers, the count of steps, weights: each by itself."""
    momenta = {"momentum": 0.9}
    donor = learner(None, **momenta)
    for step in range(3):
        donor.step(*batch(step))
    parts = {
        "states of optimizers need to be the same": lambda t: t.optimizer.load_state_dict(
            donor.optimizer.state_dict()
        ),
        "number of steps need to be the same": lambda t: t.load_state_dict({**t.state_dict(), "steps": 3}),
        "weight trunk.0.weight of MultiTaskNetwork": lambda t: t.network.load_state_dict(
            donor.network.state_dict()
        ),
        "weight trunk.0.weight of LabelGenerator": lambda t: t.generator.load_state_dict(
            donor.generator.state_dict()
        ),
    }
    for words, restore in parts.items():
        torch.manual_seed(0)
        trained = learner(world, **momenta)
        if dist.get_rank() == 0:
            restore(trained)
        refused(lambda t=trained: t.step(*mine(3)), words)
        if dist.get_rank():
            restore(trained)
        trained.step(*mine(3))
        same_everywhere(trained)


def what_is_frozen_differs(world: maxl.DataParallel) -> None:
    """Weights of the same shape, so that no message would be of another size."""
    for of in ("network", "generator"):
        trained = learner(world)
        trained.step(*mine(0))
        getattr(trained, of).trunk[2].requires_grad_(False)
        trained.step(*mine(1))
        getattr(trained, of).trunk[2].requires_grad_(dist.get_rank() > 0)
        refused(lambda t=trained: t.step(*mine(2)), "trained weights need to be the same in each")
        getattr(trained, of).trunk[2].requires_grad_(True)
        trained.step(*mine(2))
        same_everywhere(trained)


def rates_that_go_apart(world: maxl.DataParallel) -> None:
    """As by a schedule that looks at a process's own loss; noticed in the hundredth step at the latest."""
    trained = learner(world)
    for step in range(4):
        trained.step(*mine(step))
    for group in trained.optimizer.param_groups:
        group["lr"] *= 1.0 - 0.5 * dist.get_rank()
    taken = 0

    def go_on() -> None:
        nonlocal taken
        for step in range(4, 120):
            trained.step(*mine(step))
            taken += 1

    refused(go_on, "weight trunk.0.weight of MultiTaskNetwork needs to be the same in each")
    assert taken == 96, taken


def rounding_is_no_difference(world: maxl.DataParallel) -> None:
    for kind, ulps in ((torch.float64, 100), (torch.float32, 100)):
        trained = learner(world)
        modules = trained.network, trained.generator
        for module in modules:
            module.to(kind)
            with torch.no_grad():
                for p in module.parameters():
                    p.mul_(1 + ulps * torch.finfo(kind).eps * dist.get_rank())
        x, y = mine(0)
        trained.step(x.to(kind), y)


def an_infinite_weight_in_one_process(world: maxl.DataParallel) -> None:
    """All processes judge by the numbers of the first, whose tolerance may be infinite."""
    for rank in range(2):
        trained = learner(world)
        if dist.get_rank() == rank:
            with torch.no_grad():
                trained.network.trunk[0].weight[0, 0] = torch.inf
        refused(lambda t=trained: t.step(*mine(0)), "trunk.0.weight of MultiTaskNetwork needs to be the same")


def layers_beside_a_large_frozen_one(world: maxl.DataParallel) -> None:
    """In half precision, too: each weight is compared by itself."""
    torch.manual_seed(0)
    trained = learner(world)
    trained.network.register_parameter(
        "backbone", nn.Parameter(torch.randn(300, 300, dtype=torch.bfloat16), requires_grad=False)
    )
    with torch.no_grad():
        trained.network.trunk[2].weight.mul_(1 + 1e-9 * dist.get_rank())
    refused(lambda: trained.step(*mine(0)), "trunk.2.weight of MultiTaskNetwork needs to be the same")


def settings_said_otherwise(world: maxl.DataParallel) -> None:
    """As another kind of number, or how a step is computed: the same step."""
    trained = learner(world)
    for group in trained.optimizer.param_groups:
        group["lr"] = torch.tensor(0.1) if dist.get_rank() else 0.1
        group["foreach"] = bool(dist.get_rank())
    trained.optimizer.state["of no weight"] = 3
    for step in range(2):
        trained.step(*mine(step))
    same_everywhere(trained)
    trained.optimizer.param_groups[0]["nesterov"] = dist.get_rank() > 0
    refused(lambda: trained.step(*mine(2)), "settings of optimizers need to be the same")


def a_generator_that_is_not_trained(world: maxl.DataParallel) -> None:
    torch.manual_seed(dist.get_rank())
    network = maxl.MultiTaskNetwork(trunk(), HIERARCHY, feature_dim=16)
    generator = maxl.LabelGenerator(trunk(), HIERARCHY, feature_dim=16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trained = maxl.MultiTaskLearner(network, optimizer, source=Generated(generator), world=world)
    trained.generator = generator  # for the next line
    same_everywhere(trained)
    trained.step(*mine(0))
    if dist.get_rank():
        with torch.no_grad():
            generator.trunk[0].weight.mul_(2)
    refused(lambda: trained.step(*mine(1)), "trunk.0.weight of LabelGenerator needs to be the same")


def classes_as_labels(world: maxl.DataParallel) -> None:
    torch.manual_seed(0)
    trained, alone = (
        maxl.MultiTaskLearner(n, torch.optim.SGD(n.parameters(), lr=0.1), world=w)
        for n, w in ((maxl.MultiTaskNetwork(trunk(), HIERARCHY, feature_dim=16), w) for w in (world, None))
    )
    alone.network.load_state_dict(trained.network.state_dict())
    for step in range(2):
        whole = batch(step)
        labels = whole[1] * 2
        part = slice(0, 7) if dist.get_rank() == 0 else slice(7, None)
        trained.train_step(*mine(step), labels[part])
        alone.train_step(*whole, labels)
    ours, whole_ones = (torch.cat([p.flatten() for p in t.network.parameters()]) for t in (trained, alone))
    assert (ours - whole_ones).abs().max() < 1e-12


def an_infinite_slope_in_one_process(world: maxl.DataParallel) -> None:
    """Of a label that is certain, under a root; the batch may be left out."""

    def doubtful(logits: Tensor, labels: Tensor) -> Tensor:
        return ((1 - labels.max(1).values).sqrt() * logits.square().mean(1)).mean()

    def certain(module: nn.Module, args: object, labels: Tensor) -> Tensor:
        most = labels.detach().max(1, keepdim=True).values
        return labels * (labels.detach() == most) / most

    trained = learner(world, auxiliary_loss=doubtful, primary_loss=nn.functional.cross_entropy, check="never")
    hook = trained.generator.register_forward_hook(certain) if dist.get_rank() == 0 else None
    refused(lambda: trained.step(*mine(0)), "the hypergradient needs to be finite", FloatingPointError)
    if hook is not None:
        hook.remove()
    trained.step(*mine(1))
    same_everywhere(trained)


def texts_of_other_lengths(world: maxl.DataParallel) -> None:
    """Losses are means over positions: of texts that each process pads to its own longest they are none over samples."""
    words = "numbers of positions of a sample need to be the same in each"
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randint(0, most, (12, 6), generator=random) for most in (9, 3))
    x[:7, 4:], y[:7, 4:] = 0, -100
    part = slice(0, 7) if dist.get_rank() == 0 else slice(7, None)
    length = 4 if dist.get_rank() == 0 else 6
    short = x[part, :length], y[part, :length]
    for lookahead in (maxl.Taken(), maxl.Next(), maxl.Virtual()):
        pairs = []
        for who in (world, None):
            torch.manual_seed(0)
            task = maxl.Segmentation()
            modules = [
                kind(nn.Embedding(9, 8), HIERARCHY, feature_dim=8, task=task)
                for kind in (maxl.MultiTaskNetwork, maxl.LabelGenerator)
            ]
            optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in modules]
            pairs.append(maxl.MetaAuxiliaryLearner(*modules, *optimizers, world=who, lookahead=lookahead))
        trained, alone = pairs
        refused(lambda t=trained: t.step(*short), words)
        for _ in range(2):
            trained.step(x[part], y[part])
            alone.step(x, y)
        assert (weights(trained) - weights(alone)).abs().max() < 1e-12
        if not lookahead.waits:  # else the next batch judges
            trained.optimizer.zero_grad()
            trained.backward(x[part], y[part], outer_batch=short)
            trained.optimizer.step()
            refused(trained.meta_step, words)


CASES: list[Callable[[maxl.DataParallel], None]] = [
    weights_that_lie_otherwise,
    a_learner_that_the_first_one_saved,
    gradients_of_another_loss,
    no_sample_in_one_process,
    a_loss_that_is_trained,
    a_hook_in_one_process,
    restored_in_the_first_one,
    what_is_frozen_differs,
    rates_that_go_apart,
    rounding_is_no_difference,
    an_infinite_weight_in_one_process,
    layers_beside_a_large_frozen_one,
    settings_said_otherwise,
    a_generator_that_is_not_trained,
    classes_as_labels,
    an_infinite_slope_in_one_process,
    texts_of_other_lengths,
]


if __name__ == "__main__":
    try_all(CASES)
