"""What bf16 does to the meta step, part by part: relative error and cosine to float64.

    uv run --group bench python benchmarks/precision.py                 # convnet4, VGG-16, ResNet-50, a ViT
    uv run --group bench python benchmarks/precision.py --networks tiny

The parts of an iteration are the training pass (whose update the meta step differentiates through), the outer
gradient, the tangent, and the generator's backward pass; each is put under autocast alone, then all of them.
Weights, optimizers, labels, logits and losses are float32 throughout. Beside them: a plain training gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

import torch
from contenders import Bench
from processes import part_of
from step import SHAPES, render_rows
from torch import Tensor

import maxl
from maxl.learning import Update
from maxl.worlds import SyncBatchNorm, World

PARTS = ("training", "outer gradient", "tangent", "generator")


class Parts(maxl.Taken):
    """The same iteration with only some of its ``lowered`` parts in bf16; each part makes its own passes."""

    def __init__(self, lowered: Collection[str]) -> None:
        super().__init__(recompute=True)
        self.lowered = lowered

    def check(self, learner: maxl.MetaAuxiliaryLearner) -> None:
        super().check(learner)
        learner.autocast = self._dtype("training")

    def teach(self, learner: maxl.MetaAuxiliaryLearner, update: Update) -> maxl.StepResult:
        learner.autocast = self._dtype("outer gradient")
        outer, v = learner.outer_gradient(update)
        for part in update.parts:
            part.problem.autocast = self._dtype("tangent")
            part.problem.expected = None  # of another precision
        learner.labels.autocast = self._dtype("generator")
        return learner.teach_through(update, outer, v)

    def _dtype(self, part: str) -> torch.dtype | None:
        return torch.bfloat16 if part in self.lowered else None


def meta_gradient(
    network: str,
    batch: int,
    device: str,
    dtype: torch.dtype,
    *,
    world: World | None = None,
    **options: Any,
) -> Tensor:
    """The generator's gradient in an iteration from the start: what plain SGD at rate 1 moves it by, negated.

    Of several processes, ``world``, each has its part of the batch, and BatchNorm is that of the whole.
    """
    bench = Bench.build(network, batch, device, torch.float64)
    for module in (bench.network, bench.generator):
        module.to(dtype)
    if isinstance(world, maxl.DataParallel):
        for module in (bench.network, bench.generator):
            SyncBatchNorm.convert(module, world.group)
    x, y = part_of(world, *bench.batches[0][:2])
    before = [p.detach().double().clone() for p in bench.generator.parameters()]
    learner = maxl.MetaAuxiliaryLearner(
        bench.network,
        bench.generator,
        bench.optimizer,
        torch.optim.SGD(bench.generator.parameters(), lr=1.0),
        world=world,
        **{"entropy_weight": 0.0, **options},
    )
    learner.step(x.to(dtype), y)
    moved = zip(before, bench.generator.parameters(), strict=True)
    return torch.cat([(b - p.detach().double()).flatten() for b, p in moved])


def training_gradient(
    network: str, batch: int, device: str, dtype: torch.dtype, autocast: torch.dtype | None = None
) -> Tensor:
    """The gradient of an ordinary training step on both tasks."""
    bench = Bench.build(network, batch, device, torch.float64)
    x, y, labels, _ = bench.batches[0]
    with torch.autocast(device, autocast, enabled=autocast is not None):
        primary, auxiliary = bench.network.to(dtype)(x.to(dtype))
    loss = maxl.focal_loss(primary.to(dtype), y) + maxl.focal_loss(auxiliary.to(dtype), labels)
    gradients = torch.autograd.grad(loss, list(bench.network.parameters()))
    return torch.cat([g.double().flatten() for g in gradients])


def relative_error(gradient: Tensor, exact: Tensor) -> float:
    return float((gradient - exact).norm() / exact.norm())


def main() -> None:
    args = parse()
    for network in args.networks:
        where = (network, args.batch, args.device)
        exact = meta_gradient(*where, torch.float64, hypergradient="reverse")
        lowered: dict[str, Collection[str]] = {
            "float32": (),
            **{f"{part} in bf16": (part,) for part in PARTS},
            "all but training in bf16": PARTS[1:],
            "all in bf16": PARTS,
        }
        rows = [
            row(f"meta step, {name}", meta_gradient(*where, torch.float32, lookahead=Parts(parts)), exact)
            for name, parts in lowered.items()
        ]
        plain = training_gradient(*where, torch.float64)
        for name, autocast in (("float32", None), ("bf16", torch.bfloat16)):
            rows.append(
                row(f"plain gradient, {name}", training_gradient(*where, torch.float32, autocast), plain)
            )
        print(render_rows((network, "relative error", "cosine"), rows), flush=True)


def row(name: str, gradient: Tensor, exact: Tensor) -> list[str]:
    cosine = torch.cosine_similarity(gradient, exact, dim=0)
    return [name, f"{relative_error(gradient, exact):.1e}", f"{cosine:.3f}"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", choices=SHAPES, default=["convnet4", "vgg16", "resnet50", "vit"]
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny network")
    args = parser.parse_args()
    if args.quick:
        args.networks = ["tiny"]
    return args


if __name__ == "__main__":
    main()
