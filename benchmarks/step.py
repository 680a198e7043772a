"""What a step costs: seconds and memory of single-task, multi-task and MAXL steps, and of other libraries'.

    uv run --group bench python benchmarks/step.py --network vgg16 --batch 100

Before any time is taken, every exact contender's hypergradient is compared with the others in float64.
Seconds are ratios to a single-task step of the same round, so that a busy machine does not favour anybody;
the table gives their median over the rounds. Memory is the peak above the built networks, each contender in
a process of its own, as a ratio to a multi-task step.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from contenders import BASELINE, COMPILED, MULTI, RATE, SHAPES, Bench, Contender, contenders
from peers import ENTROPY_WEIGHT, PEERS, reason_missing
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import maxl
from maxl.hypergradients import WAYS, Problem, RandomState
from maxl.supervision import AuxiliaryLabels


def agreement(network: str, batch: int, device: str) -> dict[str, float]:
    """Relative difference of every exact contender's hypergradient to reverse mode's, in float64.

    Raises:
        ArithmeticError: if one differs by more than 1e-6.
    """
    bench = Bench.build(network, min(batch, 8), device, torch.float64)
    x, y, _, _ = bench.batches[0]

    def ours(method: str) -> list[Tensor]:
        options = {"learning_rate": RATE, "method": method, "entropy_weight": ENTROPY_WEIGHT}
        return list(maxl.hypergradient(bench.network, bench.generator, x, y, **options))

    expected = ours("reverse")
    found = {"maxl forward": ours("forward")}
    for name, peer in PEERS.items():
        if reason_missing(name) is None:
            found[name] = list(peer(bench.network, bench.generator, x, y, RATE))
    scale = torch.stack([e.norm() for e in expected]).norm()
    gaps = {
        name: float(
            torch.stack([(g - e).norm() for g, e in zip(grads, expected, strict=True)]).norm() / scale
        )
        for name, grads in found.items()
    }
    if max(gaps.values()) > 1e-6:
        raise ArithmeticError(f"the hypergradients need to agree to 1e-6 in float64; got {gaps}")
    return gaps


def times(names: list[str], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per iteration of each contender, one entry a round; all take turns in every round."""
    runs: dict[str, Callable[[], None]] = {}
    for name in names:
        run = contenders()[name].whole_cycle(Bench.build(args.network, args.batch, args.device))
        runs[name] = run
        for _ in range(2):  # to warm up, to fill caches, and for the comparison at the first meta step
            run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.repeats):
        for name, run in runs.items():
            seconds[name].append(timed(run, args.device) / contenders()[name].cycle)
    return seconds


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call, a GPU waited for."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def memory(name: str, args: argparse.Namespace) -> int:
    """Bytes at the peak of two cycles above those of the built networks, in this process."""
    bench = Bench.build(args.network, args.batch, args.device)
    run = contenders()[name].whole_cycle(bench)
    return peak(lambda: [run() for _ in range(2)], args.device)


def peak(run: Callable[[], object], device: str) -> int:
    """Bytes at the peak of a call above those before it."""
    before = _reset_peak(device)
    run()
    return (torch.cuda.max_memory_allocated() if device.startswith("cuda") else _status("VmHWM")) - before


