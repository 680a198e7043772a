"""One of several processes that sum gradients while a backward pass goes on, and after it, for comparison.

Run by ``test_overlapping.py`` as ``python _reducing.py RANK SIZE STORE``; prints a JSON object, case by case: None if all
was as it should be, else what was not.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from _started import PATIENCE, try_all
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import maxl
from maxl.worlds import Reducer, SyncBatchNorm

BYTES = (
    600  # less than a layer has: each weight is a message, and each bias but those of the head and before it
)
MESSAGES = 24
STEPS = 4


class Net(nn.Module):
    """Six layers with a branch each, and a head."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(6))
        self.branches = nn.ModuleList(nn.Linear(10, 10) for _ in range(6))
        self.norms = nn.ModuleList(SyncBatchNorm(10) if norm else nn.Identity() for _ in range(6))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor, unused: int | None = None, again: bool = False) -> Tensor:
        """``unused``: the branch that is left out. ``again``: run layers again in the backward pass."""
        for i, (layer, branch, norm) in enumerate(zip(self.layers, self.branches, self.norms, strict=True)):
            y = checkpoint(layer, x, use_reentrant=True) if again else layer(x)
            x = norm(y if i == unused else y + branch(x)).tanh()
        y = self.head(x)
        return y


class Log:
    """The messages of a pass: how many were sent within it, and how many in all."""

    def __init__(self) -> None:
        self.early = self.all = 0
        self.within = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        self.early = self.all = 0
        self.within = True
        yield
        self.within = False


LOG = Log()
_ALL_REDUCE = dist.all_reduce


def logged(tensor: Tensor, *args: Any, **options: Any) -> Any:
    if tensor.is_floating_point():  # not what is said about them
        LOG.early += LOG.within
        LOG.all += 1
    return _ALL_REDUCE(tensor, *args, **options)


def network(norm: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(norm)


def batch(step: int) -> Tensor:
    random = torch.Generator().manual_seed(100 * step + dist.get_rank())
    return torch.randn(4, 10, generator=random)


def want(found: Sequence[Tensor | None], right: Sequence[Tensor | None], what: str) -> None:
    """To the last bit: a sum is a sum."""
    assert len(found) == len(right)
    for i, (a, b) in enumerate(zip(found, right, strict=True)):
        assert (a is None) == (b is None), f"{what}: tensor {i} is {a}, should be {b}"
        if a is not None and b is not None:
            assert a.shape == b.shape, what
            assert a.dtype == b.dtype, what
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14, msg=f"{what}, tensor {i}: {a} for {b}")


def gradients(world: maxl.DataParallel, net: Net, loss: Tensor) -> list[Tensor | None]:
    """The sums by ``world.sum`` alone; the graph is kept."""
    weights = list(net.parameters())
    own = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return world.sum(own, weights)


def summed(reducer: Reducer, net: Net, run: Callable[[], None], **options: Any) -> list[Tensor | None]:
    weights = list(net.parameters())
    with reducer.summing(weights, **options), LOG.backward():
        run()
    return [p.grad for p in weights]


