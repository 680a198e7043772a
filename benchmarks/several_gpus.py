"""How fast a batch is that several GPUs divide: correctness first, then times of one process and of all.

    uv run --group bench python benchmarks/several_gpus.py              # VGG-16, all GPUs there are, by NCCL
    uv run --group bench python benchmarks/several_gpus.py --quick      # two processes on the CPU, by gloo: that it runs

**This has not been run on a GPU yet.** The hypergradient of all processes, each with its part of the batch, has to agree
with that of one in float64 (to 1e-6) before any time is taken. The batch is the same for one process and for all, so that
"x one process" is what the others add. BatchNorm is synchronised for the comparison and not for the times, as in training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from typing import Any

import torch
import torch.distributed as dist
from contenders import RATE, SHAPES, Bench, learner
from processes import meet, started
from step import render_rows, timed
from torch import Tensor

import maxl
from maxl.experiments.runs.machine import tensor_float32
from maxl.worlds import Alone, SyncBatchNorm, World

WAYS: dict[str, dict[str, Any]] = {
    "MAXL exact": {"shared": True},
    "MAXL next": {"shared": True, "evaluate": "next"},
    "MAXL exact, own trunk": {},
    "MAXL everyday": {"shared": True, **maxl.PRESETS["everyday"]},
}
GAP = 1e-6


def hypergradient(network: str, batch: int, device: str, world: World) -> Tensor:
    """The generator's gradient in the first exact step, float64: what plain SGD at rate 1 moves it by, negated."""
    bench = Bench.build(network, batch, device, torch.float64)
    if isinstance(world, maxl.DataParallel):
        for module in (bench.network, bench.generator):
            SyncBatchNorm.convert(module, world.group)
    before = [p.detach().clone() for p in bench.generator.parameters()]
    built = maxl.MetaAuxiliaryLearner(
        bench.network,
        bench.generator,
        torch.optim.SGD(bench.network.parameters(), lr=RATE),
        torch.optim.SGD(bench.generator.parameters(), lr=1.0),
        world=world,
    )
    x, y = _part(world, *bench.batches[0][:2])
    built.step(x, y)
    moved = zip(before, bench.generator.parameters(), strict=True)
    return torch.cat([(b - p.detach()).flatten() for b, p in moved])


def seconds(network: str, batch: int, device: str, repeats: int, world: World) -> dict[str, float]:
    """Of an iteration of each way, in bf16 on a GPU."""
    found = {}
    options = {"autocast": torch.bfloat16 if device.startswith("cuda") else None, "check_finite": False}
    for name, way in WAYS.items():
        bench = Bench.build(network, batch, device)
        step, turns = learner(**way, **options, world=world)(bench), itertools.cycle(bench.batches)
        cycle = way.get("meta_every", 1)

        def run(step=step, turns=turns, cycle=cycle, world=world) -> None:  # type: ignore[no-untyped-def]
            for _ in range(cycle):
                x, y, auxiliary, index = next(turns)
                step(*_part(world, x, y, auxiliary, index))

        for _ in range(3):
            run()
        found[name] = statistics.median([timed(run, device) for _ in range(repeats)]) / cycle
    return found


def _part(world: World, *tensors: Tensor) -> list[Tensor]:
    """The samples of this process."""
    if not isinstance(world, maxl.DataParallel):
        return list(tensors)
    return [t.tensor_split(world.size)[world.rank] for t in tensors]


def rank(number: int, store: str, args: argparse.Namespace) -> None:
    """One of the processes: prints its gap to one process's hypergradient, and its times alone and with the others."""
    device = f"cuda:{number}" if args.device == "cuda" else args.device
    if args.device == "cuda":
        torch.cuda.set_device(number)
    else:
        torch.set_num_threads(1)
    meet(number, store, args.processes, "nccl" if args.device == "cuda" else "gloo")
    world = maxl.DataParallel()
    small = min(args.batch, 16)
    alone = hypergradient(args.network, small, device, Alone())
    gap = float((hypergradient(args.network, small, device, world) - alone).norm() / alone.norm())
    told: dict[str, object] = {"gap": gap}
    if gap <= GAP:
        with tensor_float32(True):
            told["alone"] = seconds(args.network, args.batch, device, args.repeats, Alone())
            dist.barrier()
            told["together"] = seconds(args.network, args.batch, device, args.repeats, world)
    dist.destroy_process_group()
    print(json.dumps(told))


def main() -> None:
    args = parse()
    if args.rank:
        rank(int(args.rank[0]), args.rank[1], args)
        return
    if args.processes < 2:
        raise SystemExit(
            f"several GPUs need to be there; got {args.processes}: see --device cpu --processes 2"
        )
    place = f"{torch.cuda.get_device_name()}, NCCL" if args.device == "cuda" else "CPU, gloo"
    print(
        f"{args.network}, batch {args.batch}, {args.processes} processes, {place}, torch {torch.__version__}"
    )
    flags = ["--network", args.network, "--batch", args.batch, "--device", args.device]
    flags += ["--repeats", args.repeats, "--processes", args.processes]
    told = started(__file__, args.processes, "rank", *flags)
    gap = max(t["gap"] for t in told)
    print(f"hypergradient of all processes differs from that of one by {gap:.1e} in float64")
    if gap > GAP:
        raise SystemExit(f"the hypergradients need to agree to {GAP:g}; no time was taken")
    rows = []
    for name in WAYS:
        alone, together = (max(t[which][name] for t in told) for which in ("alone", "together"))
        rows.append([name, f"{1000 * alone:.2f}", f"{1000 * together:.2f}", f"{alone / together:.2f}"])
    print(render_rows(("", "ms in one process", "ms in all", "x one process"), rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=SHAPES, default="vgg16")
    parser.add_argument("--batch", type=int, default=1000, help="samples of all processes together (1000)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, help="all GPUs, or two on a CPU")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a tiny network in two processes on the CPU")
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.network, args.batch, args.device, args.processes, args.repeats = "tiny", 9, "cpu", 2, 2
    if args.processes is None:
        args.processes = torch.cuda.device_count() if args.device == "cuda" else 2
    return args


if __name__ == "__main__":
    main()
