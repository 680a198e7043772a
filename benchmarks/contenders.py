"""The ways to take one training iteration that the benchmarks compare, on networks built alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peers import ENTROPY_WEIGHT, PEERS, Hypergradient
from torch import Tensor, nn

import maxl
from maxl.experiments.runs.trunks import build

SHAPES = {  # trunk, input shape, primary classes, psi
    **{name: (name, (3, 32, 32), 20, 5) for name in ("vgg16", "vgg11", "vgg13", "vgg19")},
    "resnet50": ("resnet50", (3, 64, 64), 20, 5),
    "vit": ("vit_tiny_patch16_224", (3, 64, 64), 20, 5),
    "convnet4": ("convnet4", (3, 32, 32), 20, 5),  # of the study in docs/evidence.md
    "tiny": ("convnet4", (3, 8, 8), 4, 2),
}
RATE, META_RATE = 0.01, 1e-3
BATCHES = 5  # so many different batches in turn
COMPILED = "compiled"  # in the names of those that torch.compile takes a minute or more for
BASELINE, MULTI = "single-task, by hand", "multi-task, by hand"


@dataclass
class Bench:
    """Networks, optimizers and batches of one contender."""

    network: nn.Module
    generator: nn.Module
    optimizer: torch.optim.Optimizer
    meta_optimizer: torch.optim.Optimizer
    batches: list[tuple[Tensor, Tensor, Tensor, Tensor]]  # x, y, auxiliary labels, index

    @classmethod
    def build(cls, name: str, batch: int, device: str, dtype: torch.dtype = torch.float32) -> Bench:
        trunk, shape, classes, psi = SHAPES[name]
        torch.manual_seed(0)
        hierarchy = maxl.Hierarchy.uniform(classes, psi)
        network = maxl.MultiTaskNetwork(build(trunk, shape), hierarchy).to(device, dtype)
        generator = maxl.LabelGenerator(build(trunk, shape), hierarchy).to(device, dtype)
        batches = []
        for i in range(BATCHES):
            y = torch.randint(classes, (batch,))
            auxiliary = y * psi + torch.randint(psi, (batch,))
            index = torch.arange(i * batch, (i + 1) * batch)
            x = torch.randn(batch, *shape, dtype=dtype)
            batches.append((x.to(device), y.to(device), auxiliary.to(device), index.to(device)))
        return cls(
            network,
            generator,
            torch.optim.SGD(network.parameters(), lr=RATE),
            torch.optim.SGD(generator.parameters(), lr=META_RATE, weight_decay=5e-4),
            batches,
        )


@dataclass(frozen=True)
class Contender:
    """A way to take one iteration.

    Attributes:
        make: Builds the iteration, a function of a batch, on given networks.
        cycle: Iterations after which it repeats itself.
        floor: Forward passes that an iteration cannot do without if a backward is two and a forward-mode
            tangent is two: see the table in README.md; None for ways that are not ours to bound.
    """

    make: Callable[[Bench], Callable[..., object]]
    cycle: int = 1
    floor: float | None = None

    def whole_cycle(self, bench: Bench) -> Callable[[], None]:
        """Takes the iterations of a cycle each time that it is called, on the batches in turn."""
        step, turns = self.make(bench), itertools.cycle(bench.batches)

        def run() -> None:
            for _ in range(self.cycle):
                step(*next(turns))

        return run


def contenders() -> dict[str, Contender]:
    """All of them by the name the table shows."""
    everyday = maxl.PRESETS["everyday"]
    every = everyday["meta_every"]
    ours = {
        "maxl forward, same batch": Contender(learner(), floor=11),
        "maxl forward, virtual step": Contender(learner(lookahead="virtual"), floor=14),
        "maxl forward, next batch": Contender(learner(evaluate="next"), floor=10),
        "maxl forward, same, low memory": Contender(learner(favour="memory"), floor=13),
        "maxl forward, next, low memory": Contender(learner(evaluate="next", favour="memory"), floor=12),
        "maxl shared trunk, same batch": Contender(learner(shared=True), floor=8),
        "maxl shared trunk, next batch": Contender(learner(shared=True, evaluate="next"), floor=7),
        "maxl shared trunk, same, low memory": Contender(learner(shared=True, favour="memory"), floor=9),
        "maxl shared trunk, same batch, a quarter": Contender(
            learner(shared=True, teach_part=0.25), floor=4.5
        ),
        "maxl shared trunk, next batch, a quarter": Contender(
            learner(shared=True, evaluate="next", teach_part=0.25), floor=5.75
        ),
        "maxl shared trunk, same batch, an eighth": Contender(
            learner(shared=True, teach_part=0.125), floor=3.75
        ),
        "maxl everyday preset": Contender(learner(shared=True, **everyday), every, 3 + 4 / every),
        "maxl forward, everyday, labels kept": Contender(
            learner(cached=True, **everyday), every, 3 + 7 / every
        ),
        f"maxl shared trunk, same batch, {COMPILED}": Contender(learner(shared=True, compile=True), floor=8),
        "maxl finite-difference": Contender(learner("finite-difference"), floor=11),
        "maxl reverse, virtual step": Contender(learner("reverse", lookahead="virtual")),
    }
    return {
        BASELINE: Contender(_single_by_hand, floor=3),
        "single-task, MultiTaskLearner": Contender(_single, floor=3),
        f"single-task, MultiTaskLearner, {COMPILED}": Contender(_single_compiled, floor=3),
        MULTI: Contender(_multi_by_hand, floor=3),
        "multi-task, MultiTaskLearner": Contender(_multi, floor=3),
        **ours,
        **{name: Contender(_peer(function)) for name, function in PEERS.items()},
    }


def _single_by_hand(bench: Bench) -> Callable[..., object]:
    def step(x: Tensor, y: Tensor, auxiliary: Tensor, index: Tensor) -> None:
        bench.optimizer.zero_grad(set_to_none=True)
        maxl.focal_loss(bench.network.predict(x), y).backward()
        bench.optimizer.step()

    return step


def _multi_by_hand(bench: Bench) -> Callable[..., object]:
    def step(x: Tensor, y: Tensor, auxiliary: Tensor, index: Tensor) -> None:
        bench.optimizer.zero_grad(set_to_none=True)
        logits = bench.network(x)
        (maxl.focal_loss(logits[0], y) + maxl.focal_loss(logits[1], auxiliary)).backward()
        bench.optimizer.step()

    return step


def _single(bench: Bench) -> Callable[..., object]:
    built = maxl.MultiTaskLearner(bench.network, bench.optimizer)
    return lambda x, y, auxiliary, index: built.train_step(x, y)


def _single_compiled(bench: Bench) -> Callable[..., object]:
    built = maxl.MultiTaskLearner(bench.network, bench.optimizer, compile=True)
    return lambda x, y, auxiliary, index: built.train_step(x, y)


def _multi(bench: Bench) -> Callable[..., object]:
    built = maxl.MultiTaskLearner(bench.network, bench.optimizer)
    return lambda x, y, auxiliary, index: built.train_step(x, y, auxiliary)


def learner(
    method: str = "forward", *, cached: bool = False, shared: bool = False, **options: object
) -> Callable[[Bench], Callable[..., object]]:
    """MAXL by this package.

    Args:
        method: How to differentiate.
        cached: Keep a label for each sample of the batches.
        shared: The generator is a head on the network's own features.
        options: Of the learner.
    """

    def make(bench: Bench) -> Callable[..., object]:
        generator, meta_optimizer = bench.generator, bench.meta_optimizer
        if shared:
            generator = maxl.LabelGenerator.sharing(bench.network).to(bench.batches[0][0])
            meta_optimizer = torch.optim.SGD(generator.parameters(), lr=META_RATE, weight_decay=5e-4)
        built = maxl.MetaAuxiliaryLearner(
            bench.network,
            generator,
            bench.optimizer,
            meta_optimizer,
            hypergradient=method,
            entropy_weight=ENTROPY_WEIGHT,
            cache_size=sum(len(batch[0]) for batch in bench.batches) if cached else 0,
            **options,
        )
        return lambda x, y, auxiliary, index: built.step(x, y, index)

    return make


def _peer(hypergradient: Hypergradient) -> Callable[[Bench], Callable[..., object]]:
    """The paper's iteration: a training step, then a meta step through a further, virtual one."""

    def make(bench: Bench) -> Callable[..., object]:
        def step(x: Tensor, y: Tensor, auxiliary: Tensor, index: Tensor) -> None:
            with torch.no_grad():
                labels = bench.generator(x, y)
            bench.optimizer.zero_grad(set_to_none=True)
            logits = bench.network(x)
            (maxl.focal_loss(logits[0], y) + maxl.focal_loss(logits[1], labels)).backward()
            bench.optimizer.step()
            grads = hypergradient(bench.network, bench.generator, x, y, RATE)
            for p, g in zip(bench.generator.parameters(), grads, strict=True):
                p.grad = g
            bench.meta_optimizer.step()

        return step

    return make
