"""One of several processes that train together, and compare themselves with one process on the whole batch.

Run by ``test_data_parallel.py`` as ``python _ranks.py RANK SIZE STORE``; prints a JSON object, case by case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import maxl
from maxl.supervision import NoLabels, SampleWeights, UniformLabels, WeightedLabels
from maxl.worlds import SyncBatchNorm, World

sys.path.insert(0, str(Path(__file__).parents[1]))

from _networks import PSI, conv_trunk, flatten, relative_error

SAMPLES = 33
SHARES = {
    2: (4, 7),
    3: (5, 2, 4),
}  # samples of each process in a batch of 11; the last batch of an epoch has 6
LAST = {2: (2, 4), 3: (2, 2, 2)}
HIERARCHY = maxl.Hierarchy(PSI)


class Weights(nn.Module):
    """A weight in (0, 2) for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * self.layer(x.flatten(1)).sigmoid().squeeze(1)


def trunk(norm: bool) -> nn.Module:
    if norm:
        return conv_trunk()
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU())


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
}


class Whole(maxl.Part):
    """All samples, by the way that parts take."""

    def rows(self, count: int) -> Tensor:
        return torch.arange(count)


class Extra(nn.Module):
    """A trunk with a product in the training pass of one process, which is nothing to the others."""

    feature_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk(True)

    def forward(self, x: Tensor) -> Tensor:
        if self.trunk[0].weight.requires_grad and dist.get_rank() == 1:
            nn.functional.linear(torch.ones(len(x), 4), torch.ones(4, 4))
        features: Tensor = self.trunk(x)
        return features


def learner(
    world: World | None,
    *,
    optimizer: str = "momentum",
    norm: bool = False,
    kind: str = "labels",
    **options: Any,
) -> maxl.MetaAuxiliaryLearner:
    torch.manual_seed(
        0 if world is None else dist.get_rank()
    )  # the first process's weights become everybody's
    network = maxl.MultiTaskNetwork(trunk(norm), HIERARCHY)
    generator: nn.Module
    if kind == "weights":
        generator = Weights()
        options["supervision"] = SampleWeights()
    elif kind == "uneven passes":
        network = maxl.MultiTaskNetwork(Extra(), HIERARCHY)
        generator = maxl.LabelGenerator(trunk(norm), HIERARCHY)
    elif kind == "shared":
        generator = maxl.LabelGenerator.sharing(network)
    elif kind == "weighted":
        generator = maxl.WeightedLabelGenerator(trunk(norm), HIERARCHY)
        options["supervision"] = WeightedLabels()
    else:
        generator = maxl.LabelGenerator(trunk(norm), HIERARCHY)
    if norm and world is not None:
        SyncBatchNorm.convert(network)
        SyncBatchNorm.convert(generator)
    return maxl.MetaAuxiliaryLearner(
        network,
        generator,
        OPTIMIZERS[optimizer](network.parameters()),
        torch.optim.Adam(generator.parameters(), lr=1e-2),
        world=world,
        **options,
    )


CASES: dict[str, dict[str, Any]] = {
    **{
        f"{name}, {optimizer}, norm {norm}": {"lookahead": kind, "optimizer": optimizer, "norm": norm}
        for name, kind in {"taken": maxl.Taken(), "next": maxl.Next(), "virtual": maxl.Virtual()}.items()
        for optimizer in OPTIMIZERS
        for norm in (False, True)
    },
    "taken, low memory": {"lookahead": maxl.Taken(recompute=True), "norm": True},
    "everyday": {"schedule": maxl.Every(2), "cache_size": SAMPLES},
    "everyday, next": {"lookahead": maxl.Next(), "schedule": maxl.Every(3), "cache_size": SAMPLES},
    "a part that is the whole": {"schedule": Whole(0.5)},
    "a part that is the whole, next": {"schedule": Whole(0.5), "lookahead": maxl.Next()},
    "reverse": {"way": maxl.Reverse(), "norm": True},
    "reverse, virtual": {"way": maxl.Reverse(), "lookahead": maxl.Virtual(), "norm": True},
    "finite differences": {"way": maxl.FiniteDifference(), "norm": True},
    "shared trunk": {"kind": "shared", "norm": True},
    "shared trunk, next": {"kind": "shared", "lookahead": maxl.Next(), "optimizer": "adam"},
    "shared trunk, everyday": {"kind": "shared", "schedule": maxl.Every(2), "cache_size": SAMPLES},
    **{
        f"shared trunk, {name}, {optimizer}": {
            "kind": "shared",
            "lookahead": kind,
            "schedule": maxl.Every(k),
            "optimizer": optimizer,
        }
        for name, kind, k in (
            ("same", maxl.Taken(), 1),
            ("next", maxl.Next(), 1),
            ("everyday preset", maxl.Next(), 2),  # labels made anew in every step
        )
        for optimizer in OPTIMIZERS
    },
    "everyday preset, own trunk": {"lookahead": maxl.Next(), "schedule": maxl.Every(2)},
    "weighted labels": {"kind": "weighted"},
    "sample weights": {"kind": "weights"},
    "uneven passes": {"kind": "uneven passes", "norm": True},
}


