"""Linux, macOS and Windows: nothing that one of them lacks is needed, and what only one has is asked for first."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maxl.experiments.runs.files import write_at_once
from maxl.experiments.runs.machine import PeakMemory
from maxl.experiments.studies.variants import value_text
from maxl.worlds import SyncBatchNorm

ROOT = Path(__file__).parents[2]
FILES = sorted(file for name in ("src", "examples", "recipes") for file in (ROOT / name).rglob("*.py"))
UNIX_MODULES = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
UNIX_NAMES = {
    "os": {"chown", "fork", "forkpty", "getpgid", "getuid", "geteuid", "killpg", "nice", "statvfs", "uname"}
    | {"O_DIRECTORY", "mkfifo", "setsid", "sched_getaffinity", "wait", "waitid", "WNOHANG"},
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "pause", "setitimer", "sigwait"},
}


def unix_alone(source: str) -> Iterator[str]:
    """Modules and names in a file that Windows lacks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in UNIX_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in UNIX_MODULES:
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module in UNIX_NAMES:
            yield from (a.name for a in node.names if a.name in UNIX_NAMES[str(node.module)])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in UNIX_NAMES.get(node.value.id, set()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            words = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if node.func.attr in ("get_context", "set_start_method") and {"fork", "forkserver"} & set(words):
                yield f"{node.func.attr}({words[0]!r})"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_is_used_that_windows_lacks(file: Path) -> None:
    assert list(unix_alone(file.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import resource", ["resource"]),
        ("from fcntl import flock", ["fcntl"]),
        ("from signal import SIGINT, SIGKILL", ["SIGKILL"]),
        ("import os\nos.kill(1, 9)\nos.fork()", ["os.fork"]),
        (
            "import multiprocessing as m\nm.get_context('fork')\nm.get_context('spawn')",
            ["get_context('fork')"],
        ),
    ],
)
def test_what_windows_lacks_is_seen(source: str, found: list[str]) -> None:
    assert list(unix_alone(source)) == found


def test_what_talks_to_the_system_is_imported_without_unix_modules() -> None:
    """Others' modules come first, since they ask the system which of them to import."""
    program = f"""
import sys, filelock, torch
for name in {sorted(UNIX_MODULES)}:
    sys.modules[name] = None  # importing it is an ImportError from here on
import maxl.worlds
from maxl.experiments.runs import files, lock, machine, memory, signals
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_is_written_where_folders_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / "file", os.open

    def no_folders(name: str | Path, *rest: int) -> int:
        if os.path.isdir(name):
            raise PermissionError(13, "Permission denied", str(name))
        return opened(name, *rest)

    monkeypatch.setattr(os, "open", no_folders)
    monkeypatch.setattr(os, "name", "nt")
    write_at_once(path, b"content")
    monkeypatch.undo()
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_where_the_system_does_not_tell_memory_is_unknown(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert PeakMemory(torch.device("cpu")).read() is None


def test_a_value_becomes_a_name_that_any_file_system_takes() -> None:
    text = value_text('a/b\\c:d*e?f"g<h>i|j%k')
    assert not set(text) & set('/\\:*?"<>|')
    assert value_text("a*b") != value_text("a%2Ab")


def test_synchronised_batch_norm_is_batch_norm_where_pytorch_has_no_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A PyTorch built without them has ``is_available`` alone."""
    x = torch.randn(4, 3)
    expected = torch.nn.BatchNorm1d(3)(x)
    layer = SyncBatchNorm(3)
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.delattr(dist, "is_initialized")
    assert torch.equal(layer(x), expected)
