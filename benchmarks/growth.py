"""How the cost of an exact MAXL step grows: with the batch, the network, its classes, processes, and runs of a study.

    uv run --group bench python benchmarks/growth.py --out growth.png    # a quarter of an hour on two quiet cores
    uv run python benchmarks/growth.py --quick                           # that it runs

Time is that of an ``exact`` step, with a shared trunk or one of the generator's own, over a single-task step of the same
network and batch in the same round, the median over rounds. Memory is the peak of an exact step above the built networks,
over that of a multi-task step, each in a process of its own (Linux). Of a study, the time of each of its runs is divided
by that of a run outside one. Processes are counted, not timed: operations of each, and bytes and messages that each hands over in a step,
with a model of a cluster whose latency and bandwidth are fitted to this machine's own gloo. Tables always, and a figure where
matplotlib is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from figures import Curve, show
from processes import meet, sendings, started
from step import peak, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import maxl

RATE = 0.01
MAXL = {"shared": "shared trunk", "own": "a trunk of its own"}
STEPS = 3  # of which the last is counted: the first compares, and fills what is made once


@dataclass(frozen=True)
class Size:
    """A convolutional network with BatchNorm on images of 16 pixels, and a batch of them.

    Attributes:
        batch: Samples.
        depth: Convolutions.
        width: Channels.
        auxiliary: Auxiliary classes in all, of ten primary ones.
    """

    batch: int = 64
    depth: int = 6
    width: int = 32
    auxiliary: int = 50

    def trunk(self) -> nn.Module:
        """From images to features."""
        layers: list[nn.Module] = []
        for i in range(self.depth):
            layers += [
                nn.Conv2d(self.width if i else 3, self.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(self.width),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def build(self, method: str, world: Any = None) -> Callable[[Tensor, Tensor], object]:
        """A step of "single" or "multi" (random labels) or exact MAXL training ("shared", "own"), a function of a batch."""
        torch.manual_seed(0)
        hierarchy = maxl.Hierarchy.uniform(10, self.auxiliary // 10)
        network = maxl.MultiTaskNetwork(self.trunk(), hierarchy)
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)
        if method in MAXL:
            own = method == "own"
            generator = (
                maxl.LabelGenerator(self.trunk(), hierarchy) if own else maxl.LabelGenerator.sharing(network)
            )
            meta = torch.optim.SGD(generator.parameters(), lr=RATE)
            given = {} if world is None else {"world": world}
            return maxl.MetaAuxiliaryLearner(network, generator, optimizer, meta, **given).step
        learner = maxl.MultiTaskLearner(network, optimizer)
        if method == "single":
            return learner.step
        each = self.auxiliary // 10
        return lambda x, y: learner.train_step(x, y, y * each + torch.randint(each, y.shape))

    def batch_of(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Random images and classes."""
        count = self.batch if count is None else count
        return torch.randn(count, 3, 16, 16), torch.randint(10, (count,))


BASE = Size()
SIZES: dict[str, list[Size]] = {
    "batch size": [replace(BASE, batch=n) for n in (8, 32, 128, 256)],
    "depth": [replace(BASE, depth=n) for n in (2, 4, 8, 16)],
    "width": [replace(BASE, width=n) for n in (8, 32, 64, 128)],
    "auxiliary classes": [replace(BASE, auxiliary=n) for n in (10, 100, 1000, 10_000)],
}
FIELDS = {"batch size": "batch", "depth": "depth", "width": "width", "auxiliary classes": "auxiliary"}


def time_ratios(size: Size, repeats: int) -> dict[str, float]:
    """Median over rounds of an exact step's time over a single-task step's, by the generator's trunk."""
    steps = {name: size.build(name) for name in ("single", *MAXL)}
    x, y = size.batch_of()
    for step in steps.values():
        for _ in range(2):
            step(x, y)
    rounds = [
        {name: timed(lambda s=step: s(x, y), "cpu") for name, step in steps.items()} for _ in range(repeats)
    ]
    return {name: statistics.median(seconds[name] / seconds["single"] for seconds in rounds) for name in MAXL}


