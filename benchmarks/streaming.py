"""What a run on data that stay on disk takes in memory and time, beside the same run on the same data in memory.

A data set of uncompressed images or of columns of numbers is written as parquet files, trained on with and without
``--stream`` by ``maxl train`` in fresh processes that take turns, and removed. Memory is the largest sum, over the process
and its children, of what is resident (``VmRSS`` of ``/proc/PID/status``, Linux, looked at fifty times a second), and of that
what is theirs alone (``RssAnon`` and ``RssShmem``), without the code of programs and libraries. Time is that of training steps, without
opening the data and looks at the test part, which ``whole`` includes.

    python benchmarks/streaming.py [--size 64MB] [--kind images|numbers] [--side 64] [--trunk convnet4] [--epochs 1]
                                   [--workers 2] [--rounds 1] [--folder DIR] [--only stream|memory]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
SHARD = 128 * 10**6  # bytes of a file
CLASSES, WIDTH = 10, 1024


def bytes_of(text: str) -> int:
    """64MB as a number of bytes."""
    return int(float(text[:-2]) * UNITS[text[-2:].upper()])


def image_table(count: int, side: int, random: np.random.Generator) -> pa.Table:
    """Images of noise, brighter by class, as BMP files, which are not compressed."""
    labels = random.integers(CLASSES, size=count)
    files = []
    for label in labels:
        pixels = random.integers(0, 156 + 10 * label, (side, side, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="bmp")
        files.append({"bytes": stream.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"image": pa.array(files, type=kind), "label": labels})


def number_table(count: int, side: int, random: np.random.Generator) -> pa.Table:
    """Normal numbers, shifted by class."""
    labels = random.integers(CLASSES, size=count)
    values = random.standard_normal((count, WIDTH), dtype=np.float32) + 0.1 * labels[:, None].astype(
        np.float32
    )
    return pa.table({f"f{i}": values[:, i] for i in range(WIDTH)} | {"label": labels})


def write(folder: Path, size: int, kind: str, side: int) -> int:
    """Training files of so many bytes, and a tenth of that to test on; returns what they take on the disk."""
    make, one = (image_table, 3 * side**2) if kind == "images" else (number_table, 4 * WIDTH)
    for part, total in (("train", size), ("test", size // 10)):
        shards = max(1, round(total / SHARD))
        for i in range(shards):
            table = make(
                max(CLASSES * 10, total // shards // one), side, np.random.default_rng([i, part == "test"])
            )
            file = folder / f"{part}-{i:05}-of-{shards:05}.parquet"
            parquet.write_table(table, file, compression="none", use_dictionary=False, row_group_size=10_000)
    return sum(file.stat().st_size for file in folder.iterdir())


def memory(process: int) -> tuple[int, int]:
    """Bytes of a process and its children that are resident, and those that are theirs alone, now."""
    resident = own = 0
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        sizes = {
            line.split(":")[0]: 1024 * int(line.split()[1])
            for line in lines
            if line.startswith(("VmRSS", "Rss"))
        }
        resident, own = sizes.get("VmRSS", 0), sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                more = memory(int(child))
                resident, own = resident + more[0], own + more[1]
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        pass
    return resident, own


def run(data: Path, out: Path, flags: list[str]) -> dict[str, float]:
    """Trains once: bytes at the peaks, seconds of a step, and of all."""
    command = [sys.executable, "-m", "maxl", "train", "-q", "--data", str(data), "--out", str(out), *flags]
    start, peak, own = time.perf_counter(), 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            now = memory(process.pid)
            peak, own = max(peak, now[0]), max(own, now[1])
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    summary = json.loads((out / "summary.json").read_text())
    return {
        "peak": peak,
        "own": own,
        "step": summary["seconds_per_step"],
        "whole": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="64MB")
    parser.add_argument("--kind", choices=("images", "numbers"), default="images")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--method", default="single")
    parser.add_argument("--trunk", default="convnet4")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where the data set is written (default: among temporary files)"
    )
    parser.add_argument("--only", choices=("stream", "memory"))
    arguments = parser.parse_args()

    shared = ["--method", arguments.method, "--trunk", arguments.trunk, "--epochs", str(arguments.epochs)]
    shared += ["--device", "cpu", "--no-tensorboard"]
    ways = {"memory": shared, "stream": [*shared, "--stream", "--workers", str(arguments.workers)]}
    ways = {name: flags for name, flags in ways.items() if arguments.only in (None, name)}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        data = Path(folder, "data")
        data.mkdir()
        size = write(data, bytes_of(arguments.size), arguments.kind, arguments.side)
        print(f"{size / 1e9:.2f} GB of {arguments.kind} in {len([*data.iterdir()])} parquet files")
        for i in range(arguments.rounds):
            for name, flags in ways.items():
                rounds[name].append(run(data, Path(folder, f"{name}{i}"), flags))
    for name, found in rounds.items():
        step, whole = (statistics.median(one[key] for one in found) for key in ("step", "whole"))
        peak, own = (max(one[key] for one in found) for key in ("peak", "own"))
        print(
            f"{name:7} resident {peak / 1e9:6.2f} GB, of its own {own / 1e9:6.2f} GB   step {1000 * step:8.2f} ms   whole {whole:8.1f} s"
        )
    if len(rounds) == 2:
        ratios = [m["step"] / s["step"] for m, s in zip(rounds["memory"], rounds["stream"], strict=True)]
        less = max(m["peak"] for m in rounds["memory"]) / max(s["peak"] for s in rounds["stream"])
        print(f"streamed: {statistics.median(ratios):.0%} of the speed in memory, 1/{less:.1f} of its memory")


if __name__ == "__main__":
    main()
