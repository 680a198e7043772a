"""How fast a batch is that several GPUs divide: correctness first, then times of one process and of all.

    uv run --group bench python benchmarks/several_gpus.py              # VGG-16, all GPUs there are, by NCCL
    uv run --group bench python benchmarks/several_gpus.py --quick      # two processes on the CPU, by gloo: that it runs

**This has not been run on a GPU yet.** The hypergradient of all processes, each with its part of the batch, has to agree
with that of one in float64 (to 1e-6) before any time is taken. The batch is the same for one process and for all, so that
"x one process" is what the others add. BatchNorm is synchronised for the comparison and not for the times, as in training.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
import torch.distributed as dist
from contenders import SHAPES, Bench, Contender, learner
from peers import ENTROPY_WEIGHT
from precision import meta_gradient, relative_error
from processes import meet, part_of, started
from step import render_rows, timed

import maxl
from maxl.experiments.runs.machine import tensor_float32
from maxl.worlds import World

GAP = 1e-6


def ways(precision: torch.dtype | None, world: World | None) -> dict[str, Contender]:
    """Iterations of this package in one precision, alone or with others."""
    options = {"autocast": precision, "check_finite": False, "world": world}
    everyday = maxl.PRESETS["everyday"]
    return {
        "MAXL exact": Contender(learner(shared=True, **options)),
        "MAXL next": Contender(learner(shared=True, evaluate="next", **options)),
        "MAXL exact, own trunk": Contender(learner(**options)),
        "MAXL everyday": Contender(learner(shared=True, **everyday, **options), everyday["meta_every"]),
    }


def seconds(args: argparse.Namespace, device: str, world: World | None) -> dict[str, float]:
    """Of an iteration of each way, in bf16 on a GPU."""
    found = {}
    for name, way in ways(torch.bfloat16 if device.startswith("cuda") else None, world).items():
        bench = Bench.build(args.network, args.batch, device)
        bench.batches = [part_of(world, *batch) for batch in bench.batches]  # type: ignore[misc]
        run = way.whole_cycle(bench)
        for _ in range(3):
            run()
        found[name] = statistics.median([timed(run, device) for _ in range(args.repeats)]) / way.cycle
    return found


def rank(number: int, store: str, args: argparse.Namespace) -> None:
    """One of the processes: prints its gap to one process's hypergradient, and its times alone and with the others."""
    device = f"cuda:{number}" if args.device == "cuda" else args.device
    if args.device == "cuda":
        torch.cuda.set_device(number)
    else:
        torch.set_num_threads(1)
    meet(number, store, args.processes, "nccl" if args.device == "cuda" else "gloo")
    world = maxl.DataParallel()
    where = (args.network, min(args.batch, 16), device, torch.float64)
    alone, together = (meta_gradient(*where, world=w, entropy_weight=ENTROPY_WEIGHT) for w in (None, world))
    gap = relative_error(together, alone)
    told: dict[str, object] = {"gap": gap}
    if gap <= GAP:
        with tensor_float32(True):
            told["alone"] = seconds(args, device, None)
            dist.barrier()
            told["together"] = seconds(args, device, world)
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
    for name in told[0]["alone"]:
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