def memory_ratios(size: Size) -> dict[str, float]:
    """Peak memory of an exact step over a multi-task step's, each in a fresh process; empty where it is not told."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    found = {}
    for method in ("multi", *MAXL):
        command = [sys.executable, __file__, "--memory-of", json.dumps({"method": method, **asdict(size)})]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[method] = int(done.stdout.split()[-1])
    return {name: found[name] / found["multi"] for name in MAXL}


def memory_of(spoken: str) -> int:
    """Bytes at the peak of three steps above the built networks, in this process."""
    given = json.loads(spoken)
    method, size = given.pop("method"), Size(**given)
    step, (x, y) = size.build(method), size.batch_of()
    return peak(lambda: [step(x, y) for _ in range(STEPS)], "cpu")


@dataclass(frozen=True)
class Rank:
    """What a process does in a step, counted.

    Attributes:
        operations: Floating-point operations.
        bytes: Handed over to the others.
        messages: Calls that hand something over.
    """

    operations: int
    bytes: int
    messages: int


def rank(number: int, store: str, size: int) -> Rank:
    """Counts one of several processes in the third step, each with its part of the batch."""
    meet(number, store, size)
    step = BASE.build("own", None if size == 1 else maxl.DataParallel())
    parts = [len(part) for part in torch.arange(BASE.batch).tensor_split(size)]
    x, y = BASE.batch_of(parts[number])
    for _ in range(STEPS - 1):
        step(x, y)
    with FlopCounterMode(display=False) as count, sendings(count.get_total_flops) as told:
        step(x, y)
    dist.destroy_process_group()
    return Rank(count.get_total_flops(), sum(s.bytes for s in told), len(told))


def ranks(size: int) -> Rank:
    """The busiest of so many processes."""
    return max((Rank(**r) for r in started(__file__, size, "rank", size)), key=lambda r: r.operations)


def link(number: int, store: str, repeats: int) -> tuple[float, float]:
    """Seconds of latency and bytes a second of gloo between two processes here, by least squares over sizes."""
    meet(number, store, 2)
    sizes, seconds = [1 << k for k in range(10, 25, 2)], []
    for n in sizes:
        t = torch.zeros(n // 4)
        dist.all_reduce(t)
        taken = []
        for _ in range(repeats):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(t)
            taken.append(time.perf_counter() - start)
        seconds.append(statistics.median(taken))
    dist.destroy_process_group()
    # Relative errors count, or the largest message alone would decide.
    weights = 1 / torch.tensor(seconds, dtype=torch.float64)
    columns = torch.stack([torch.ones(len(sizes)), torch.tensor(sizes)], 1).double()
    latency, each = torch.linalg.lstsq(
        columns * weights[:, None], torch.ones(len(sizes), 1, dtype=torch.float64)
    ).solution.flatten()
    return max(float(latency), 0.0), 1 / float(each)


def fitted(repeats: int) -> tuple[float, float]:
    """``link`` as its first process sees it."""
    (latency, bandwidth), _ = started(__file__, 2, "link", repeats)
    return latency, bandwidth


def speed_up(processes: int, alone: float, each: Rank, latency: float, bandwidth: float) -> float:
    """Of a step that takes ``alone`` seconds in one process: compute / n + messages · latency + bytes / bandwidth.

    A ring hands over 2 (n − 1) / n times the bytes of a sum, which at n = 2 is what the fit has seen.
    """
    share = 2 * (processes - 1) / processes
    return alone / (alone / processes + each.messages * latency + share * each.bytes / bandwidth)


def runs_of_study(counts: Sequence[int], epochs: int) -> list[float]:
    """Seconds of each run in studies of so many, one at a time, over those of a run outside a study."""
    from maxl.experiments.runs.config import RunConfig
    from maxl.experiments.runs.trainer import train
    from maxl.experiments.studies.study import Study

    small = {"data": "digits", "trunk": "convnet4", "method": "single", "epochs": epochs}
    base = RunConfig.from_dict({**small, "tensorboard": False, "device": "cpu"})

    def seconds(work: Callable[[Path], object]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            work(Path(folder) / "out")
            return time.perf_counter() - start

    alone = min(seconds(lambda out: train(base, out)) for _ in range(3))  # the first also imports
    return [
        seconds(lambda out, n=n: Study(base, ["single"], list(range(n))).run(out, jobs=1)) / n / alone
        for n in counts
    ]


def curves(args: argparse.Namespace) -> list[Curve]:
    """All of them."""
    found = []
    for quantity, sizes in SIZES.items():
        sizes = sizes[:2] if args.quick else sizes
        values = [int(getattr(size, FIELDS[quantity])) for size in sizes]
        for what, ratios in (
            ("time, of a single-task step", [time_ratios(s, args.repeats) for s in sizes]),
            ("memory, of a multi-task step", [memory_ratios(s) for s in sizes]),
        ):
            found += [
                Curve(quantity, f"{what}: {trunk}", values, [r[name] for r in ratios])
                for name, trunk in MAXL.items()
                if all(ratios)
            ]
    counts = [1, 2] if args.quick else [1, 2, 4]
    each = [ranks(n) for n in counts]
    of_rank = [r.operations / each[0].operations for r in each]
    found.append(Curve("processes", "operations of each, of one process's", counts, of_rank))
    found.append(
        Curve("processes", "MB that each hands over in a step", counts, [r.bytes / 1e6 for r in each])
    )
    messages = [float(r.messages) for r in each]
    found.append(Curve("processes", "messages of each in a step", counts, messages, drawn=False))
    latency, bandwidth = fitted(args.repeats)
    step, (x, y) = BASE.build("own"), BASE.batch_of()
    for _ in range(2):
        step(x, y)
    alone = statistics.median(timed(lambda: step(x, y), "cpu") for _ in range(args.repeats))
    print(
        f"A step of one process takes {1000 * alone:.0f} ms here; gloo between two processes of this machine: {1e6 * latency:.0f} µs a "
        f"message and {bandwidth / 1e9:.2f} GB/s, fitted to messages of 1 kB to 16 MB\n"
    )
    many = [n for n in (2, 4, 8, 16, 32) if n > 1]
    for name, (wait, rate) in {
        "this machine's gloo": (latency, bandwidth),
        "10 Gbit/s, 50 µs": (5e-5, 1.25e9),
        "100 Gbit/s, 10 µs": (1e-5, 12.5e9),
    }.items():
        ahead = [speed_up(n, alone, each[-1], wait, rate) for n in many]
        found.append(Curve("processes, by the model", f"speed-up, {name}", many, ahead))
    counts = [1, 2] if args.quick else [1, 2, 4, 8]
    each_run = runs_of_study(counts, epochs=1 if args.quick else 20)
    found.append(Curve("runs of a study", "time of each, of a run outside a study", counts, each_run))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds (7)")
    parser.add_argument("--threads", type=int, default=1, help="of each step (1)")
    parser.add_argument("--out", help="a PNG, or any file that matplotlib writes")
    parser.add_argument("--quick", action="store_true", help="two sizes, one round")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--rank", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--link", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(memory_of(args.memory_of))
    elif args.rank:
        print(json.dumps(asdict(rank(int(args.rank[0]), args.rank[1], int(args.rank[2])))))
    elif args.link:
        print(json.dumps(link(int(args.link[0]), args.link[1], int(args.link[2]))))
    else:
        args.repeats = 1 if args.quick else args.repeats
        show(curves(args), args.out)


if __name__ == "__main__":
    main()
