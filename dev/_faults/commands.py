"""Commands in forked children of a process that has imported everything, and what they leave."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxl.experiments.cli import main as maxl

Outcome = tuple[str, str]  # right, refused or wrong, and what was seen
TINY = [
    "--data",
    "digits",
    "--train-size",
    "60",
    "--trunk",
    "mlp",
    "--batch-size",
    "30",
    "--device",
    "cpu",
    "--no-tensorboard",
]
EPOCHS = 4
METHODS = {
    "single": [],
    "random": [],
    "kmeans": [],
    "frozen": ["--trunk", "convnet4"],
    "maxl": [],
    "maxl next": ["--evaluate", "next", "--trunk", "convnet4", "--checkpoint-every", "3"],
    "maxl cached": ["--cache-labels", "--meta-every", "2"],
    "maxl epochs": ["--schedule", "epochs", "--lookahead", "virtual", "--optimizer", "sgd"],
    "weighted": [],
    "gated": ["--evaluate", "next"],
}


@dataclass
class Result:
    """How a command ended; ``code`` is minus the signal, or None where it had to be stopped."""

    code: int | None
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Whether it ended with exit code 2, a sentence, and nothing that looks like a traceback."""
        errors = [line for line in self.err.splitlines() if line.startswith("maxl: error: ")]
        return self.code == 2 and len(errors) == 1 and "Traceback" not in self.err

    def told(self) -> str:
        """Its end in a few words."""
        return f"exit {self.code}: {' '.join(self.err.split())[-200:]}"


class Command:
    """``maxl`` in a forked child, begun when it is made."""

    def __init__(
        self, *arguments: object, before: Callable[[], object] = lambda: None, cwd: Path | None = None
    ) -> None:
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115  # closed by end
        self._start = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run([str(a) for a in arguments], before, cwd)

    def _run(self, arguments: list[str], before: Callable[[], object], cwd: Path | None) -> None:
        code = 1
        try:
            for number, file in zip((1, 2), self._files, strict=True):
                os.dup2(file.fileno(), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(cwd or Path.cwd())
            before()
            code = maxl(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def kill(self, number: int) -> None:
        """Sends a signal, unless the command has ended."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(self.pid, number)

    def end(self, limit: float = 60.0) -> Result:
        """Waits for it."""
        code: int | None = None
        while time.monotonic() - self._start < limit:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.005)
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return Result(code, *texts)


def run(*arguments: object, **options: Any) -> Result:
    """A command, and its end."""
    return Command(*arguments, **options).end()


def train(method: str, out: Path, *more: object, **options: Any) -> Result:
    """``maxl train`` of a small run."""
    name = method.split()[0]
    flags = [*TINY, "--epochs", EPOCHS, "--method", name, *METHODS.get(method, []), "--out", out, *more]
    return run("train", *flags, **options)


def what_counts(folder: Path) -> Any:
    """All that two equal runs share: model, metrics and summary, without times and memory."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("seconds_per_step", "seconds_total", "peak_memory_bytes", "checksums", "checksum"):
        summary.pop(name, None)
    plain = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return (folder / "model.safetensors").read_bytes(), plain, summary


def judge(result: Result, same: Callable[[], bool]) -> Outcome:
    """The outcome of a command that should give what an undisturbed one gives, or refuse."""
    if result.code == 0:
        return ("right", "") if same() else ("wrong", "another result, without a word")
    return ("refused" if result.refused else "wrong", result.told())


def stop_after(epoch: int) -> Callable[[], None]:
    """Makes a child die when the checkpoint of an epoch is written."""

    def install() -> None:
        trainer = importlib.import_module("maxl.experiments.runs.trainer")
        save = trainer.save_checkpoint

        def dying(folder: Any, state: Any) -> None:
            save(folder, state)
            if state["epoch"] == epoch:
                os._exit(9)

        trainer.save_checkpoint = dying

    return install
