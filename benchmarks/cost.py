"""How the cost of MAXL steps grows with the batch, the depth and the meta steps left out.

    uv run --group bench python benchmarks/cost.py --out cost.png

Each figure is the time of an iteration over that of a single-task step of the same network and batch in the
same round. A table always, and a figure where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from contenders import BASELINE, Bench, Contender, contenders, learner
from figures import Curve, show
from step import timed

FOLLOWED = {
    "multi-task, by hand": "multi-task",
    "maxl shared trunk, next batch": "next, shared trunk",
    "maxl shared trunk, same batch": "exact, shared trunk",
    "maxl forward, next batch": "next, own trunk",
    "maxl forward, same batch": "exact, own trunk",
    "maxl reverse, virtual step": "reverse mode, own trunk",
}


def ratio(
    make: Callable[[Bench], Callable[..., object]],
    network: str,
    batch: int,
    cycle: int,
    args: argparse.Namespace,
) -> float:
    """Median over the rounds of the seconds per iteration over those of a single-task step."""
    runs = []
    for maker, length in ((contenders()[BASELINE].make, 1), (make, cycle)):
        run = Contender(maker, length).whole_cycle(Bench.build(network, batch, args.device))
        runs.append((run, length))
    for run, _ in runs:
        for _ in range(
            2
        ):  # to warm up, and for the comparison at the first meta step, which with ``next`` is in the second
            run()
    found = []
    for _ in range(args.repeats):
        single, other = (timed(run, args.device) / length for run, length in runs)
        found.append(other / single)
    return statistics.median(found)


def curves(args: argparse.Namespace) -> list[Curve]:
    """Against the batch size, the depth of a VGG, and k, a meta step in every k-th iteration."""
    network = args.networks[0]
    found = []
    for contender, name in FOLLOWED.items():
        make = contenders()[contender].make
        by_batch = [ratio(make, network, batch, 1, args) for batch in args.batches]
        found.append(Curve("batch size", name, args.batches, by_batch))
        depths = [int("".join(c for c in n if c.isdigit()) or 1) for n in args.networks]
        by_depth = [ratio(make, n, args.batches[-1], 1, args) for n in args.networks]
        found.append(Curve("depth", name, depths, by_depth))
    for evaluate, name in (("next", "next"), ("same", "exact")):
        by_k = []
        for k in args.every:
            make = learner(shared=True, evaluate=evaluate, meta_every=k)
            by_k.append(ratio(make, network, args.batches[-1], k, args))
        found.append(Curve("a meta step every", f"{name}, shared trunk", args.every, by_k))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["vgg16", "vgg11", "vgg13", "vgg19"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--every", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", help="a PNG, or any file that matplotlib writes")
    parser.add_argument("--quick", action="store_true", help="a tiny network, two sizes, one round")
    args = parser.parse_args()
    if args.quick:
        args.networks, args.batches, args.every, args.repeats = ["tiny"], [4, 8], [1, 2], 1
        torch.set_num_threads(1)
    show(curves(args), args.out, "time of a single-task step")


if __name__ == "__main__":
    main()