def differentiated(
    reducer: Reducer, net: Net, loss: Tensor, *also: Tensor
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    weights = list(net.parameters())
    with reducer.watching(weights), LOG.backward():
        own = torch.autograd.grad(loss, weights, allow_unused=True)
    both = reducer.sum(own, weights, *also)
    return both[: len(weights)], both[len(weights) :]


def sends_early(world: maxl.DataParallel) -> None:
    """From the first step on; the last bucket alone waits."""
    net, reducers = network(), [world.reducer(), world.reducer()]
    for step in range(STEPS):
        net.zero_grad()
        loss = net(batch(step)).square().mean()
        right = gradients(world, net, loss)
        told = world.sum([loss.detach()], [loss])
        vs, also = differentiated(reducers[0], net, net(batch(step)).square().mean(), loss.detach())
        want(vs, right, f"v, step {step}")
        want(also, told, f"loss, step {step}")
        assert (LOG.early, LOG.all) == (MESSAGES - 1, MESSAGES), f"{LOG.early} of {LOG.all} messages early"
        want(summed(reducers[1], net, loss.backward), right, f"backward, step {step}")
        assert (LOG.early, LOG.all) == (MESSAGES - 1, MESSAGES), f"{LOG.early} of {LOG.all} messages early"


def adds_to_what_is_there(world: maxl.DataParallel) -> None:
    net, reducer = network(), world.reducer()
    total: list[Tensor | None] = [torch.zeros_like(p) for p in net.parameters()]
    for step in range(STEPS):
        loss = net(batch(step)).square().mean()
        for t, g in zip(total, gradients(world, net, loss), strict=True):
            assert t is not None
            assert g is not None
            t += g
        want(summed(reducer, net, loss.backward), total, f"step {step}")


def unused_weights(world: maxl.DataParallel) -> None:
    """In one process or in all, in one step or in several, between layers whose processes speak to each other."""
    cases: list[Callable[[int, int], int | None]] = [
        lambda rank, step: 2 if rank == 1 else None,
        lambda rank, step: 4,
        lambda rank, step: 3 if step < 2 else None,
        lambda rank, step: (rank + step) % 6,
        lambda rank, step: 5 if (rank + step) % 2 else None,
    ]
    for norm in (False, True):
        for which in cases[::3] if norm else cases:
            net, reducers = network(norm), [world.reducer(), world.reducer()]
            for step in range(STEPS):
                net.zero_grad()
                unused = which(dist.get_rank(), step)
                right, v, trained = (net(batch(step), unused).square().mean() for _ in range(3))
                sums = gradients(world, net, right)
                found, _ = differentiated(reducers[0], net, v)
                want(found, sums, f"v, step {step}, norm {norm}")
                want(summed(reducers[1], net, trained.backward), sums, f"backward, step {step}, norm {norm}")


def two_passes(world: maxl.DataParallel) -> None:
    """The second changes what was sent, which is then sent again."""
    net, reducer = network(), world.reducer()
    for step in range(STEPS):
        net.zero_grad()
        losses = [net(batch(step)).square().mean(), net(batch(step + 50), 5).abs().mean()]
        right = gradients(world, net, losses[0] + losses[1])

        def both(losses: list[Tensor] = losses) -> None:
            for loss in losses:
                loss.backward()

        want(summed(reducer, net, both), right, f"step {step}")
        # Twice all but the branch that the second pass leaves out, and the last bucket, which waits.
        assert LOG.all == 2 * MESSAGES - 2, (step, LOG.all)
    other = world.reducer()
    net.zero_grad()
    loss = net(batch(0)).square().mean()
    right = gradients(world, net, 2 * loss)

    def one_after_the_other() -> None:
        loss.backward(retain_graph=True)
        loss.backward()

    want(summed(other, net, one_after_the_other, overlap=False), right, "no overlap")
    assert LOG.all == MESSAGES


def changed_by_hand(world: maxl.DataParallel) -> None:
    """In one process alone, after the pass."""
    net, reducer = network(), world.reducer()
    for step in range(STEPS):
        net.zero_grad()
        loss = net(batch(step)).square().mean()
        own = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
        first = dist.get_rank() == 0
        right = world.sum(
            [2 * g if first and i in (0, 7) else g for i, g in enumerate(own)], list(net.parameters())
        )

        def run(loss: Tensor = loss, first: bool = first, step: int = step) -> None:
            loss.backward()
            weights = list(net.parameters())
            if first:
                weights[0].grad.mul_(2)
                weights[7].grad = 2 * weights[7].grad if step % 2 else weights[7].grad.mul_(2)

        want(summed(reducer, net, run), right, f"step {step}")


def hooks_of_others(world: maxl.DataParallel) -> None:
    """What a user's hooks make of a gradient is what is summed."""
    net, reducers = network(), [world.reducer(), world.reducer()]
    weights = list(net.parameters())

    def five_times(p: Tensor) -> None:
        p.grad = 5 * p.grad

    handles = [
        weights[4].register_hook(lambda g: 3 * g),
        weights[9].register_post_accumulate_grad_hook(five_times),
    ]
    for step in range(STEPS):
        net.zero_grad()
        loss = net(batch(step)).square().mean()
        own = list(torch.autograd.grad(loss, weights, retain_graph=True))  # weights[4]'s is tripled here, too
        right = world.sum([*own[:9], 5 * own[9], *own[10:]], weights)
        want(summed(reducers[0], net, loss.backward), right, f"backward, step {step}")
        v, _ = differentiated(reducers[1], net, net(batch(step)).square().mean())
        assert LOG.all == MESSAGES
        want(v, world.sum(own, weights), f"v, step {step}")
    for handle in handles:
        handle.remove()


def reentrant_checkpoints(world: maxl.DataParallel) -> None:
    net, reducer = network(), world.reducer()
    for step in range(STEPS):
        net.zero_grad()
        x = batch(step).requires_grad_()
        right = gradients(world, net, net(x).square().mean())
        want(
            summed(reducer, net, net(x, again=True).square().mean().backward),
            right,
            f"step {step}",
        )


def half_precision(world: maxl.DataParallel) -> None:
    """Summed as float32, beside layers in double precision; a loss in double precision is not rounded."""
    net, reducer = network(), world.reducer()
    net.layers[2].to(torch.bfloat16)
    for step in range(STEPS):
        x = batch(step)
        for i, layer in enumerate(net.layers):
            x = layer(x.to(layer.weight.dtype)).to(x.dtype).tanh() if i == 2 else layer(x).tanh()
        loss = net.head(x).square().mean()
        right = gradients(world, net, loss)
        told = world.sum([loss.detach()], [loss])
        v, also = differentiated(reducer, net, loss, loss.detach())
        want(v, right, f"step {step}")
        want(also, told, f"step {step}")


def the_same_bits(world: maxl.DataParallel) -> None:
    """Of a reducer that has a past and of one that has none, as after a restart."""
    torch.set_default_dtype(torch.float32)
    net, old = network().float(), world.reducer()
    for step in range(STEPS):
        for reducer in (old, world.reducer()):
            net.zero_grad()
            loss = net(batch(step), 3 if step == 1 else None).square().mean()
            found = summed(reducer, net, loss.backward)
            if reducer is old:
                kept = [None if g is None else g.clone() for g in found]
        for a, b in zip(kept, found, strict=True):
            assert (a is None and b is None) or torch.equal(a, b), f"step {step}"
    torch.set_default_dtype(torch.float64)


def nothing_to_sum(world: maxl.DataParallel) -> None:
    reducer = world.reducer()
    with reducer.watching(()):
        pass
    assert reducer.sum([], []) == []
    loss = torch.tensor(float(dist.get_rank()))
    want(reducer.sum([], [], loss), world.sum([loss], [loss]), "a loss alone")


def a_pass_that_fails(world: maxl.DataParallel) -> None:
    """Everywhere: gradients are as they were, and the next pass is a pass."""
    net, reducer = network(), world.reducer()
    before = [torch.full_like(p, float(i)) for i, p in enumerate(net.parameters())]
    for p, g in zip(net.parameters(), before, strict=True):
        p.grad = g
    loss = net(batch(0)).square().mean()

    def run() -> None:
        loss.backward(retain_graph=True)
        raise FloatingPointError

    try:
        summed(reducer, net, run)
    except FloatingPointError:
        LOG.within = False
    want([p.grad for p in net.parameters()], before, "before")
    world.share(4)
    net.zero_grad()
    right = gradients(world, net, loss)
    want(summed(reducer, net, loss.backward), right, "after")


def a_pass_that_fails_half_way(world: maxl.DataParallel) -> None:
    """In every process, at a place of its own, or before it has begun; the next step says ``share`` as all steps do."""
    net, reducers = network(), [world.reducer(), world.reducer()]
    weights = list(net.parameters())

    def fail(gradient: Tensor) -> None:
        raise FloatingPointError("half way")

    def run(which: int, loss: Tensor) -> None:
        if which == dist.get_rank():
            raise FloatingPointError("before")
        if which % 2:
            differentiated(reducers[1], net, loss)
        else:
            summed(reducers[0], net, loss.backward)

    for which in range(4):  # which process has not begun; none at 3
        place = net.layers[(dist.get_rank() + which) % 6].weight.register_hook(fail)
        failed = False
        try:
            run(which, net(batch(1), dist.get_rank()).square().mean())
        except FloatingPointError:
            failed, LOG.within = True, False
        assert failed
        place.remove()
        for step in range(2):
            world.share(4)
            net.zero_grad()
            loss = net(batch(step)).square().mean()
            sums = gradients(world, net, loss)
            v, _ = differentiated(reducers[1], net, net(batch(step)).square().mean())
            want(v, sums, f"v, step {step}")
            want(summed(reducers[0], net, loss.backward), sums, f"backward, step {step}")
        assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in weights)


