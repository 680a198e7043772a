"""How fast training runs on an accelerator: images a second, share of its matrix rate, memory.

    uv run --group bench python benchmarks/gpu.py                      # VGG-16 at batch 100 and 1000
    uv run --group bench python benchmarks/gpu.py --quick              # a tiny network, on any machine

**This has not been run on a GPU yet**; ``several_gpus.py`` is the same for more than one.

Correctness first: the hypergradient in the precision that is timed, eager and compiled, against reverse mode
in float64. The matrix rate is that of one large matrix product in bf16, measured in the same run; the share
counts the operations of the eager step. "hours" is what 200 epochs of 50,000 images take at this rate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from contenders import Bench, Contender, contenders, learner
from peers import reason_missing
from precision import meta_gradient, relative_error, training_gradient
from step import SHAPES, operations, render_rows, timed

import maxl
from maxl.experiments.runs.machine import tensor_float32

EPOCHS, IMAGES = 200, 50_000  # of the paper's CIFAR-100 runs


def ways(precision: torch.dtype | None, compile: bool) -> dict[str, Contender]:
    """This package's iterations in one precision, compiled or not."""
    options = {"autocast": precision, "compile": compile, "check_finite": False}
    everyday = maxl.PRESETS["everyday"]

    def fixed(labels: bool) -> Callable[[Bench], Callable[..., object]]:
        def make(bench: Bench) -> Callable[..., object]:
            built = maxl.MultiTaskLearner(bench.network, bench.optimizer, **options)
            return lambda x, y, auxiliary, index: built.train_step(x, y, auxiliary if labels else None)

        return make

    return {
        "single": Contender(fixed(False)),
        "human": Contender(fixed(True)),
        "MAXL exact": Contender(learner(shared=True, **options)),
        "MAXL exact, low memory": Contender(learner(shared=True, favour="memory", **options)),
        "MAXL next": Contender(learner(shared=True, evaluate="next", **options)),
        "MAXL exact, an eighth": Contender(learner(shared=True, teach_part=0.125, **options)),
        "MAXL everyday": Contender(learner(shared=True, **everyday, **options), everyday["meta_every"]),
        "MAXL exact, own trunk": Contender(learner(**options)),
        "MAXL next, own trunk": Contender(learner(evaluate="next", **options)),
    }


def yardsticks() -> dict[str, Contender]:
    """Eager float32, differentiated twice: the authors' way, and a library's."""
    peers = contenders()
    return {
        "reverse mode, float32": Contender(learner("reverse", lookahead="virtual", check_finite=False)),
        **{name: peers[name] for name in ("higher",) if reason_missing(name) is None},
    }


def errors(network: str, device: str, precision: torch.dtype | None, compile: bool) -> dict[str, float]:
    """Relative error to float64 of the meta step's gradient, and of a plain training gradient beside it."""
    where = (network, 16, device)
    exact = meta_gradient(*where, torch.float64, hypergradient="reverse")
    rows = {"float32": {}, "float32, compiled": {"compile": True}}
    if precision is not None:
        rows |= {"bf16": {"autocast": precision}, "bf16, compiled": {"autocast": precision, "compile": True}}
    found = {
        f"hypergradient in {name}": relative_error(meta_gradient(*where, torch.float32, **options), exact)
        for name, options in rows.items()
        if compile or "compile" not in options
    }
    plain = training_gradient(*where, torch.float64)
    for name, autocast in (("float32", None), ("bf16", precision)):
        if name == "float32" or autocast is not None:
            gradient = training_gradient(*where, torch.float32, autocast)
            found[f"plain training gradient in {name}"] = relative_error(gradient, plain)
    return found


def matrix_rate(device: str, size: int, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product: the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def measure(way: Contender, args: argparse.Namespace, batch: int) -> dict[str, float]:
    """Seconds, operations and peak memory of an iteration."""
    bench = Bench.build(args.network, batch, args.device)
    if args.channels_last:
        for module in (bench.network, bench.generator):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = way.whole_cycle(bench)
    cuda = args.device.startswith("cuda")
    before = torch.cuda.memory_allocated() if cuda else 0
    for _ in range(3):  # caches, compilation
        run()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median([timed(run, args.device) for _ in range(args.repeats)]) / way.cycle
    peak = torch.cuda.max_memory_allocated() - before if cuda else 0
    return {"seconds": seconds, "peak": float(peak)}


def main() -> None:
    args = parse()
    with tensor_float32(True):
        report(args)


def report(args: argparse.Namespace) -> None:
    """Errors, then the tables."""
    cuda = args.device.startswith("cuda")
    precision = None if args.float32 else torch.bfloat16
    place = torch.cuda.get_device_name() if cuda else "CPU"
    print(f"{args.network}, {place}, torch {torch.__version__}")
    for name, error in errors(args.network, args.device, precision, args.compile).items():
        print(f"{name:<34} differs from float64 by {error:.1e}")
    rate = matrix_rate(args.device, args.matrix, torch.bfloat16)
    print(f"matrix rate in bf16: {rate / 1e12:.3g} TFLOP/s")
    for batch in args.batch:
        rows = []
        base = None
        for name, way in {**ways(precision, args.compile), **yardsticks()}.items():
            found = measure(way, args, batch)
            eager = {**ways(precision, False), **yardsticks()}[name]
            share = operations(eager, Bench.build(args.network, batch, args.device)) / found["seconds"] / rate
            base = base or found["seconds"]
            images = batch / found["seconds"]
            rows.append(
                [
                    name,
                    f"{1000 * found['seconds']:.2f}",
                    f"{found['seconds'] / base:.2f}",
                    f"{images:.0f}",
                    f"{100 * share:.1f}",
                    f"{found['peak'] / 2**20:.0f}" if cuda else "-",
                    f"{EPOCHS * IMAGES / images / 3600:.2f}",
                ]
            )
            print(f"batch {batch}: {name} done", flush=True)
        head = ("batch " + str(batch), "ms", "x single", "images/s", "% of rate", "peak MB", "hours")
        print(render_rows(head, rows), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=SHAPES, default="vgg16")
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices of the rate")
    parser.add_argument("--float32", action="store_true", help="float32 (TF32 products) instead of bf16")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="a tiny network, eager, few repeats")
    args = parser.parse_args()
    if args.quick:
        args.network, args.batch, args.repeats, args.matrix, args.compile = "tiny", [8], 2, 256, False
    return args


if __name__ == "__main__":
    main()
