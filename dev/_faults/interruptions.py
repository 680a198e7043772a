"""Training and studies that are killed, and processes that begin at the same time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _faults.commands import EPOCHS, METHODS, TINY, Command, Outcome, run, train, what_counts


def kills(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Training that is killed at random moments, up to three times, and resumed: the same to the last bit."""
    signals = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    for method in METHODS:
        whole = work / "whole" / method
        start = time.monotonic()
        assert train(method, whole).code == 0
        needed, good = time.monotonic() - start, what_counts(whole)
        for case in range(cases):
            out = work / f"{method} {case}"
            name, flags = method.split()[0], METHODS[method]
            begin = ["train", *TINY, "--epochs", EPOCHS, "--method", name, *flags, "--out", out]
            for _ in range(chance.randint(1, 3)):
                command = Command(*(["train", "--resume", out] if (out / "config.yaml").exists() else begin))
                time.sleep(chance.uniform(0.02, needed))
                command.kill(chance.choice(signals))
                command.end()
            if not (out / "summary.json").exists():
                result = run(*(["train", "--resume", out] if (out / "config.yaml").exists() else begin))
                if result.code != 0:
                    yield "wrong", f"{out.name}: {result.told()}"
                    continue
            same = what_counts(out) == good
            yield ("right", "") if same else ("wrong", f"{out.name}: another result")


def studies(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """A study that is killed, alone or with its workers, and called again at once; a worker that is killed."""
    seeds = (0, 1) if cases > 1 else (0,)
    flags = [*TINY, "--epochs", 60, "--methods", "single", "maxl", "--seeds", *seeds, "--jobs", 2, "--out"]
    for method in ("single", "maxl"):
        for seed in seeds:
            out = work / "whole" / "runs" / method / f"seed{seed}"
            assert train(method, out, "--seed", seed, "--epochs", 60).code == 0
    good = _study_counts(work / "whole")
    ways = ["kill", "kill a worker", "interrupt", "kill all", "terminate"]
    for case in range(cases):
        out, way = work / f"study {case}", ways[case % len(ways)]
        process = _study(flags, out)
        while process.poll() is None and not list(out.rglob("metrics.jsonl")):
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 3))
        if way == "kill a worker":
            while process.poll() is None and not (found := _workers(process.pid)):
                time.sleep(0.05)
            if process.poll() is None:
                os.kill(found[0], signal.SIGKILL)
        elif process.poll() is None:
            number = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT}.get(way, signal.SIGKILL)
            (os.killpg if way in ("kill all", "interrupt") else os.kill)(process.pid, number)
        ended = process.wait()
        expected = {"kill a worker": 0, "terminate": 143, "interrupt": 130}.get(way, -signal.SIGKILL)
        again = _study(flags, out)
        code = again.wait()
        left = _alive(process.pid) + _alive(again.pid)
        if ended not in (expected, 0) or code != 0 or left or _study_counts(out) != good:
            yield "wrong", f"{way}: exits {ended} and {code}, processes left: {left}"
        else:
            yield "right", ""


def _study(flags: list[Any], out: Path) -> Any:
    code = (
        "import os, sys, maxl.experiments.report as report; "
        "report.write_report = lambda out: out; "  # takes a while
        "os.cpu_count = lambda: 2; "  # one thread a run, whose sums are in one order
        "from maxl.experiments.cli import main; sys.exit(main())"
    )
    line = [sys.executable, "-c", code, "compare", *map(str, flags), str(out)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(line, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def _study_counts(out: Path) -> Any:
    folders = sorted(file.parent for file in out.rglob("config.yaml"))
    return [(str(f.relative_to(out)), what_counts(f)) for f in folders if (f / "summary.json").exists()]


def _workers(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [int(r[0]) for r in rows if int(r[1]) == parent and "spawn_main" in r[-1]]


def _alive(group: int) -> list[str]:
    """The processes of a session that this script started and that are still there two seconds later."""
    for _ in range(20):
        listed = subprocess.run(
            ["ps", "-wweo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        left = [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]
        if not left:
            break
        time.sleep(0.1)
    return left


def together(work: Path, cases: int, chance: random.Random) -> Iterator[Outcome]:
    """Two that train, resume or compare in one folder at once: one does, the other is refused."""
    begin = ["train", *TINY, "--epochs", 12, "--method", "maxl", "--out"]
    for case in range(cases):
        out, kind = work / f"folder {case}", ("train", "resume", "compare")[case % 3]
        line: list[Any] = [*begin, out]
        if kind == "resume":
            first = Command(*line)
            while not (out / "checkpoint" / "state.pt").exists():
                time.sleep(0.01)
            first.kill(signal.SIGKILL)
            first.end()
            line = ["train", "--resume", out]
        if kind == "compare":
            line = [
                "compare",
                *TINY,
                "--epochs",
                3,
                "--methods",
                "single",
                "--seeds",
                0,
                "--jobs",
                1,
                "--out",
                out,
            ]
            processes = [_study(line[1:-1], out) for _ in range(2)]
            codes = sorted(process.wait() for process in processes)
            folders = [out / "runs" / "single" / "seed0"]
        else:
            commands = [Command(*line)]
            time.sleep(chance.choice([0.0, 0.0, chance.uniform(0, 0.3)]))
            commands.append(Command(*line))
            results = [command.end() for command in commands]
            codes = sorted(result.code if result.refused or result.code == 0 else 1 for result in results)
            folders = [out]
        rows = [
            json.loads(r)["epoch"] for f in folders for r in (f / "metrics.jsonl").read_text().splitlines()
        ]
        whole = rows == list(range(1, (3 if kind == "compare" else 12) + 1))
        # One that comes when the other has ended finds a finished study, which it takes as it is.
        fine = whole and (codes == [0, 2] or (kind == "compare" and codes == [0, 0]))
        yield ("right", "") if fine else ("wrong", f"{kind}: exits {codes}, epochs {rows}")