def a_watched_pass_without_a_sum(world: maxl.DataParallel) -> None:
    """Is refused as the last one, until the next step."""
    net, reducer = network(), world.reducer()
    loss = net(batch(0)).square().mean()
    sums = gradients(world, net, loss)
    weights = list(net.parameters())
    with reducer.watching(weights):
        torch.autograd.grad(net(batch(1)).square().mean(), weights)
    said = ""
    try:
        with reducer.watching(weights):
            pass
    except RuntimeError as error:
        said = str(error)
    assert "begin a step with world.share" in said
    world.share(4)
    fewer = [torch.ones_like(p) for p in weights[2:]]
    want(reducer.sum(fewer, weights[2:]), world.sum(fewer, weights[2:]), "other tensors")
    want(summed(reducer, net, net(batch(0)).square().mean().backward), sums, "the next pass")


def fewer_weights_than_before(world: maxl.DataParallel) -> None:
    """The last ones were silent in the steps before."""
    net, reducer = network(), world.reducer()
    for step in range(STEPS):
        net.zero_grad()
        if step == 2:
            net.layers[0].requires_grad_(False)
        weights = [p for p in net.parameters() if p.requires_grad]
        features = net.layers[2](net.layers[1](net.layers[0](batch(step)))).square().mean()
        own = torch.autograd.grad(features, weights, allow_unused=True, retain_graph=True)
        sums = world.sum(own, weights)
        with reducer.summing(weights):
            features.backward()
        want([p.grad for p in weights], sums, f"step {step}")