def _reset_peak(device: str) -> int:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def memory_apart(name: str, args: argparse.Namespace) -> int | None:
    """``memory`` in a fresh process; None where the system does not tell the peak."""
    if not args.device.startswith("cuda") and not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--network", args.network, "--batch", str(args.batch)]
    command += ["--device", args.device, "--threads", str(args.threads), "--memory-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def flops(name: str, args: argparse.Namespace) -> float:
    """Floating-point operations of an iteration, in forward passes of the multi-task network."""
    contender = contenders()[name]
    bench = Bench.build(args.network, args.batch, args.device)
    with torch.no_grad(), FlopCounterMode(display=False) as one:
        bench.network(bench.batches[0][0])
    return operations(contender, bench) / one.get_total_flops()


def operations(contender: Contender, bench: Bench) -> float:
    """Floating-point operations of an iteration, in the mean over its third cycle, past what is done once."""
    run = contender.whole_cycle(bench)
    for _ in range(2):
        run()
    with FlopCounterMode(display=False) as count:
        run()
    return count.get_total_flops() / contender.cycle


def passes(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the single passes of which the steps are made: medians."""
    bench = Bench.build(args.network, args.batch, args.device)
    network, generator = bench.network, bench.generator
    x, y, _, _ = bench.batches[0]
    weights = dict(network.named_parameters())
    signals = (generator(x, y),)
    problem = Problem(
        network=network,
        weights=weights,
        x=x,
        y=y,
        training_loss=AuxiliaryLabels().bind(maxl.Classification()),
        outer_loss=maxl.Classification().loss,
        random=RandomState.capture(x.device),
    )
    u = [torch.randn_like(p) for p in weights.values()]

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def forward_and_backward() -> None:
        problem.training_gradient(signals)

    def generator_pass() -> None:
        labels = generator(x, y)
        torch.autograd.grad(labels, list(generator.parameters()), torch.ones_like(labels))

    runs: dict[str, Callable[[], object]] = {
        "forward pass, no graph": forward,
        "forward and backward": forward_and_backward,
        "generator, forward and backward": generator_pass,
        **{f"along u, {name}": lambda w=way: w.along(problem, signals, u) for name, way in WAYS.items()},
    }
    return {
        name: statistics.median([timed(run, args.device) for _ in range(args.repeats + 1)][1:])
        for name, run in runs.items()
    }


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print(memory(args.memory_of, args))
        return
    place = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(
        f"{args.network}, batch {args.batch}, {place}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, median of {args.repeats} rounds"
    )
    for name, gap in agreement(args.network, args.batch, args.device).items():
        print(f"hypergradient of {name:<28} differs from reverse mode by {gap:.1e} in float64")
    for name, seconds in passes(args).items():
        print(f"{name:<32} {seconds:.4f} s")
    missing = {name: reason for name in contenders() if (reason := reason_missing(name))}
    names = [name for name in contenders() if name not in missing]
    if args.only:
        names = [n for n in names if n in (BASELINE, MULTI) or any(part in n for part in args.only)]
    else:
        names = [n for n in names if COMPILED not in n]
    rows = table(names, args)
    print(render(rows))
    for name, reason in missing.items():
        print(f"{name}: skipped, {reason}")
    if args.csv:
        write(Path(args.csv), rows, args)


def table(names: list[str], args: argparse.Namespace) -> list[dict[str, float | str | None]]:
    """One row a contender."""
    seconds = times(names, args)
    peaks = {name: None if args.no_memory else memory_apart(name, args) for name in names}
    base = peaks[MULTI]
    rows: list[dict[str, float | str | None]] = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds[BASELINE], strict=True)]
        peak = peaks[name]
        rows.append(
            {
                "contender": name,
                "seconds": statistics.median(seconds[name]),
                "time_ratio": statistics.median(ratios),
                "memory_mb": None if peak is None else peak / 2**20,
                "memory_ratio": None if peak is None or not base else peak / base,
                "forward_passes": None if COMPILED in name else flops(name, args),  # it sees eager operators
                "floor": contenders()[name].floor,
            }
        )
    return rows


def write(file: Path, rows: list[dict[str, float | str | None]], args: argparse.Namespace) -> None:
    """The table as CSV."""
    on = {"network": args.network, "batch": args.batch, "repeats": args.repeats, "device": args.device}
    on |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], *on])
        writer.writeheader()
        writer.writerows({**row, **on} for row in rows)


def render(rows: list[dict[str, float | str | None]]) -> str:
    """The table as Markdown."""
    head = ("contender", "s/iteration", "x single-task", "peak MB", "x multi-task", "FLOPs / F", "floor / F")
    forms = ("", ".4f", ".2f", ".0f", ".2f", ".1f", ".1f")
    lines = [[*head]] + [
        ["-" if v is None else format(v, form) for v, form in zip(row.values(), forms, strict=True)]
        for row in rows
    ]
    return render_rows(lines[0], lines[1:])


def render_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * w for w in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=SHAPES, default="vgg16")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument(
        "--only",
        nargs="*",
        help="contenders whose names contain one of these; 'compiled' ones run only if asked for",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave the fresh processes out")
    parser.add_argument("--quick", action="store_true", help="a tiny network and two rounds")
    parser.add_argument("--csv", help="write the rows to this file too, with what they were measured on")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.network, args.batch, args.repeats, args.threads = "tiny", 8, 2, 1
    return args


if __name__ == "__main__":
    main()