def batches(size: int, rank: int | None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(x, y, index) of two epochs; ``rank`` None for the whole batches."""
    random = torch.Generator().manual_seed(5)
    x = torch.randn(SAMPLES, 3, 8, 8, generator=random)
    y = torch.randint(0, len(PSI), (SAMPLES,), generator=random)
    found = []
    for _ in range(2):
        order = torch.randperm(SAMPLES, generator=random)[:28]
        for chunk, parts in zip(order.split(11), [SHARES[size], SHARES[size], LAST[size]], strict=True):
            mine = chunk if rank is None else chunk.split(list(parts))[rank]
            found.append((x[mine], y[mine], mine))
    return found


def weights(trained: maxl.MultiTaskLearner) -> Tensor:
    modules = [trained.network, *([trained.generator] if hasattr(trained, "generator") else [])]
    return flatten([t for m in modules for t in m.state_dict().values()])


def clipped(trained: maxl.MetaAuxiliaryLearner, rows: tuple[Tensor, ...], parts: int) -> None:
    """A step by the three verbs, the batch in parts, gradients clipped."""
    trained.optimizer.zero_grad()
    x, y, _ = rows
    for x_part, y_part in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        trained.backward(x_part, y_part, share=len(y_part) / len(y))
    nn.utils.clip_grad_norm_(trained.network.parameters(), 0.1)
    trained.optimizer.step()
    trained.meta_step()


def differing(world: World, size: int, rank: int) -> float:
    """How far processes' weights are apart that teach on parts: all samples of a small one, some of a larger one."""
    apart = 0.0
    for lookahead in (maxl.Taken(), maxl.Next()):
        for q in (0.9, 0.4):
            trained = learner(world, schedule=maxl.Part(q), lookahead=lookahead)
            for mine in batches(size, rank):
                assert trained.step(*mine).primary_loss.isfinite()
            own = weights(trained)
            first = own.clone()
            dist.broadcast(first, 0)
            apart = max(apart, relative_error(own, first))
    return apart


def compare(rank: int, size: int) -> dict[str, float]:
    world = maxl.DataParallel(bucket_bytes=1000)  # many messages, as of a large network
    found = {}
    for name, options in CASES.items():
        together, alone = learner(world, **options), learner(None, **options)
        for mine, whole in zip(batches(size, rank), batches(size, None), strict=True):
            ours, theirs = together.step(*mine), alone.step(*whole)
            for scalar in (
                "primary_loss",
                "auxiliary_loss",
                "outer_loss",
                "hypergradient_norm",
                "regulariser_norm",
            ):
                a, b = getattr(ours, scalar), getattr(theirs, scalar)
                assert (a is None) == (b is None), (name, scalar)
                if a is not None:
                    torch.testing.assert_close(
                        a, b, rtol=1e-6, atol=1e-9, msg=f"{name}, {scalar}: {a} for {b}"
                    )
        found[name] = relative_error(weights(together), weights(alone))
    found["part"] = differing(world, size, rank)
    together, alone = learner(world), learner(None)
    for mine, whole in zip(batches(size, rank), batches(size, None), strict=True):
        clipped(together, mine, parts=2)
        clipped(alone, whole, parts=1)
    found["parts, clipped"] = relative_error(weights(together), weights(alone))
    try:  # one value for each channel in all processes together
        SyncBatchNorm(4)(torch.zeros(1 if rank == 0 else 0, 4))
        found["one value"] = 1.0
    except ValueError as error:
        found["one value"] = 0.0 if "more than one value" in str(error) else 1.0
    for source in (NoLabels(), UniformLabels(HIERARCHY)):
        trained = []
        for who in (world, None):
            torch.manual_seed(0)
            network = maxl.MultiTaskNetwork(trunk(False), HIERARCHY)
            trained.append(
                maxl.MultiTaskLearner(
                    network, OPTIMIZERS["adam"](network.parameters()), source=source, world=who
                )
            )
            for x, y, _ in batches(size, rank if who else None):
                trained[-1].step(x, y)
        found[type(source).__name__] = relative_error(weights(trained[0]), weights(trained[1]))
    return found


if __name__ == "__main__":
    number, processes, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=processes)
    result = compare(number, processes)
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(result))