def hooks_that_write_later(world: maxl.DataParallel) -> None:
    """A module's hook that clips gradients by ``.data``, after they have come, is not overtaken."""
    net = network()
    learner = maxl.MultiTaskLearner(net, torch.optim.SGD(net.parameters(), lr=0.1), world=world)

    def clip(module: nn.Module, *_: Any) -> None:
        for p in module.parameters():
            p.grad.data.clamp_(-1e-4, 1e-4)

    for layer in list(net.layers)[1:]:
        layer.register_full_backward_hook(clip)
    for step in range(2):
        learner.optimizer.zero_grad()
        learner.backward(batch(step), torch.tensor([0, 1, 2, 0]))
        largest = max(float(p.grad.abs().max()) for layer in list(net.layers)[1:] for p in layer.parameters())
        assert largest <= dist.get_world_size() * 1e-4 * (1 + 1e-9), largest


def some_of_all_processes(world: maxl.DataParallel) -> None:
    """Sum after their passes, and keep nobody from making groups."""
    group = dist.new_group([0, 2])
    if dist.get_rank() != 1:
        part = maxl.DataParallel(group, bucket_bytes=BYTES)
        net = network()
        loss = net(batch(0)).square().mean()
        sums = gradients(part, net, loss)
        want(summed(part.reducer(), net, loss.backward), sums, "a part")
        assert LOG.early == 0
    dist.barrier(dist.new_group())
    sends_early(maxl.DataParallel(bucket_bytes=BYTES))


def a_sum_of_ones_own(world: maxl.DataParallel) -> None:
    """Is what sums gradients, too."""

    class Halved(maxl.DataParallel):
        def sum(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
            return [None if t is None else t / 2 for t in super().sum(tensors, like)]

    net, own = network(), Halved()
    loss = net(batch(0)).square().mean()
    right = [None if g is None else g / 2 for g in gradients(world, net, loss)]
    want(summed(own.reducer(), net, loss.backward), right, "halved")


def copies_and_groups(world: maxl.DataParallel) -> None:
    """A learner can be stored; many worlds have one further group, which waits as long as the first."""
    before = len(dist.distributed_c10d._world.pg_map)
    network_ = maxl.MultiTaskNetwork(nn.Linear(10, 5), maxl.Hierarchy([2, 2, 2]), feature_dim=5)
    for _ in range(3):
        one = maxl.DataParallel(bucket_bytes=BYTES)
        learner = maxl.MultiTaskLearner(network_, torch.optim.SGD(network_.parameters(), lr=0.1), world=one)
        learner.step(batch(0), torch.tensor([0, 1, 2, 0]))
    assert len(dist.distributed_c10d._world.pg_map) == before
    waits = [
        g._get_backend(torch.device("cpu")).options._timeout for g in dist.distributed_c10d._world.pg_map
    ]
    assert waits.count(PATIENCE) >= 2, waits
    again = pickle.loads(pickle.dumps(learner))
    for each in (learner, again):
        each.step(batch(1), torch.tensor([0, 1, 2, 0]))
    want(list(again.network.parameters()), list(network_.parameters()), "the copy")


def sizes_that_differ(world: maxl.DataParallel) -> None:
    said = ""
    try:
        maxl.DataParallel(bucket_bytes=1000 + 100 * dist.get_rank()).reducer()
    except ValueError as error:
        said = str(error)
    assert said.endswith("the same in every process; got [1000, 1100, 1200]")


def weights_without_gradient(world: maxl.DataParallel) -> None:
    """Are no leaves to watch; nothing stays behind on the others."""
    net, reducer = network(), world.reducer()
    net.head.bias.requires_grad_(False)
    try:
        with reducer.watching(list(net.parameters())):
            pass
    except RuntimeError:
        assert not any(p._backward_hooks for p in net.parameters())
    else:
        raise AssertionError("nothing was said")
    world.share(4)


CASES: list[Callable[[maxl.DataParallel], None]] = [
    sends_early,
    adds_to_what_is_there,
    unused_weights,
    two_passes,
    changed_by_hand,
    hooks_of_others,
    reentrant_checkpoints,
    half_precision,
    the_same_bits,
    nothing_to_sum,
    a_pass_that_fails,
    a_pass_that_fails_half_way,
    a_watched_pass_without_a_sum,
    fewer_weights_than_before,
    hooks_that_write_later,
    some_of_all_processes,
    a_sum_of_ones_own,
    copies_and_groups,
    sizes_that_differ,
    weights_without_gradient,
]


if __name__ == "__main__":
    dist.all_reduce = logged
    try_all(CASES, bucket_bytes=BYTES)
