"""How a command is typed where the user stands."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from maxl.experiments.runs.launch import launched

_ROOT = Path(__file__).resolve().parents[4]  # of a clone, where this is one


def command_line(words: Sequence[str]) -> str:
    """A command of this program that works when it is typed here.

    Args:
        words: The command and its arguments.

    Returns:
        ``uv run maxl WORDS`` where uv started this in a clone, ``maxl WORDS`` where that is on the path, and else the
        interpreter's own path with ``-m maxl``; with torchrun before it where that has started this.
    """
    start = _start()
    if launched() > 1:
        start = [*start[:-1] * (start[0] == "uv"), "torchrun", f"--nproc-per-node={launched()}", "-m", "maxl"]
    return shlex.join([*start, *words])


def as_typed_here(message: str) -> str:
    """A message of the package with the commands that it tells to call as they are typed here."""
    words = _start()
    start = shlex.join(words)
    if words[0] == "uv":  # a clone has an environment of its own
        extra = shlex.join([*words[:2], "--extra", "NAME", *words[2:], "..."])
        message = re.sub(
            r'pip install "maxl-torch\[(\w+)\]"', lambda found: extra.replace("NAME", found[1]), message
        )
    return re.sub(r"\b(with|call) maxl (?=[a-z])", lambda found: f"{found[1]} {start} ", message)


def _start() -> list[str]:
    if ("UV_RUN_RECURSION_DEPTH" in os.environ or "UV" in os.environ) and _is_clone(_ROOT):
        here = Path.cwd().resolve()
        inside = here == _ROOT or _ROOT in here.parents
        return ["uv", "run", *([] if inside else ["--project", str(_ROOT)]), "maxl"]
    import shutil  # not above: --help does not wait for it

    found = shutil.which("maxl")
    if found is not None and Path(found).resolve().parent == Path(sys.executable).parent.resolve():
        return ["maxl"]
    return [sys.executable, "-m", "maxl"]


def _is_clone(root: Path) -> bool:
    project = root / "pyproject.toml"
    return (
        (root / "src" / "maxl").is_dir()
        and project.is_file()
        and 'name = "maxl-torch"' in project.read_text("utf-8")
    )
